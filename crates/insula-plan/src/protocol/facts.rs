//! Facts: small files in the run directory, written by whoever knows, read by whoever comes later.
//!
//! A fact is written beside its name and renamed over it, so it is there whole or not at all. The exit fact is the
//! exception: process 1 has only a descriptor of it and writes it with one call; a fact that cannot be read is
//! treated as not yet written.

use std::io::Read;
use std::path::{Path, PathBuf};

use minicbor::{Decode, Encode};

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
