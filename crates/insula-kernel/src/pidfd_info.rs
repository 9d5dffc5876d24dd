//! How a process that is not our child ended, asked of its pidfd.
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use crate::capability::last_errno;

/// `struct pidfd_info` up to the size that kernels know since 6.13 (`PIDFD_INFO_SIZE_VER0`).
#[repr(C)]
#[derive(Debug, Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}
const _: () = assert!(size_of::<Info>() == 64, "include/uapi/linux/pidfd.h");

/// `PIDFD_GET_INFO`: `_IOWR(0xff, 11, struct pidfd_info)`.
const GET_INFO: libc::c_ulong = 3 << 30 | (size_of::<Info>() as libc::c_ulong) << 16 | 0xff << 8 | 11;

/// `PIDFD_INFO_EXIT`.
const EXIT: u64 = 1 << 3;

/// What a pidfd says about the end of its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessEnd {
    /// It ended and was reaped; the status is as from `waitpid`.
    Ended(i32),
    /// It runs, or nobody reaped it yet: then the pidfd reports a hang-up when somebody did.
    NotYet,
    /// It ended, and this kernel (before 6.15) does not remember how; or nobody had a pidfd open when it was reaped.
    Forgotten,
}

/// `ioctl(pidfd, PIDFD_GET_INFO, {PIDFD_INFO_EXIT})`
///
/// # Errors
///
/// - `EBADF`: no pidfd.
///
/// Source: include/uapi/linux/pidfd.h; `PIDFD_INFO_EXIT` is in Linux 6.15.
pub fn process_end(pidfd: impl AsFd) -> Result<ProcessEnd, Errno> {
    let mut info = Info { mask: EXIT, ..Info::default() };
    // SAFETY: the value is a live `struct pidfd_info` of the size that the request's number names.
    let ret = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), GET_INFO, &raw mut info) };
    if ret == 0 {
        return Ok(if info.mask & EXIT != 0 { ProcessEnd::Ended(info.exit_code) } else { ProcessEnd::NotYet });
    }
    match last_errno() {
        // No such process (any more), and kernels that do not know the request.
        Errno::SRCH | Errno::NOTTY | Errno::INVAL => Ok(ProcessEnd::Forgotten),
        errno => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fork::{Fork, exit_now, fork};
    use rustix::process::{PidfdFlags, WaitOptions, pidfd_open, waitpid};

    #[test]
    fn a_reaped_process_is_remembered_by_its_pidfd() {
        let Fork::Parent(child) = fork().unwrap() else { exit_now(7) };
        let pidfd = pidfd_open(child, PidfdFlags::empty()).unwrap();
        waitpid(Some(child), WaitOptions::empty()).unwrap();
        // Kernels before 6.15 cannot know.
        let end = process_end(&pidfd).unwrap();
        assert!(matches!(end, ProcessEnd::Ended(0x700) | ProcessEnd::Forgotten), "{end:?}");
        let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
        assert!(matches!(process_end(&own).unwrap(), ProcessEnd::NotYet | ProcessEnd::Forgotten));
    }
}
