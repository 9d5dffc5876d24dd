//! Signal masks, dispositions, and signals as something to read.
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::Pid;

use crate::capability::last_errno;

/// Bytes of one `struct signalfd_siginfo`.
const SIGINFO_BYTES: usize = 128;
const _: () = assert!(size_of::<libc::signalfd_siginfo>() == SIGINFO_BYTES, "signalfd(2)");
const _: () = assert!(std::mem::offset_of!(libc::signalfd_siginfo, ssi_pid) == 12, "signalfd(2)");

/// Highest signal number.
const SIGNAL_MAX: u8 = 64;

/// Signals that a faulting instruction raises; blocked, the kernel kills the process at once.
const FAULTS: [libc::c_int; 6] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS];

/// A signal that was taken from a [`SignalFd`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakenSignal {
    /// Its number, 1 to 64.
    pub number: u8,
    /// Who sent it; of `SIGCHLD` the child. Of several that came before one was taken, the first one's.
    pub sender: Option<Pid>,
}

/// Blocked signals as a descriptor that is readable while one is pending.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// `sigprocmask(SIG_BLOCK, all but faults)` and `signalfd(-1, all but faults, SFD_CLOEXEC | SFD_NONBLOCK)`
    ///
    /// Signals of faulting instructions keep their effect. The calling thread is the process's only one.
    ///
    /// # Errors
    ///
    /// The process has no descriptor left.
    ///
    /// Source: signalfd(2), sigprocmask(2).
    pub fn block_all() -> Result<Self, Errno> {
        let set = all_but_faults();
        // SAFETY: the set was initialised by sigfillset; the old mask is not asked for.
        let ret = unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if ret != 0 {
            return Err(last_errno());
        }
        // SAFETY: the set is initialised and only read; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(last_errno());
        }
        // SAFETY: the call succeeded, so `fd` is open, new, and owned by nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// `read(fd, &info, sizeof(info))`
    ///
    /// `None` when none is pending.
    ///
    /// # Errors
    ///
    /// None are expected.
    ///
    /// Source: signalfd(2).
    pub fn take(&self) -> Result<Option<TakenSignal>, Errno> {
        let mut info = [0; SIGINFO_BYTES];
        match rustix::io::read(&self.0, &mut info) {
            // `ssi_signo` is the first member, a u32 of which only one byte can be used; `ssi_pid` is the fourth.
            Ok(_) => {
                let sender = i32::from_ne_bytes([info[12], info[13], info[14], info[15]]);
                Ok(Some(TakenSignal { number: info[0], sender: Pid::from_raw(sender).filter(|_| sender > 0) }))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for SignalFd {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

/// `rt_sigaction(n, SIG_DFL)` for every signal that can have another disposition
///
/// What is ignored stays ignored over exec, and a process of ours ignores `SIGPIPE`; programs expect none of that.
///
/// Source: sigaction(2), signal(7). Directly, because the C library does not let 32 and 33 be changed, and whoever
/// started this process may have had them ignored.
pub fn reset_dispositions() {
    for number in 1..=SIGNAL_MAX {
        let default = KernelAction::default();
        // SAFETY: the action has the kernel's layout and is the default one, which runs no code of ours; the old one
        // is not asked for. Numbers that cannot be changed (9, 19) give an error that changes nothing.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                libc::c_int::from(number),
                &raw const default,
                std::ptr::null_mut::<KernelAction>(),
                size_of::<u64>(),
            )
        };
    }
}

/// `struct sigaction` of the kernel on x86-64 and arm64 (include/linux/signal_types.h); all zero is `SIG_DFL`.
#[repr(C)]
#[derive(Debug, Default)]
struct KernelAction {
    handler: usize,
    flags: libc::c_ulong,
    restorer: usize,
    mask: u64,
}
const _: () = assert!(size_of::<KernelAction>() == 32, "include/linux/signal_types.h");

/// `sigprocmask(SIG_SETMASK, none)`
///
/// For a child about to run a program: the mask is inherited over exec.
///
/// # Errors
///
/// None are expected.
///
/// Source: sigprocmask(2).
pub fn unblock_all() -> Result<(), Errno> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset writes the whole set it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: sigemptyset initialised it and cannot fail on a valid pointer.
    let set = unsafe { set.assume_init() };
    // SAFETY: the set is initialised and only read; the old mask is not asked for.
    let ret = unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
    if ret == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Who a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipient {
    /// One process.
    Process(Pid),
    /// All processes of a group.
    Group(Pid),
    /// Every process that the caller may see and signal, without itself and the pid namespace's process 1.
    Everybody,
}

/// `kill(pid, number)`
///
/// Any number from 1 to 64, real-time signals too. A number of a process that is not the caller's own child may be
/// another's by now: use [`send_by_pidfd`] there.
///
/// # Errors
///
/// - `ESRCH`: nobody has this number.
/// - `EINVAL`: no such signal.
/// - `EPERM`: not allowed.
///
/// Source: kill(2).
pub fn send(recipient: Recipient, number: u8) -> Result<(), Errno> {
    let target = match recipient {
        Recipient::Process(pid) => pid.as_raw_nonzero().get(),
        Recipient::Group(pid) => -pid.as_raw_nonzero().get(),
        Recipient::Everybody => -1,
    };
    // SAFETY: the call takes integers and touches no memory of ours.
    let ret = unsafe { libc::kill(target, libc::c_int::from(number)) };
    if ret == 0 { Ok(()) } else { Err(last_errno()) }
}

/// `pidfd_send_signal(process, number, NULL, 0)`
///
/// # Errors
///
/// - `ESRCH`: the process ended.
/// - `EINVAL`: no such signal.
/// - `EPERM`: not allowed.
///
/// Source: `pidfd_send_signal(2)` (Linux 5.1).
pub fn send_by_pidfd(process: BorrowedFd<'_>, number: u8) -> Result<(), Errno> {
    // SAFETY: the call takes integers and a null pointer, which it accepts for "as kill(2) would".
    let ret = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            libc::c_int::from(number),
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if ret == 0 { Ok(()) } else { Err(last_errno()) }
}

fn all_but_faults() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigfillset writes the whole set it is given.
    unsafe { libc::sigfillset(set.as_mut_ptr()) };
    for fault in FAULTS {
        // SAFETY: sigfillset initialised the set, and the number is a signal's.
        unsafe { libc::sigdelset(set.as_mut_ptr(), fault) };
    }
    // SAFETY: sigfillset initialised it and cannot fail on a valid pointer.
    unsafe { set.assume_init() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_read_and_not_delivered() {
        std::thread::spawn(|| {
            let signals = SignalFd::block_all().unwrap();
            assert_eq!(signals.take().unwrap(), None);
            // SAFETY: the signal is blocked in this thread, so nothing runs.
            unsafe { libc::raise(libc::SIGRTMIN() + 3) };
            let taken = signals.take().unwrap().unwrap();
            assert_eq!(i32::from(taken.number), libc::SIGRTMIN() + 3);
            assert_eq!(signals.take().unwrap(), None);
        })
        .join()
        .unwrap();
    }
}
