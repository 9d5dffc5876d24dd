//! One program at a time changes a store.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// The store's lock, held until dropped; the kernel gives it back when the program dies.
#[derive(Debug)]
pub(super) struct StoreLock(#[expect(dead_code, reason = "held, not used: closing it unlocks")] File);

/// Why the lock could not be had.
#[derive(Debug)]
pub(super) enum LockError {
    /// Another program has it; its process id and name as it wrote them.
    Held { holder: String },
    /// The lock file could not be opened, locked or written.
    Io(io::Error),
}

/// Most bytes of the holder's line that are shown.
const HOLDER_BYTES_MAX: u64 = 128;

impl StoreLock {
    /// `open(path, O_RDWR | O_CREAT)` and `flock(LOCK_EX | LOCK_NB)`; then writes who holds it.
    pub(super) fn take(path: &Path) -> Result<Self, LockError> {
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let mut file = opened.map_err(LockError::Io)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(LockError::Held { holder: read_holder(&file) }),
            Err(error) => return Err(LockError::Io(error.into())),
        }
        write_holder(&mut file).map_err(LockError::Io)?;
        Ok(Self(file))
    }
}

fn write_holder(file: &mut File) -> io::Result<()> {
    let name = std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "process {} ({})", std::process::id(), name.trim_end())
}

fn read_holder(file: &File) -> String {
    let mut holder = Vec::new();
    match file.take(HOLDER_BYTES_MAX).read_to_end(&mut holder) {
        Ok(1..) => String::from_utf8_lossy(&holder).trim_end().escape_debug().to_string(),
        // Between its lock and its line.
        _ => "a process that has just started".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_taker_is_refused_with_the_holders_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = StoreLock::take(&path).unwrap();
        match StoreLock::take(&path) {
            Err(LockError::Held { holder }) => {
                assert!(holder.contains(&std::process::id().to_string()), "{holder}");
            }
            other => panic!("{other:?}"),
        }
        drop(held);
        StoreLock::take(&path).unwrap();
    }
}
