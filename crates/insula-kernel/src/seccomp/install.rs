//! Handing a filter to the kernel.
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::Filter;
use crate::capability::last_errno;

bitflags::bitflags! {
    /// How a filter is installed (`SECCOMP_FILTER_FLAG_*`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct InstallFlags: u32 {
        /// All threads of the process get it.
        const THREAD_SYNC = 1 << 0;
        /// Actions other than allow are logged.
        const LOG = 1 << 1;
        /// No speculative store bypass mitigation for its sake.
        const SPEC_ALLOW = 1 << 2;
        /// A process waiting for the listener is only woken by deadly signals (kernel 5.19).
        const WAIT_KILLABLE = 1 << 5;
    }
}

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
const NEW_LISTENER: u32 = 1 << 3;

/// `seccomp(SECCOMP_SET_MODE_FILTER, flags, filter)`
///
/// From now on every system call of this thread and its future children passes `filter`, after exec too.
///
/// # Errors
///
/// - `EACCES`: neither `CAP_SYS_ADMIN` in the thread's user namespace nor `no_new_privs`.
/// - `EINVAL`: the kernel refuses the program, or does not know a flag.
/// - `ENOMEM`: too many filters on this thread.
///
/// Source: seccomp(2).
pub fn install(filter: &Filter, flags: InstallFlags) -> Result<(), Errno> {
    set_mode_filter(filter, flags.bits()).map(drop)
}

/// `seccomp(SECCOMP_SET_MODE_FILTER, flags | SECCOMP_FILTER_FLAG_NEW_LISTENER, filter)`
///
/// The descriptor receives the calls for which the filter's action is to notify; it is close-on-exec.
///
/// # Errors
///
/// As [`install`], and `EBUSY`: another filter of this thread has a listener.
///
/// Source: seccomp(2), `seccomp_unotify`(2).
pub fn install_with_listener(filter: &Filter, flags: InstallFlags) -> Result<OwnedFd, Errno> {
    let ret = set_mode_filter(filter, flags.bits() | NEW_LISTENER)?;
    let fd = RawFd::try_from(ret).map_err(|_| Errno::BADF)?;
    // SAFETY: the call succeeded with NEW_LISTENER, so `fd` is open, new, and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_mode_filter(filter: &Filter, flags: u32) -> Result<libc::c_long, Errno> {
    let mut program: Vec<libc::sock_filter> = filter
        .instructions()
        .map(|instruction| libc::sock_filter {
            code: instruction.code,
            jt: instruction.jt,
            jf: instruction.jf,
            k: instruction.k,
        })
        .collect();
    let len = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let fprog = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: `fprog` points to `len` live instructions of `program`, which outlives the call; the kernel copies them.
    let ret = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const fprog) };
    if ret == -1 { Err(last_errno()) } else { Ok(ret) }
}

#[cfg(test)]
mod tests {
    use super::super::{Action, Architecture, Argument, Clause, Condition, Rule, RuleSet, Test};
    use super::*;
    use crate::capability::set_no_new_privileges;

    /// A filter is its thread's own, so that a test's thread may be spoilt.
    fn in_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(work).join().unwrap()
    }

    fn allow_all_but(name: &'static str, rule: impl Into<Rule>) -> Filter {
        let mut rules = RuleSet::new(Architecture::NATIVE, Action::Allow, Action::KillProcess);
        rules.set([name], rule).unwrap();
        rules.compile().unwrap()
    }

    #[test]
    fn live_the_kernel_decides_as_the_rules_say() {
        let when = vec![Condition { argument: Argument::A, test: Test::low_half_is(0xdead) }];
        let clause = Clause { when, action: Action::Errno(77) };
        let filter = allow_all_but("getpgid", Rule { clauses: vec![clause], otherwise: Action::Allow });
        let (refused, allowed, x32) = in_a_thread(move || {
            set_no_new_privileges().unwrap();
            install(&filter, InstallFlags::empty()).unwrap();
            // SAFETY: getpgid takes an integer; as an x32 call it is refused or, without a filter, the same.
            let x32 = unsafe { libc::syscall(0x4000_0000 | libc::SYS_getpgid, 0) };
            let x32 = (x32, last_errno());
            let process = |pid| rustix::process::getpgid(rustix::process::Pid::from_raw(pid));
            (process(0xdead), process(0), x32)
        });
        assert_eq!(refused.unwrap_err().raw_os_error(), 77);
        allowed.unwrap();
        if Architecture::NATIVE == Architecture::X86_64 {
            assert_eq!(x32, (-1, Errno::NOSYS));
        }
    }

    #[test]
    fn live_a_listener_is_a_descriptor_and_there_is_one_at_most() {
        let filter = allow_all_but("getpgid", Action::Notify);
        in_a_thread(move || {
            set_no_new_privileges().unwrap();
            let _listener = install_with_listener(&filter, InstallFlags::empty()).unwrap();
            let second = install_with_listener(&filter, InstallFlags::empty());
            assert_eq!(second.unwrap_err(), Errno::BUSY);
        });
    }

    #[test]
    fn live_the_kernel_refuses_what_is_no_program() {
        let filter = Filter::from_bytes(vec![0; 8]).unwrap();
        in_a_thread(move || {
            set_no_new_privileges().unwrap();
            assert_eq!(install(&filter, InstallFlags::empty()).unwrap_err(), Errno::INVAL);
        });
    }
}
