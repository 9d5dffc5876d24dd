//! The least priority for a thread: processor and disk when nobody else wants them.
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use rustix::io::Errno;

use crate::capability::last_errno;

/// `IOPRIO_WHO_PROCESS` with 0: the calling thread.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
/// `IOPRIO_CLASS_IDLE` in the upper bits (`IOPRIO_CLASS_SHIFT` is 13).
const IDLE: libc::c_int = 3 << 13;

/// `ioprio_set(IOPRIO_WHO_PROCESS, 0, IOPRIO_CLASS_IDLE)` and `setpriority(PRIO_PROCESS, 0, 19)`
///
/// For the calling thread alone, and for good: a thread cannot raise itself again without privilege. A disk's
/// scheduler that knows no classes ignores the first.
///
/// # Errors
///
/// - `EPERM`, `ENOSYS`: a system call filter does not allow it.
///
/// Source: ioprio_set(2), setpriority(2) ("the nice value is a per-thread attribute" under Linux).
pub fn make_this_thread_idle() -> Result<(), Errno> {
    rustix::process::setpriority_process(None, 19)?;
    // SAFETY: the call takes three integers and reads or writes no memory of ours.
    let ret = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IDLE) };
    if ret == 0 { Ok(()) } else { Err(last_errno()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_thread_that_asks_becomes_idle() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let after = std::thread::spawn(move || {
            make_this_thread_idle().unwrap();
            // SAFETY: the call takes two integers and reads or writes no memory of ours.
            let class = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) };
            (nice(), class)
        });
        assert_eq!(after.join().unwrap(), (19, libc::c_long::from(IDLE)));
        assert_eq!(nice(), before);
    }
}
