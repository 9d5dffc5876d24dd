//! The forked child's way from a copy of its parent to the program.
//!
//! ```text
//!   0 1 2 = standard streams, 3 = report (close-on-exec), nothing else
//!   new session [controlling terminal]          as process 1's root:
//!   limits, umask, account files, directory       everything that needs rights
//!   bounding set, ids, capabilities             from here on with the rights of the program
//!   directory again, signal mask, exec
//! ```
//!
//! Until exec the child is not dumpable (it inherits that from its parent's memory), so that nothing in the container
//! can trace it or look at its descriptors.

use std::ffi::{CString, OsStr};
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use insula_kernel::capability::{self, CapabilitySet, ThreadCapabilities};
use insula_kernel::fork::exit_now;
use insula_kernel::{fd_table, signals};
use insula_plan::privilege::{PrivilegeStep, PrivilegeStepError};
use insula_plan::protocol::channel;
use insula_plan::protocol::process::{CapabilityRule, NewPrivileges, ProcessSpec, SpawnFailure, Stdio};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::account::{self, Account};
use super::program;

/// Where the failure is reported.
const REPORT_FD: RawFd = 3;

/// Longest report: what a pipe takes in one piece.
pub(super) const REPORT_BYTES_MAX: usize = 4096;

/// Mode bits that new files do not get when nobody says otherwise.
const DEFAULT_UMASK: u32 = 0o022;

/// Becomes the program, or reports why not and ends with the field's code.
pub(super) fn become_program(spec: &ProcessSpec, streams: [BorrowedFd<'_>; 3], report: BorrowedFd<'_>) -> ! {
    let [input, output, error] = streams;
    let failure = match fd_table::replace(&[input, output, error, report], 3) {
        Ok(()) => prepare(spec).map_or_else(|failure| failure, |env| program::run(&spec.argv, &env)),
        // The report's number is not what it should be, but its old one may still be good.
        Err(errno) => kernel("dup3(standard streams)", errno),
    };
    let bytes = channel::encode(&failure);
    if let Ok(report) = fd_table::numbered(REPORT_FD) {
        // Nobody can be told if this fails; the exit code still says what kind it was.
        rustix::io::write(report, bytes.get(..bytes.len().min(REPORT_BYTES_MAX)).unwrap_or_default())
            .unwrap_or_default();
    }
    exit_now(failure.exit_code())
}

/// Everything before exec; gives the environment.
fn prepare(spec: &ProcessSpec) -> Result<Vec<CString>, SpawnFailure> {
    rustix::process::setsid().map_err(|errno| kernel("setsid", errno))?;
    let account = account::resolve(&spec.user, &spec.groups)?;
    if matches!(spec.stdio, Stdio::Terminal(_)) {
        take_terminal(&account)?;
    }
    for limit in &spec.rlimits {
        let step = PrivilegeStep::LimitResource { resource: limit.resource, soft: limit.soft, hard: limit.hard };
        perform(&step)?;
    }
    rustix::process::umask(Mode::from_bits_truncate(spec.umask.unwrap_or(DEFAULT_UMASK)));
    let entered = enter_directory(spec)?;
    give_up_rights(spec, &account)?;
    if entered == Entered::NotYet {
        rustix::process::chdir(&*spec.cwd).map_err(|errno| directory_failure(spec, errno))?;
    }
    check_directory(spec)?;
    signals::unblock_all().map_err(|errno| kernel("sigprocmask", errno))?;
    Ok(environment(spec, &account))
}

/// Makes standard input the controlling terminal, and the terminal the user's.
fn take_terminal(account: &Account) -> Result<(), SpawnFailure> {
    let terminal = fd_table::numbered(0).map_err(|errno| kernel("fcntl(0)", errno))?;
    rustix::process::ioctl_tiocsctty(terminal).map_err(|errno| kernel("ioctl(TIOCSCTTY)", errno))?;
    // The group stays the one that devpts was mounted with.
    rustix::fs::fchown(terminal, Some(Uid::from_raw(account.uid)), None::<Gid>)
        .map_err(|errno| kernel("fchown(terminal)", errno))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entered {
    Yes,
    /// Only the user may.
    NotYet,
}

fn enter_directory(spec: &ProcessSpec) -> Result<Entered, SpawnFailure> {
    if !spec.cwd.as_bytes().starts_with(b"/") {
        return Err(directory_failure(spec, Errno::INVAL));
    }
    match rustix::process::chdir(&*spec.cwd) {
        Ok(()) => Ok(Entered::Yes),
        Err(Errno::ACCESS) => Ok(Entered::NotYet),
        Err(Errno::NOENT) => {
            let path = Path::new(OsStr::from_bytes(spec.cwd.as_bytes()));
            std::fs::create_dir_all(path).map_err(|error| {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                // A root that cannot be written: what is wrong is still that the directory is not there.
                directory_failure(spec, if errno == Errno::ROFS { Errno::NOENT } else { errno })
            })?;
            rustix::process::chdir(&*spec.cwd).map_err(|errno| directory_failure(spec, errno))?;
            Ok(Entered::Yes)
        }
        Err(errno) => Err(directory_failure(spec, errno)),
    }
}

/// The working directory must have a name beneath the root, or relative paths would lead out of it.
fn check_directory(spec: &ProcessSpec) -> Result<(), SpawnFailure> {
    let name = rustix::process::getcwd(Vec::new()).map_err(|errno| directory_failure(spec, errno))?;
    // The kernel writes "(unreachable)/…" for a directory outside of the root.
    if name.as_bytes().starts_with(b"/") { Ok(()) } else { Err(directory_failure(spec, Errno::XDEV)) }
}

fn give_up_rights(spec: &ProcessSpec, account: &Account) -> Result<(), SpawnFailure> {
    let CapabilityRule { bounding, ambient } = spec.capabilities;
    let ambient = CapabilitySet::from_bits(ambient.0) & CapabilitySet::from_bits(bounding.0);
    if spec.new_privileges == NewPrivileges::Forbidden {
        perform(&PrivilegeStep::NoNewPrivileges)?;
    }
    perform(&PrivilegeStep::LimitBoundingSet { keep: bounding.0 })?;
    capability::clear_ambient_set().map_err(|errno| kernel("prctl(PR_CAP_AMBIENT_CLEAR_ALL)", errno))?;
    capability::keep_capabilities_over_setuid(!ambient.is_empty())
        .map_err(|errno| kernel("prctl(PR_SET_KEEPCAPS)", errno))?;
    perform(&PrivilegeStep::SetIds { uid: account.uid, gid: account.gid, groups: account.groups.clone() })?;
    // Root regains its bounding set at exec; for others only what is ambient outlives it.
    let wanted = if account.uid == 0 { CapabilitySet::from_bits(bounding.0) } else { ambient };
    let now = capability::thread_capabilities().map_err(|errno| kernel("capget", errno))?;
    let kept = now.permitted & wanted;
    let sets = ThreadCapabilities { effective: kept, permitted: kept, inheritable: kept & ambient };
    capability::set_thread_capabilities(sets).map_err(|errno| kernel("capset", errno))?;
    raise_ambient(kept & ambient)
}

fn raise_ambient(ambient: CapabilitySet) -> Result<(), SpawnFailure> {
    for number in 0..u64::BITS {
        let one = 1 << number;
        if ambient.bits() & one != 0 {
            let capability = rustix::thread::CapabilitySet::from_bits_retain(one);
            rustix::thread::configure_capability_in_ambient_set(capability, true)
                .map_err(|errno| kernel("prctl(PR_CAP_AMBIENT_RAISE)", errno))?;
        }
    }
    Ok(())
}

/// The environment as given, with `HOME` if it has none.
fn environment(spec: &ProcessSpec, account: &Account) -> Vec<CString> {
    let mut env = spec.env.clone();
    if super::variable(&env, b"HOME").is_none() {
        let home = account.home.as_deref().filter(|home| !home.is_empty()).unwrap_or(b"/");
        // A line of the account file holds no NUL unless somebody means harm; then there is no HOME.
        env.extend(CString::new([b"HOME=", home].concat()).ok());
    }
    env
}

fn perform(step: &PrivilegeStep) -> Result<(), SpawnFailure> {
    step.perform().map_err(|error| match error {
        PrivilegeStepError::Kernel { call, errno } => kernel(call, errno),
        other => SpawnFailure::Unusable { reason: other.to_string() },
    })
}

fn directory_failure(spec: &ProcessSpec, errno: Errno) -> SpawnFailure {
    SpawnFailure::WorkingDirectory { path: super::shown(&spec.cwd), errno: errno.raw_os_error() }
}

fn kernel(call: impl Into<String>, errno: Errno) -> SpawnFailure {
    SpawnFailure::Kernel { call: call.into(), errno: errno.raw_os_error() }
}
