//! What an import worker takes from itself before it reads the first foreign byte.

use std::os::fd::BorrowedFd;

use insula_image::TreeLimits;
use insula_kernel::capability::{
    CapabilitySet, ThreadCapabilities, clear_ambient_set, keep_capabilities_over_setuid, limit_bounding_set,
    set_no_new_privileges, set_thread_capabilities,
};
use insula_kernel::landlock::{forbid_files, only_read_beneath};
use insula_kernel::rlimit::{Limit, Resource, set_limit};
use insula_kernel::seccomp::{
    Action, Architecture, Argument, Clause, CompileFilterError, Condition, InstallFlags, Rule, RuleSet, Test,
    UnknownSystemCall, install,
};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Gid, Pid, Signal, Uid, set_dumpable_behavior, set_parent_process_death_signal,
};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// What a worker may open.
#[derive(Debug)]
pub(super) enum Access<'fd> {
    /// Nothing: what it reads and writes was given to it.
    Descriptors,
    /// Files beneath this directory, for reading, whoever owns them: a directory tree is the administrator's, who names
    /// it, and its owners are to be in the image.
    Beneath(BorrowedFd<'fd>),
}

/// A worker could not take something from itself.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfineError {
    /// The kernel refused.
    #[error("{call}")]
    Kernel {
        /// Which call.
        call: &'static str,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// The filter names a call that there is not.
    #[error(transparent)]
    Filter(#[from] UnknownSystemCall),
    /// The filter is too long.
    #[error(transparent)]
    Compile(#[from] CompileFilterError),
}

fn on(call: &'static str) -> impl FnOnce(Errno) -> ConfineError {
    move |errno| ConfineError::Kernel { call, errno }
}

/// Takes everything from this process that converting a source does not need. It must have one thread.
///
/// # Errors
///
/// Nothing foreign may be read then.
pub(super) fn confine(own_id: u32, limits: &TreeLimits, access: &Access<'_>) -> Result<(), ConfineError> {
    limit_resources(limits)?;
    drop_privileges(own_id, access)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(on("prctl(PR_SET_DUMPABLE)"))?;
    // After the change of ids, which clears it.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(on("prctl(PR_SET_PDEATHSIG)"))?;
    set_no_new_privileges().map_err(on("prctl(PR_SET_NO_NEW_PRIVS)"))?;
    let restricted = match access {
        Access::Descriptors => forbid_files(&[]),
        Access::Beneath(directory) => only_read_beneath(*directory),
    };
    // Without Landlock the filter is what is left: for archives it lets no path through, for directories it lets read.
    restricted.map_err(on("landlock_restrict_self"))?;
    let filter = rules(access, rustix::process::getpid())?.compile()?;
    install(&filter, InstallFlags::empty()).map_err(on("seccomp(SECCOMP_SET_MODE_FILTER)"))
}

/// Memory of a worker beside what entries and names need.
const MEMORY_BASE_BYTES: u64 = 64 << 20;
/// Memory for an entry, beside its name.
const MEMORY_ENTRY_BYTES: u64 = 200;
/// Open files: what a walk keeps open is as deep as the longest path has components.
const FILES_MAX: u64 = 4_096;
/// Threads of the worker: itself, one that reads ahead, one that writes, one that hashes. The kernel counts those of the
/// user, and so workers that ended with their daemon and that the machine's init has not waited for yet.
const THREADS_MAX: u64 = 64;

/// Private memory that a worker may have.
fn memory_bytes_max(limits: &TreeLimits) -> u64 {
    MEMORY_BASE_BYTES + MEMORY_ENTRY_BYTES * u64::from(limits.entries_max) + limits.metadata_bytes_max
}

/// Bytes that a file may have. Every content is padded to blocks of 4 KiB, and so is the metadata.
fn file_bytes_max(limits: &TreeLimits) -> u64 {
    let entries = u64::from(limits.entries_max).saturating_mul(8 << 10);
    limits.content_bytes_max.saturating_add(entries).saturating_add(limits.metadata_bytes_max.saturating_mul(4))
}

fn limit_resources(limits: &TreeLimits) -> Result<(), ConfineError> {
    let values = [
        (Resource::CORE, 0),
        (Resource::DATA, memory_bytes_max(limits)),
        (Resource::FSIZE, file_bytes_max(limits)),
        (Resource::NOFILE, FILES_MAX),
        (Resource::NPROC, THREADS_MAX),
    ];
    for (resource, max) in values {
        set_limit(resource, Limit { soft: max, hard: max }).map_err(on("prlimit64"))?;
    }
    Ok(())
}

/// Another user, in no other group, with at most one capability, and no way to more.
fn drop_privileges(own_id: u32, access: &Access<'_>) -> Result<(), ConfineError> {
    let kept = match access {
        Access::Descriptors => CapabilitySet::EMPTY,
        Access::Beneath(_) => CapabilitySet::DAC_READ_SEARCH,
    };
    clear_ambient_set().map_err(on("prctl(PR_CAP_AMBIENT)"))?;
    limit_bounding_set(CapabilitySet::EMPTY).map_err(on("prctl(PR_CAPBSET_DROP)"))?;
    keep_capabilities_over_setuid(!kept.is_empty()).map_err(on("prctl(PR_SET_KEEPCAPS)"))?;
    let (uid, gid) = (Uid::from_raw(own_id), Gid::from_raw(own_id));
    set_thread_groups(&[]).map_err(on("setgroups"))?;
    set_thread_res_gid(gid, gid, gid).map_err(on("setresgid"))?;
    set_thread_res_uid(uid, uid, uid).map_err(on("setresuid"))?;
    let left = ThreadCapabilities { effective: kept, permitted: kept, inheritable: CapabilitySet::EMPTY };
    set_thread_capabilities(left).map_err(on("capset"))?;
    keep_capabilities_over_setuid(false).map_err(on("prctl(PR_SET_KEEPCAPS)"))
}

/// What reading, writing, hashing in a thread and ending need. Each line says who asks.
const ALLOWED: [&[&str]; 7] = [
    // The source, the image, the spool, the hand-over file.
    &["read", "readv", "pread64", "write", "writev", "pwrite64", "lseek", "fstat", "close"],
    &["fsync", "fdatasync", "fadvise64", "fcntl", "dup"],
    // The answers.
    &["sendmsg"],
    // Memory; executable or shared memory is not in it, see below.
    &["munmap", "mremap", "brk", "madvise"],
    // Threads and their ends.
    &["futex", "set_robust_list", "rseq", "sched_yield", "sched_getaffinity", "gettid", "getpid", "exit", "exit_group"],
    &["rt_sigprocmask", "rt_sigaction", "rt_sigreturn", "sigaltstack", "restart_syscall"],
    // Keyed hashes; time of the standard library.
    &["getrandom", "clock_gettime"],
];

/// What walking a directory needs beside that. Landlock decides which.
const ALLOWED_FOR_DIRECTORIES: [&str; 9] =
    ["openat", "openat2", "getdents64", "newfstatat", "statx", "readlinkat", "flistxattr", "llistxattr", "fgetxattr"];

/// `MAP_SHARED | MAP_PRIVATE`, of which exactly the second must be there.
const MAP_KIND: Test = Test::MaskedEq { mask: 3, value: 2 };
/// `PROT_EXEC`.
const NOT_EXECUTABLE: Test = Test::none_of(4);
/// `CLONE_THREAD | CLONE_VM`, and none of `CLONE_NEW*`.
const A_THREAD: Test = Test::MaskedEq { mask: 0x7e02_0000 | 0x0001_0100, value: 0x0001_0100 };
/// `AT_EMPTY_PATH`.
const BY_DESCRIPTOR: Test = Test::MaskedEq { mask: 0x1000, value: 0x1000 };
/// `PR_SET_NAME`.
const SET_NAME: Test = Test::low_half_is(15);

/// The filter: what is not named answers that there is no such call.
fn rules(access: &Access<'_>, own: Pid) -> Result<RuleSet, UnknownSystemCall> {
    let no_such_call = Action::Errno(u16::try_from(Errno::NOSYS.raw_os_error()).unwrap_or_default());
    let mut rules = RuleSet::new(Architecture::NATIVE, no_such_call, Action::KillProcess);
    for names in ALLOWED {
        rules.set(names.iter().copied(), Action::Allow)?;
    }
    let own = Test::low_half_is(own.as_raw_nonzero().get().unsigned_abs());
    rules.set(["mmap"], only_when(&[(Argument::C, NOT_EXECUTABLE), (Argument::D, MAP_KIND)]))?;
    rules.set(["mprotect"], only_when(&[(Argument::C, NOT_EXECUTABLE)]))?;
    rules.set(["clone"], only_when(&[(Argument::A, A_THREAD)]))?;
    rules.set(["prctl"], only_when(&[(Argument::A, SET_NAME)]))?;
    // To end by `abort`.
    rules.set(["tgkill"], only_when(&[(Argument::A, own)]))?;
    match access {
        Access::Descriptors => {
            rules.set(["newfstatat"], only_when(&[(Argument::D, BY_DESCRIPTOR)]))?;
            rules.set(["statx"], only_when(&[(Argument::C, BY_DESCRIPTOR)]))?;
        }
        Access::Beneath(_) => rules.set(ALLOWED_FOR_DIRECTORIES.into_iter().chain(["lgetxattr"]), Action::Allow)?,
    }
    Ok(rules)
}

/// Allowed when every condition holds, otherwise not permitted.
fn only_when(conditions: &[(Argument, Test)]) -> Rule {
    let when = conditions.iter().map(|&(argument, test)| Condition { argument, test }).collect();
    let not_permitted = Action::Errno(u16::try_from(Errno::PERM.raw_os_error()).unwrap_or_default());
    Rule { clauses: vec![Clause { when, action: Action::Allow }], otherwise: not_permitted }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_name_only_calls_that_there_are() {
        let own = rustix::process::getpid();
        let here = std::fs::File::open("/").unwrap();
        for access in [Access::Descriptors, Access::Beneath(std::os::fd::AsFd::as_fd(&here))] {
            rules(&access, own).unwrap().compile().unwrap();
        }
    }

    #[test]
    fn bounds_follow_from_the_limits_of_a_tree() {
        let limits = TreeLimits::standard();
        assert_eq!(memory_bytes_max(&limits), (64 << 20) + 200_000_000 + (256 << 20));
        assert!(file_bytes_max(&limits) > limits.content_bytes_max);
        let boundless = TreeLimits { entries_max: u32::MAX, content_bytes_max: u64::MAX, metadata_bytes_max: 0 };
        assert_eq!(file_bytes_max(&boundless), u64::MAX);
    }
}
