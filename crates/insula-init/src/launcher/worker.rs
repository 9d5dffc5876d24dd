//! Workers: forked children of the launcher that do one slow thing each and report.
//!
//! A worker keeps what its thing needs and closes the launcher's other descriptors first: one that hangs keeps neither
//! other containers' mounts nor their pipes.
//!
//! One more waits for the next start: it is forked while nothing is asked, and is given the plan and its slots by
//! message. A start with it waits neither for the fork nor for the copy of a descriptor table that grows with the
//! containers. Where there is none, or the plan has more slots than a message holds, a worker is forked for the start.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use insula_kernel::fd_table;
use insula_kernel::fork::{Fork, exit_now, fork};
use insula_kernel::session_keyring;
use insula_plan::execute::{self, Started};
use insula_plan::plan::Plan;
use insula_plan::protocol::ContainerId;
use insula_plan::protocol::channel::{Channel, MESSAGE_FDS_MAX, Received, Wait};
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
use super::requests::{malformed, read_plan};
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

/// What the worker that waits is told: beside it come the plan's file and the descriptors of its first slots.
#[derive(Debug, Encode, Decode)]
struct Begin;

/// The worker that waits for a start.
#[derive(Debug)]
struct Spare {
    pid: Pid,
    reports: Channel,
}

/// Workers that are at work, and the one that waits.
#[derive(Debug)]
pub(crate) struct Workers {
    busy: BTreeMap<u64, Worker>,
    last_number: u64,
    spare: Option<Spare>,
    /// Whether one is to be made. Not when one could not be made or died: the next start tries again.
    wants_spare: bool,
}

impl Default for Workers {
    fn default() -> Self {
        Self { busy: BTreeMap::new(), last_number: 0, spare: None, wants_spare: true }
    }
}

impl Workers {
    /// How many are at work.
    pub(crate) fn count(&self) -> usize {
        self.busy.len()
    }

    /// Whether the next start has no worker yet that waits for it. Those that are at work come first.
    pub(crate) fn wants_spare(&self) -> bool {
        self.wants_spare && self.busy.is_empty()
    }

    /// Makes the worker that waits for the next start.
    pub(crate) fn make_spare(&mut self) {
        self.wants_spare = false;
        let Ok((reports, report)) = Channel::pair() else { return };
        match fork() {
            Ok(Fork::Parent(pid)) => self.spare = Some(Spare { pid, reports }),
            Ok(Fork::Child) => {
                prepare();
                // The launcher's end among what is closed: it is what tells that nobody will ask any more.
                keep_only(&report, std::iter::empty());
                let Ok(Received { message: Begin, fds }) = report.receive(Wait::Forever) else { exit_now(0) };
                finish(&report, &start_given(fds))
            }
            Err(_) => {}
        }
    }

    /// Lets go of the worker that waits: the launcher is about to become another program.
    pub(crate) fn end_spare(&mut self) {
        self.spare = None;
        self.wants_spare = true;
    }

    /// Has a worker carry out `plan`, whose file is `file`: the one that waits, or else a new one.
    pub(crate) fn start(
        &mut self,
        poller: &Poller,
        (task, asker): (Task, Asker),
        (plan, file, slots): (&Plan, &OwnedFd, Slots),
    ) -> Result<(), Errno> {
        self.wants_spare = true;
        if let Some(Spare { pid, reports }) = self.take_spare(file, &slots) {
            self.last_number += 1;
            poller.add(&reports, FIRST_WORKER + self.last_number, Interest::Read)?;
            self.busy.insert(self.last_number, Worker { task, asker, pid, reports });
            return Ok(());
        }
        self.spawn(poller, (task, asker), |report| {
            keep_only(report, slots.filled().map(|(_, fd)| fd));
            start(plan, slots)
        })
    }

    /// The worker that waited, if there is one and it was given everything.
    fn take_spare(&mut self, file: &OwnedFd, slots: &Slots) -> Option<Spare> {
        let fds: Vec<BorrowedFd<'_>> = std::iter::once(file.as_fd()).chain(slots.filled().map(|(_, fd)| fd)).collect();
        if fds.len() > MESSAGE_FDS_MAX {
            return None;
        }
        // One that does not take it has died.
        self.spare.take().filter(|spare| spare.reports.send(&Begin, &fds, Wait::Never).is_ok())
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
                prepare();
                finish(&report, &work(&report))
            }
        }
    }

    /// Whether `pid` was a worker. Its report stays in its socket.
    pub(crate) fn ended(&mut self, pid: Pid) -> bool {
        if self.spare.as_ref().is_some_and(|spare| spare.pid == pid) {
            self.spare = None;
            return true;
        }
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

/// First thing in a worker.
fn prepare() {
    // A start whose launcher is dead has nobody who would know of it.
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap_or_default();
    // What the launcher may have been spared, containers are not.
    std::fs::write("/proc/self/oom_score_adj", "0").unwrap_or_default();
    // A container would have the keys of whoever started the node.
    if session_keyring::begin_anew().is_err_and(|error| error != Errno::NOSYS) {
        exit_now(1);
    }
}

/// Closes every descriptor of the launcher's but the worker's report, `others` and the standard streams. Handles to
/// them are void.
fn keep_only<'a>(report: &'a Channel, others: impl Iterator<Item = BorrowedFd<'a>>) {
    let kept: Vec<BorrowedFd<'_>> = std::iter::once(report.as_fd()).chain(others).collect();
    if fd_table::close_all_but(&kept).is_err() {
        exit_now(1);
    }
}

/// Last thing in a worker.
fn finish(report: &Channel, done: &Done) -> ! {
    let fds: Vec<BorrowedFd<'_>> = done.fds.iter().map(AsFd::as_fd).collect();
    let sent = report.send(&done.report, &fds, Wait::Forever);
    // The kernel closes what is left, when nobody waits for it any more.
    exit_now(u8::from(sent.is_err()))
}

/// Carries out the plan that came by message: its file, then the descriptors of its first slots.
fn start_given(fds: Vec<OwnedFd>) -> Done {
    let mut fds = fds.into_iter();
    match fds.next().ok_or_else(|| malformed("the plan is missing")).and_then(|file| read_plan(&file)) {
        Ok(plan) => start(&plan, Slots::new(fds.collect())),
        Err(failure) => Done::new(Report::Failed(failure)),
    }
}

/// Carries a plan out, in the worker.
fn start(plan: &Plan, slots: Slots) -> Done {
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
pub(crate) fn sweep(report: &Channel, plan: &SweepPlan, mounts: Option<OwnedFd>) -> Done {
    keep_only(report, mounts.iter().map(AsFd::as_fd));
    drop(mounts);
    Done::new(match sweep::sweep(plan) {
        Ok(()) => Report::Swept,
        Err(error) => Report::Failed(Failure::from_error(FailureKind::Step, &error)),
    })
}
