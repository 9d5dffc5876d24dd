//! Giving up everything that answering questions does not need.
//!
//! The launcher starts the service as root with its sockets. Here it becomes an id of its own without groups and
//! capabilities, gives up opening files (Landlock), and then all system calls but those below. What remains is to read
//! the table, to answer over the sockets it has, and to ask name servers: UDP anywhere, TCP to port 53.

use insula_kernel::capability::CapabilitySet;
use insula_kernel::landlock;
use insula_kernel::rlimit::{self, Limit, Resource};
use insula_kernel::seccomp::{Action, Architecture, Argument, Clause, Condition, Filter, Rule, RuleSet, Test};
use insula_plan::privilege::{PrivilegeStep, PrivilegeStepError};
use rustix::io::Errno;
use rustix::net::AddressFamily;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// Port of name servers.
pub(crate) const DNS_PORT: u16 = 53;

/// Descriptors: questions under way, connections, and what it is given.
const FILES_MAX: u64 = 2_048;
/// Address space in bytes; what is beyond ends it, and it is started again.
const MEMORY_BYTES_MAX: u64 = 256 << 20;

/// System calls of the loop, of memory, and of ending. `openat` and the like are not among them.
const CALLS: &str = "accept4 bind brk clock_gettime clock_nanosleep close connect epoll_create1 epoll_ctl epoll_pwait \
    epoll_pwait2 epoll_wait exit exit_group fcntl futex getpid getppid getrandom getsockopt gettid getsockname \
    getpeername madvise mmap mprotect mremap munmap pread64 read recvfrom restart_syscall rt_sigaction \
    rt_sigprocmask rt_sigreturn sched_yield sendto setsockopt shutdown sigaltstack tgkill write writev";

/// The service could not give up what it must not have.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A step of giving up privilege.
    #[error("give up privilege")]
    Step(#[source] PrivilegeStepError),
    /// The launcher died meanwhile.
    #[error("the launcher is gone")]
    Orphaned,
    /// The kernel refused a call.
    #[error("{call}")]
    Kernel {
        /// Which.
        call: &'static str,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// The filter cannot be made: a mistake in this file.
    #[error("make the system call filter")]
    Filter,
}

/// Becomes the user `id` without any right, for good. It then ends with `parent`.
///
/// # Errors
///
/// See [`SandboxError`].
pub(crate) fn enter(id: u32, parent: Option<Pid>) -> Result<(), SandboxError> {
    let kernel = |call| move |errno| SandboxError::Kernel { call, errno };
    let nothing = CapabilitySet::EMPTY.bits();
    rlimit::set_limit(Resource::NOFILE, Limit { soft: FILES_MAX, hard: FILES_MAX })
        .map_err(kernel("prlimit64(NOFILE)"))?;
    rlimit::set_limit(Resource::AS, Limit { soft: MEMORY_BYTES_MAX, hard: MEMORY_BYTES_MAX })
        .map_err(kernel("prlimit64(AS)"))?;
    rustix::process::chdir("/").map_err(kernel("chdir(/)"))?;
    for step in [
        PrivilegeStep::NoNewPrivileges,
        PrivilegeStep::LimitBoundingSet { keep: nothing },
        PrivilegeStep::SetIds { uid: id, gid: id, groups: Vec::new() },
        PrivilegeStep::SetCapabilities { keep: nothing },
    ] {
        step.perform().map_err(SandboxError::Step)?;
    }
    // A change of ids forgets what was set before; who died before this call is seen by the number.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(kernel("prctl(PDEATHSIG)"))?;
    if getppid() != parent {
        return Err(SandboxError::Orphaned);
    }
    landlock::forbid_files(&[DNS_PORT]).map_err(kernel("landlock"))?;
    let program = filter().ok_or(SandboxError::Filter)?.bytes().to_vec();
    PrivilegeStep::InstallFilter { program }.perform().map_err(SandboxError::Step)
}

/// Allows [`CALLS`] and sockets of the internet; everything else is refused, as if the kernel forbade it.
fn filter() -> Option<Filter> {
    let refused = u16::try_from(Errno::PERM.raw_os_error()).ok()?;
    let mut rules = RuleSet::new(Architecture::NATIVE, Action::Errno(refused), Action::KillProcess);
    rules.set(CALLS.split_ascii_whitespace(), Action::Allow).ok()?;
    let families = [AddressFamily::INET, AddressFamily::INET6].map(|family| Clause {
        when: vec![Condition { argument: Argument::A, test: Test::low_half_is(family.as_raw().into()) }],
        action: Action::Allow,
    });
    rules.set(["socket"], Rule { clauses: families.to_vec(), otherwise: Action::Errno(refused) }).ok()?;
    rules.compile().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_can_be_made() {
        assert!(filter().is_some());
    }
}
