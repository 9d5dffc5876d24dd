//! Making a copy of this process, and leaving it without the manners of the C library.
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use rustix::io::Errno;
use rustix::process::Pid;

use crate::capability::last_errno;

/// Which side of a fork this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The process that was there before; its child has this number.
    Parent(Pid),
    /// The new process.
    Child,
}

/// `fork()`
///
/// Only for processes that have, and ever had, one thread: the child has a copy of every lock as it was. Descriptors
/// are shared with the child, whatever their owners here do with them.
///
/// # Errors
///
/// - `EAGAIN`: a limit on processes (`pids.max`, `RLIMIT_NPROC`).
/// - `ENOMEM`: no memory, or the pid namespace's process 1 is gone.
///
/// Source: fork(2).
pub fn fork() -> Result<Fork, Errno> {
    // SAFETY: the caller promises a single thread (see above), so that no lock and no half-changed data of another
    // thread is copied; the call itself takes nothing.
    match unsafe { libc::fork() } {
        0 => Ok(Fork::Child),
        number => Pid::from_raw(number).filter(|_| number > 0).map(Fork::Parent).ok_or_else(last_errno),
    }
}

/// `_exit(code)`
///
/// Ends a forked child at once: nothing of the parent's is flushed, dropped or unlinked a second time.
///
/// Source: _exit(2).
pub fn exit_now(code: u8) -> ! {
    // SAFETY: the call takes an integer and does not return.
    unsafe { libc::_exit(libc::c_int::from(code)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{WaitOptions, waitpid};

    #[test]
    fn a_child_runs_and_its_code_is_seen() {
        // The child only ends itself, which is safe in a process with more threads too.
        let Fork::Parent(child) = fork().unwrap() else { exit_now(7) };
        let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(7));
    }
}
