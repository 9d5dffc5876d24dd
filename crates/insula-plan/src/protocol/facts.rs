//! Facts: small files in the run directory, written by whoever knows, read by whoever comes later.
//!
//! A fact is written beside its name and renamed over it, so it is there whole or not at all. The exit fact is the
//! exception: process 1 has only a descriptor of it and writes it with one call; a fact that cannot be read is
//! treated as not yet written.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use minicbor::{Decode, Encode};
use rustix::process::{Pid, PidfdFlags};

use super::channel;
use super::status::{End, ExitStatus, WallTime};

/// Longest fact, in bytes.
pub const FACT_BYTES_MAX: u64 = 64 * 1024;

/// A process for ever: numbers are used again, but not with the same start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(map)]
pub struct ProcessIdentity {
    /// Its number on the host.
    #[n(0)]
    pub pid: u32,
    /// Its start in clock ticks since boot (field 22 of `/proc/PID/stat`).
    #[n(1)]
    pub start_ticks: u64,
}

/// Where in `/proc/PID/stat` the start time is, counted from the state that follows the name's closing parenthesis.
const START_FIELD: usize = 19;
/// Position of the exit code among the fields behind the name: field 52 of all.
const EXIT_CODE_FIELD: usize = 49;

impl ProcessIdentity {
    /// The identity of a process that exists (zombies do).
    #[must_use]
    pub fn of(pid: Pid) -> Option<Self> {
        let number = u32::try_from(pid.as_raw_nonzero().get()).ok()?;
        let text = std::fs::read(format!("/proc/{number}/stat")).ok()?;
        start_ticks(&text).map(|start_ticks| Self { pid: number, start_ticks })
    }

    /// A handle on the process, if it still is that one.
    #[must_use]
    pub fn open(self) -> Option<(Pid, OwnedFd)> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Checked after the handle was opened: until then the number could have changed hands.
        (Self::of(pid) == Some(self)).then_some((pid, pidfd))
    }

    /// How it ended, if it did and whoever is its parent has not reaped it. For a reader with the right to trace it.
    #[must_use]
    pub fn zombie_status(self) -> Option<ExitStatus> {
        let text = std::fs::read(format!("/proc/{}/stat", self.pid)).ok()?;
        (start_ticks(&text) == Some(self.start_ticks)).then(|| zombie_status(&text)).flatten()
    }
}

fn start_ticks(stat: &[u8]) -> Option<u64> {
    field(stat, START_FIELD)?.parse().ok()
}

/// How a process ended that nobody has reaped yet.
fn zombie_status(stat: &[u8]) -> Option<ExitStatus> {
    let status = field(stat, EXIT_CODE_FIELD)?.parse().ok()?;
    matches!(field(stat, 0)?, "Z" | "X").then(|| ExitStatus::from_raw_wait(status)).flatten()
}

/// A field behind the name. The name may hold anything, also parentheses and spaces: the last closing one ends it.
fn field(stat: &[u8], number: usize) -> Option<&str> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let fields = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    fields.split_ascii_whitespace().nth(number)
}

/// Who a container's process 1 is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct StartedFact {
    /// The process.
    #[n(0)]
    pub process: ProcessIdentity,
    /// When it was started.
    #[n(1)]
    pub at: WallTime,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct EndedFact {
    /// How; `None` when nobody could see it, with the reason beside it.
    #[n(0)]
    pub status: Option<ExitStatus>,
    /// When it was seen.
    #[n(1)]
    pub at: WallTime,
    /// Why the status is unknown.
    #[n(2)]
    pub unknown_because: Option<String>,
}

/// How the guest services are started again, also by a launcher that knows nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct GuestFact {
    /// The host's user and group id that they run under; nobody else's.
    #[n(0)]
    pub id: u32,
}

impl EndedFact {
    /// From what process 1 wrote.
    #[must_use]
    pub fn known(end: End) -> Self {
        Self { status: Some(end.status), at: end.at, unknown_because: None }
    }
}

/// A fact that could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("fact {}", path.display())]
pub struct FactError {
    /// Its file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub cause: std::io::Error,
}

/// Writes a fact: whole, or not at all. The directory must exist. One writer per fact.
///
/// # Errors
///
/// The directory is gone, or the file system full.
pub fn write<F: Encode<()>>(path: &Path, fact: &F) -> Result<(), FactError> {
    let wrap = |cause| FactError { path: path.to_owned(), cause };
    let beside = path.with_extension("new");
    std::fs::write(&beside, channel::encode(fact)).map_err(wrap)?;
    std::fs::rename(&beside, path).map_err(wrap)
}

/// Removes a fact; one that is not there is no error.
///
/// # Errors
///
/// It is there and cannot be removed.
pub fn remove(path: &Path) -> Result<(), FactError> {
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => Err(FactError { path: path.to_owned(), cause }),
        _ => Ok(()),
    }
}

/// Reads a fact; `None` when it was not written, or not to its end.
///
/// # Errors
///
/// The file is there but cannot be read.
pub fn read<F>(path: &Path) -> Result<Option<F>, FactError>
where
    F: for<'b> Decode<'b, ()>,
{
    let wrap = |cause| FactError { path: path.to_owned(), cause };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrap(error)),
    };
    let mut bytes = Vec::new();
    file.take(FACT_BYTES_MAX).read_to_end(&mut bytes).map_err(wrap)?;
    Ok(channel::decode(&bytes).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let stat = b"12 (a) b) (c) S 1 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 0 0";
        assert_eq!(start_ticks(stat), Some(987_654));
        assert_eq!(start_ticks(b""), None);
    }

    #[test]
    fn a_number_that_changed_hands_is_another_process() {
        let me = ProcessIdentity::of(rustix::process::getpid()).unwrap();
        assert!(me.open().is_some());
        assert!(ProcessIdentity { start_ticks: me.start_ticks + 1, ..me }.open().is_none());
    }

    #[test]
    fn a_fact_reads_back_and_a_torn_one_is_none() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("ended");
        assert_eq!(read::<EndedFact>(&path).unwrap(), None);
        let fact = EndedFact::known(End { status: ExitStatus::Signaled(9), at: WallTime(5) });
        write(&path, &fact).unwrap();
        assert_eq!(read::<EndedFact>(&path).unwrap(), Some(fact));
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(read::<EndedFact>(&path).unwrap(), None);
    }
}
