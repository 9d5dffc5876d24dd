//! Entering a running container from outside: what a worker does to itself before it makes a process there.
//!
//! ```text
//!   host root, host's namespaces
//!     control groups                 so that everything after is charged to the container
//!     setns(process 1, all kinds)    one call: the user namespace first, all or none
//!     not dumpable, ids 0            root of the container, which can neither trace us nor look at our descriptors
//!     privileges                     limits, bounding set, filter
//!   then the caller forks: its child is born in the container's pid namespace
//! ```
//!
//! The caller has one thread and holds nothing of the host but what its child is meant to have and the way to report.

use std::os::fd::BorrowedFd;

use rustix::process::{DumpableBehavior, Gid, Uid};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use crate::failure::{Phase, StepError, StepFailure};
use crate::plan::Join;

/// Makes the calling process one of the container whose process 1 is `process_1`, but for its pid namespace, which its
/// children are born into. There is no way back.
///
/// # Errors
///
/// The step that failed; the caller can do nothing but end. A container that just ended answers `ESRCH`.
pub fn enter(join: &Join, process_1: BorrowedFd<'_>) -> Result<(), StepError> {
    let at = |index: usize, step: &'static str| {
        let index = u16::try_from(index).unwrap_or(u16::MAX);
        move |cause| StepError { phase: Phase::Join, index, step: step.to_owned(), cause }
    };
    for (index, step) in join.attach.iter().enumerate() {
        step.perform(None).map_err(|error| at(index, "cgroup")(StepFailure::from_error(&error)))?;
    }
    let entered = join.attach.len();
    enter_namespaces(process_1).map_err(at(entered, "enter-namespaces"))?;
    for (index, step) in join.privileges.iter().enumerate() {
        step.perform().map_err(|error| at(entered + 1 + index, "privilege")(StepFailure::from_error(&error)))?;
    }
    Ok(())
}

fn enter_namespaces(process_1: BorrowedFd<'_>) -> Result<(), StepFailure> {
    let kernel = |call: &'static str| move |errno| StepFailure::kernel(call, errno);
    let kinds = ThreadNameSpaceType::USER
        | ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::CONTROL_GROUP;
    hide().map_err(kernel("prctl(PR_SET_DUMPABLE)"))?;
    move_into_thread_name_spaces(process_1, kinds).map_err(kernel("setns(process 1)"))?;
    rustix::thread::set_thread_groups(&[]).map_err(kernel("setgroups"))?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).map_err(kernel("setresgid(0)"))?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).map_err(kernel("setresuid(0)"))?;
    // A change of ids resets it to whatever fs.suid_dumpable says.
    hide().map_err(kernel("prctl(PR_SET_DUMPABLE)"))
}

fn hide() -> Result<(), rustix::io::Errno> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
}
