//! Processes that are run in a container whose process 1 is not ours, by joining it.
//!
//! ```text
//!   launcher ── fork ──> worker: drops every descriptor but its own, enters the container
//!      │  ^                │ fork: born in the container's pid namespace
//!      │  │                v
//!      │  └─ Joined(pid) ─ waits for the program to run        process
//!      └─ closes ────────> ends                                  │
//!         <──────────────────────────── SIGCHLD (subreaper) ─────┘
//! ```
//!
//! The worker lives until the launcher has seen the process, so that its number cannot change hands in between. What
//! becomes of the process then is in `joined.rs`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use insula_kernel::fork::exit_now;
use insula_kernel::{fd_table, signals};
use insula_plan::join;
use insula_plan::plan::Join;
use insula_plan::protocol::ContainerId;
use insula_plan::protocol::channel::{Channel, Wait};
use insula_plan::protocol::facts;
use insula_plan::protocol::failure::{Failure, FailureKind};
use insula_plan::protocol::init::{EXEC_CONNECTIONS_MAX, OnClose};
use insula_plan::protocol::process::{ProcessSpec, SpawnFailure};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::Launcher;
use super::containers::Phase;
use super::daemon::Asker;
use super::worker::{Report, Task};
use crate::spawn::{self, Spawning};

/// Descriptors of a joining worker, by number.
const REPORT: RawFd = 0;
const PROCESS_1: RawFd = 1;
const FIRST_STREAM: RawFd = 2;

/// A process that is to be run by joining.
#[derive(Debug)]
pub(crate) struct JoinWork {
    /// Where.
    pub(crate) container: ContainerId,
    /// What.
    pub(crate) process: ProcessSpec,
    /// Its standard streams, or none for a terminal.
    pub(crate) streams: Vec<OwnedFd>,
    /// What the end of its connection means for it.
    pub(crate) on_close: OnClose,
}

impl Launcher {
    /// Gives a join to a worker.
    pub(crate) fn employ_join(&mut self, asker: Asker, work: &JoinWork) -> Result<(), Failure> {
        let kernel = |errno: Errno| Failure::from_error(FailureKind::Kernel, &errno);
        let unknown = |message: &str| Failure::new(FailureKind::Unknown, message);
        let container = self.containers.get_mut(work.container);
        let Some(Phase::Running(running)) = container.map(|container| &container.phase) else {
            return Err(unknown("the container does not run"));
        };
        if self.joined.are_too_many(work.container) {
            let limit = u32::try_from(EXEC_CONNECTIONS_MAX).unwrap_or(u32::MAX);
            return Err(not_spawned(SpawnFailure::Busy { limit }));
        }
        let process_1 = rustix::io::fcntl_dupfd_cloexec(&running.pidfd, 0).map_err(kernel)?;
        let join = facts::read::<Join>(&self.run.join_fact(work.container))
            .map_err(|error| Failure::from_error(FailureKind::Kernel, &error))?
            .ok_or_else(|| unknown("process 1 of the container takes requests itself; nothing joins it"))?;
        let task = Task::Join { container: work.container, on_close: work.on_close };
        let spawned = self.workers.spawn(&self.poller, (task, asker), |report| {
            let kept: Vec<BorrowedFd<'_>> =
                [report.as_fd(), process_1.as_fd()].into_iter().chain(work.streams.iter().map(AsFd::as_fd)).collect();
            // From here on the handles above are void, and the new table is all there is.
            let kept = fd_table::replace(&kept, 0).map(|()| kept.len());
            become_joiner(&join, &work.process, kept)
        });
        spawned.map_err(kernel)
    }
}

/// The worker: enters the container, makes the process, and stays until it was seen.
fn become_joiner(join: &Join, process: &ProcessSpec, table: Result<usize, Errno>) -> ! {
    let report = fd_table::numbered(REPORT).and_then(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 0));
    let Ok(report) = report.map(Channel::from_socket) else { exit_now(1) };
    let kernel = |errno: Errno| Failure::from_error(FailureKind::Kernel, &errno);
    let outcome = table.map_err(kernel).and_then(|count| run(join, process, count));
    let (said, fds) = match outcome {
        Ok((number, fds)) => (Report::Joined(number), fds),
        Err(failure) => (Report::Failed(failure), Vec::new()),
    };
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let sent = report.send(&said, &fds, Wait::Forever);
    if sent.is_ok() {
        // Nothing comes: the launcher closes its end when it has taken the report.
        let _closed: Result<_, _> = report.receive::<Report>(Wait::Forever);
    }
    exit_now(u8::from(sent.is_err()))
}

/// Enters and spawns: the process's number on the host, its pidfd, and its terminal if it has one.
fn run(join: &Join, process: &ProcessSpec, descriptors: usize) -> Result<(u32, Vec<OwnedFd>), Failure> {
    let kernel = |errno: Errno| Failure::from_error(FailureKind::Kernel, &errno);
    signals::reset_dispositions();
    let process_1 = fd_table::numbered(PROCESS_1).map_err(kernel)?;
    join::enter(join, process_1).map_err(|error| {
        let step = error.step.clone();
        Failure::from_error(FailureKind::Step, &error).at_step(step)
    })?;
    let count = RawFd::try_from(descriptors).map_err(|_| kernel(Errno::MFILE))?;
    let streams: Vec<BorrowedFd<'_>> =
        (FIRST_STREAM..count).map(fd_table::numbered).collect::<Result<_, _>>().map_err(kernel)?;
    let spawning = spawn::spawn(process, streams.try_into().ok()).map_err(not_spawned)?;
    wait_for_program(&spawning)?;
    let pidfd = rustix::process::pidfd_open(spawning.pid, rustix::process::PidfdFlags::empty()).map_err(kernel)?;
    let number = spawning.pid.as_raw_nonzero().get().unsigned_abs();
    Ok((number, std::iter::once(pidfd).chain(spawning.terminal).collect()))
}

fn not_spawned(failure: SpawnFailure) -> Failure {
    let message = failure.to_string();
    Failure::new(FailureKind::Spawn(failure), message).at_step("joined-process")
}

/// Waits as long as the child needs: it may hang on a file system of the container, and this worker with it.
fn wait_for_program(spawning: &Spawning) -> Result<(), Failure> {
    loop {
        if let Some(outcome) = spawn::outcome(spawning.report.as_fd()) {
            return outcome.map_err(not_spawned);
        }
        let mut fds = [PollFd::new(&spawning.report, PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Failure::from_error(FailureKind::Kernel, &errno)),
        }
    }
}
