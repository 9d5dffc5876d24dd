//! Making a process in namespaces of its own.
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::process::Pid;

use crate::capability::last_errno;

/// What a new process is born into.
#[derive(Debug, Clone, Copy)]
pub struct CloneRequest<'fd> {
    /// `CLONE_NEW*` bits.
    pub namespaces: u64,
    /// Whose child it is.
    pub parent: Parent,
    /// Version 2 control group (an open directory) that it is born in.
    pub cgroup: Option<BorrowedFd<'fd>>,
}

/// Whose child a new process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// The caller's.
    Caller,
    /// The caller's parent's (`CLONE_PARENT`).
    Grandparent,
}

/// Which side of a clone this is.
#[derive(Debug)]
pub enum Cloned {
    /// The process that was there before.
    Before {
        /// The new process, in the caller's numbering.
        pid: Pid,
        /// A handle on it.
        pidfd: OwnedFd,
    },
    /// The new process.
    New,
}

/// `CLONE_NEWUSER`
pub const NEW_USER: u64 = 0x1000_0000;
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const SIGCHLD: u64 = 17;

/// `struct clone_args` as of Linux 5.7 (include/uapi/linux/sched.h).
#[repr(C)]
#[derive(Debug, Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}
const _: () = assert!(size_of::<CloneArgs>() == 88, "CLONE_ARGS_SIZE_VER2");

/// `clone3(&args, sizeof(args))`
///
/// A copy of the calling process in new namespaces. Only for processes that have, and ever had, one thread: the copy
/// has every lock as it was.
///
/// # Errors
///
/// - `EAGAIN`: a limit on processes.
/// - `ENOSPC`: a limit on namespaces (`/proc/sys/user/max_*_namespaces`).
/// - `EPERM`: no right to make a namespace.
/// - `EBADF`: the control group is of version 1.
///
/// Source: clone3(2).
pub fn clone_process(request: &CloneRequest<'_>) -> Result<Cloned, Errno> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs { flags: request.namespaces | CLONE_PIDFD, ..CloneArgs::default() };
    args.pidfd = (&raw mut pidfd).addr() as u64;
    match request.parent {
        // With CLONE_PARENT the exit signal is the caller's own.
        Parent::Grandparent => args.flags |= CLONE_PARENT,
        Parent::Caller => args.exit_signal = SIGCHLD,
    }
    if let Some(cgroup) = request.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(|_| Errno::BADF)?;
    }
    // SAFETY: the arguments have the kernel's layout and size; no stack and no shared memory is asked for, so the new
    // process is a copy as after fork(2), and the caller promises a single thread; `pidfd` outlives the call.
    let ret = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    if ret < 0 {
        return Err(last_errno());
    }
    if ret == 0 {
        return Ok(Cloned::New);
    }
    let pid = i32::try_from(ret).ok().and_then(Pid::from_raw).ok_or(Errno::RANGE)?;
    // SAFETY: the call succeeded and wrote a new descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Cloned::Before { pid, pidfd })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fork::exit_now;
    use rustix::process::{WaitOptions, waitpid};

    #[test]
    fn a_clone_runs_and_its_handle_is_its_own() {
        let request = CloneRequest { namespaces: 0, parent: Parent::Caller, cgroup: None };
        let Cloned::Before { pid, pidfd } = clone_process(&request).unwrap() else { exit_now(9) };
        let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(9));
        assert!(rustix::io::fcntl_getfd(&pidfd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }
}
