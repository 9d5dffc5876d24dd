//! Workers: forked children of the launcher that do one slow thing each and report.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use insula_kernel::fork::{Fork, exit_now, fork};
use insula_plan::execute::{self, Started};
use insula_plan::plan::Plan;
use insula_plan::protocol::ContainerId;
use insula_plan::protocol::channel::{Channel, Received, Wait};
use insula_plan::protocol::facts::ProcessIdentity;
use insula_plan::protocol::failure::{Failure, FailureKind};
use insula_plan::protocol::init::OnClose;
use insula_plan::slot::Slots;
use insula_plan::sweep::{self, SweepPlan};
use minicbor::{Decode, Encode};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, set_parent_process_death_signal};

use super::FIRST_WORKER;
use super::daemon::Asker;
use insula_kernel::poller::{Interest, Poller};

/// What a worker says when it is done.
#[derive(Debug, Encode, Decode)]
pub(crate) enum Report {
    /// The container's process 1 is there. Beside it: its pidfd, then what the flags say, in their order.
    #[n(0)]
    Started {
        /// Which it is.
        #[n(0)]
        process: ProcessIdentity,
        /// Whether its mount namespace comes.
        #[n(1)]
        mounts: bool,
        /// Whether its console comes.
        #[n(2)]
        console: bool,
    },
    /// Everything was removed.
    #[n(1)]
    Swept,
    /// It was not done.
    #[n(2)]
    Failed(#[n(0)] Failure),
    /// A process runs in a container that was joined, with this number. Beside it: its pidfd, then its terminal if it
    /// has one.
    #[n(3)]
    Joined(#[n(0)] u32),
}

/// What a worker has when it is done.
#[derive(Debug)]
pub(crate) struct Done {
    report: Report,
    /// Beside the report.
    fds: Vec<OwnedFd>,
    /// Not told to anybody; held until the report is sent.
    _left: Slots,
}

impl Done {
    fn new(report: Report) -> Self {
        Self { report, fds: Vec::new(), _left: Slots::default() }
    }
}

/// What a worker is for.
#[derive(Debug)]
pub(crate) enum Task {
    /// Starting a container; its process 1 tells about the main process over the channel, if it is ours.
    Start {
        /// Which.
        container: ContainerId,
        /// Where process 1 tells.
        status: Option<Channel>,
    },
    /// Removing what a container has.
    Sweep {
        /// Which.
        container: ContainerId,
    },
    /// Running a process in a container by joining it.
    Join {
        /// Which.
        container: ContainerId,
        /// What the end of its connection means for the process.
        on_close: OnClose,
    },
}

/// A worker that is at its task.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Its task.
    pub(crate) task: Task,
    /// Who asked.
    pub(crate) asker: Asker,
    pid: Pid,
    reports: Channel,
}

/// Workers that are at work.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    busy: BTreeMap<u64, Worker>,
    last_number: u64,
}

impl Workers {
    /// How many are at work.
    pub(crate) fn count(&self) -> usize {
        self.busy.len()
    }

    /// Forks a worker that does `work`; its report comes when the poller says so.
    pub(crate) fn spawn(
        &mut self,
        poller: &Poller,
        (task, asker): (Task, Asker),
        work: impl FnOnce(&Channel) -> Done,
    ) -> Result<(), Errno> {
        let (reports, report) = Channel::pair()?;
        self.last_number += 1;
        let number = self.last_number;
        poller.add(&reports, FIRST_WORKER + number, Interest::Read)?;
        match fork()? {
            Fork::Parent(pid) => {
                self.busy.insert(number, Worker { task, asker, pid, reports });
                Ok(())
            }
            Fork::Child => {
                // A start whose launcher is dead has nobody who would know of it.
                set_parent_process_death_signal(Some(Signal::KILL)).unwrap_or_default();
                // What the launcher may have been spared, containers are not.
                std::fs::write("/proc/self/oom_score_adj", "0").unwrap_or_default();
                let done = work(&report);
                let fds: Vec<BorrowedFd<'_>> = done.fds.iter().map(AsFd::as_fd).collect();
                let sent = report.send(&done.report, &fds, Wait::Forever);
                // The kernel closes what is left, when nobody waits for it any more.
                exit_now(u8::from(sent.is_err()))
            }
        }
    }

    /// Whether `pid` was a worker. Its report stays in its socket.
    pub(crate) fn ended(&self, pid: Pid) -> bool {
        self.busy.values().any(|worker| worker.pid == pid)
    }

    /// Takes a worker's report, or that it died without one.
    pub(crate) fn take(&mut self, number: u64, poller: &Poller) -> Option<(Worker, Received<Report>)> {
        let worker = self.busy.remove(&number)?;
        poller.remove(&worker.reports);
        let received = worker.reports.receive(Wait::Never).unwrap_or_else(|_| {
            let failure = Failure::new(FailureKind::WorkerLost, "the worker died before it could report");
            Received { message: Report::Failed(failure), fds: Vec::new() }
        });
        Some((worker, received))
    }
}

/// Carries a plan out, in the worker.
pub(crate) fn start(plan: &Plan, slots: Slots) -> Done {
    match execute::start(plan, slots) {
        Ok(Started { process, pidfd, console, mounts, left }) => {
            let report = Report::Started { process, mounts: mounts.is_some(), console: console.is_some() };
            let fds = std::iter::once(pidfd).chain(mounts).chain(console).collect();
            Done { report, fds, _left: left }
        }
        Err(error) => {
            let step = error.step.clone();
            Done::new(Report::Failed(Failure::from_error(FailureKind::Step, &error).at_step(step)))
        }
    }
}

/// Sweeps, in the worker. `mounts` is what the launcher held of the container's: it is unmounted here, where nobody
/// else waits.
pub(crate) fn sweep(plan: &SweepPlan, mounts: Option<OwnedFd>) -> Done {
    drop(mounts);
    Done::new(match sweep::sweep(plan) {
        Ok(()) => Report::Swept,
        Err(error) => Report::Failed(Failure::from_error(FailureKind::Step, &error)),
    })
}
