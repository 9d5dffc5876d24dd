//! The containers this launcher knows: those that run, and those that ended and were not swept yet.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};

use insula_kernel::pidfd_info::{ProcessEnd, process_end};
use insula_plan::protocol::ContainerId;
use insula_plan::protocol::channel::Channel;
use insula_plan::protocol::facts::{self, EndedFact, ProcessIdentity, StartedFact};
use insula_plan::protocol::keeper::FdName;
use insula_plan::protocol::launcher::{ContainerCondition, ContainerEntry};
use insula_plan::protocol::run_dir::RunDir;
use insula_plan::protocol::status::{End, ExitStatus, WallTime};
use rustix::process::{Pid, Signal, WaitStatus};

use super::FIRST_PIDFD;
use super::daemon::Asker;
use super::keeper_link::KeeperLink;
use insula_kernel::poller::{Interest, Poller};

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    /// Number that its tokens are made of.
    pub(crate) number: u64,
    /// Where it stands.
    pub(crate) phase: Phase,
    /// Its mount namespace, held until it is swept: process 1 ends without unmounting, the sweep's worker does it.
    mounts: Option<OwnedFd>,
    /// Who is to be told that nothing is left, when the end of the killed process 1 has come here, too.
    pub(crate) swept_for: Vec<Asker>,
}

/// Where a container stands here.
#[derive(Debug)]
pub(crate) enum Phase {
    /// A worker is at it.
    Starting,
    /// Its process 1 is there; the main process is about to be.
    Begun(Box<Running>),
    /// It runs.
    Running(Box<Running>),
    /// It ended.
    Ended(EndedFact),
}

/// What is held of a container whose process 1 lives.
#[derive(Debug)]
pub(crate) struct Running {
    /// Its process 1.
    pub(crate) process: ProcessIdentity,
    /// As a number for `waitpid`.
    pub(crate) pid: Pid,
    /// As a handle.
    pub(crate) pidfd: OwnedFd,
    /// Where process 1 tells about the main process.
    pub(crate) status: Option<Channel>,
    /// Master of the main process's terminal.
    pub(crate) master: Option<OwnedFd>,
    /// Who waits to hear that it runs.
    pub(crate) asker: Option<Asker>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Containers {
    known: BTreeMap<ContainerId, Container>,
    last_number: u64,
    /// Children that ended before their worker's report was read.
    early_ends: VecDeque<(Pid, WaitStatus)>,
}

/// More than the workers that can be at work: what is older was no container.
const EARLY_ENDS_MAX: usize = 64;

impl Containers {
    /// Finds what an earlier launcher left: by its facts, and by whether process 1 still is that process.
    pub(crate) fn adopt(run: &RunDir, poller: &Poller, keeper: &KeeperLink) -> Self {
        let mut found = Self::default();
        for entry in std::fs::read_dir(run.containers()).into_iter().flatten().filter_map(Result::ok) {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let number = found.begin(id);
            let phase = match adopt_one(run, id, keeper) {
                Some(Phase::Running(running)) => {
                    // It is nobody's child any more that we could wait for: its handle says when it ends.
                    if poller.add(&running.pidfd, FIRST_PIDFD + number, Interest::Read).is_err() {
                        continue;
                    }
                    Phase::Running(running)
                }
                Some(phase) => phase,
                None => {
                    found.known.remove(&id);
                    continue;
                }
            };
            found.set(id, phase);
        }
        found
    }

    /// A container that a worker begins to start. Its number.
    pub(crate) fn begin(&mut self, id: ContainerId) -> u64 {
        self.last_number += 1;
        let number = self.last_number;
        self.known.insert(id, Container { number, phase: Phase::Starting, mounts: None, swept_for: Vec::new() });
        number
    }

    /// Keeps a container's mounts from being unmounted when its process 1 ends.
    pub(crate) fn hold_mounts(&mut self, id: ContainerId, mounts: Option<OwnedFd>) {
        if let Some(container) = self.known.get_mut(&id) {
            container.mounts = mounts;
        }
    }

    /// What [`hold_mounts`](Self::hold_mounts) holds, to be closed where it may take its time.
    pub(crate) fn give_up_mounts(&mut self, id: ContainerId) -> Option<OwnedFd> {
        self.known.get_mut(&id)?.mounts.take()
    }

    /// Keeps how a child ended that is not known as a container's process 1, or not yet.
    pub(crate) fn remember_end(&mut self, pid: Pid, status: WaitStatus) {
        if self.early_ends.len() == EARLY_ENDS_MAX {
            self.early_ends.pop_front();
        }
        self.early_ends.push_back((pid, status));
    }

    /// How this child ended, if it did so early.
    pub(crate) fn take_early_end(&mut self, pid: Pid) -> Option<WaitStatus> {
        let at = self.early_ends.iter().position(|(ended, _)| *ended == pid)?;
        self.early_ends.remove(at).map(|(_, status)| status)
    }

    /// Its objects are gone. Whether that is all: else the end of its process 1 is yet to come, and `asker` waits for it.
    pub(crate) fn note_swept(&mut self, id: ContainerId, asker: Asker) -> bool {
        match self.known.get_mut(&id).map(|container| (&container.phase, &mut container.swept_for)) {
            Some((Phase::Begun(running) | Phase::Running(running), swept_for)) => {
                // With its groups it was killed, unless somebody had moved it to others.
                rustix::process::pidfd_send_signal(&running.pidfd, Signal::KILL).unwrap_or_default();
                swept_for.push(asker);
                return false;
            }
            Some((Phase::Ended(_), _)) => drop(self.known.remove(&id)),
            Some((Phase::Starting, _)) | None => {}
        }
        true
    }

    /// Whether it is known and has not ended.
    pub(crate) fn is_alive(&self, id: ContainerId) -> bool {
        self.known.get(&id).is_some_and(|container| !matches!(container.phase, Phase::Ended(_)))
    }

    /// Whether some are on their way to their main process.
    pub(crate) fn are_starting(&self) -> bool {
        self.known.values().any(|container| matches!(container.phase, Phase::Starting | Phase::Begun(_)))
    }

    /// Those that have not ended.
    pub(crate) fn alive_count(&self) -> usize {
        self.known.values().filter(|container| !matches!(container.phase, Phase::Ended(_))).count()
    }

    /// Changes where a known container stands.
    pub(crate) fn set(&mut self, id: ContainerId, phase: Phase) {
        if let Some(container) = self.known.get_mut(&id) {
            container.phase = phase;
        }
    }

    pub(crate) fn get_mut(&mut self, id: ContainerId) -> Option<&mut Container> {
        self.known.get_mut(&id)
    }

    /// Forgets it.
    pub(crate) fn remove(&mut self, id: ContainerId) -> Option<Container> {
        self.known.remove(&id)
    }

    /// Whose tokens are made of this number.
    pub(crate) fn by_number(&self, number: u64) -> Option<ContainerId> {
        self.known.iter().find(|(_, container)| container.number == number).map(|(&id, _)| id)
    }

    /// Whose process 1 this is.
    pub(crate) fn by_pid(&self, pid: Pid) -> Option<ContainerId> {
        let is_it = |container: &Container| match &container.phase {
            Phase::Begun(running) | Phase::Running(running) => running.pid == pid,
            Phase::Starting | Phase::Ended(_) => false,
        };
        self.known.iter().find(|(_, container)| is_it(container)).map(|(&id, _)| id)
    }

    /// The next entries after `after`, with the handles of those that run.
    pub(crate) fn list(&self, after: Option<ContainerId>, most: usize) -> (Vec<ContainerEntry>, Vec<OwnedFd>, bool) {
        let range = match after {
            Some(after) => self.known.range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded)),
            None => self.known.range(..),
        };
        let mut rest = range;
        let (mut entries, mut pidfds) = (Vec::new(), Vec::new());
        for (&container, known) in rest.by_ref().take(most) {
            let condition = match &known.phase {
                Phase::Starting | Phase::Begun(_) => ContainerCondition::Starting,
                Phase::Ended(end) => ContainerCondition::Ended(end.clone()),
                Phase::Running(running) => match running.pidfd.as_fd().try_clone_to_owned() {
                    Ok(pidfd) => {
                        pidfds.push(pidfd);
                        ContainerCondition::Running(running.process)
                    }
                    // Without a descriptor left it cannot be handed over now.
                    Err(_) => ContainerCondition::Starting,
                },
            };
            entries.push(ContainerEntry { container, condition });
        }
        let more = rest.next().is_some();
        (entries, pidfds, more)
    }
}

fn adopt_one(run: &RunDir, id: ContainerId, keeper: &KeeperLink) -> Option<Phase> {
    if let Ok(Some(ended)) = facts::read::<EndedFact>(&run.ended_fact(id)) {
        return Some(Phase::Ended(ended));
    }
    let started = facts::read::<StartedFact>(&run.started_fact(id)).ok().flatten()?;
    let process = started.process;
    let unreaped = process.zombie_status();
    if let (None, Some((pid, pidfd))) = (unreaped, process.open()) {
        let running = Running { process, pid, pidfd, status: None, master: None, asker: None };
        return Some(Phase::Running(Box::new(running)));
    }
    // Nobody of us was there, but a pidfd remembers.
    let kept = process_1_name(id).and_then(|name| keeper.stored(&name));
    let remembered = kept.and_then(|pidfd| process_end(pidfd).ok());
    let ended = how_it_ended(run, id, unreaped.or(remembered.and_then(status_of)));
    write_end(run, id, &ended);
    Some(Phase::Ended(ended))
}

/// Under which name the keeper holds a pidfd of a container's process 1, so that how it ended is known even if the
/// launcher was dead then and process 1 was killed.
pub(crate) fn process_1_name(id: ContainerId) -> Option<FdName> {
    FdName::of_container(id, "process-1").ok()
}

/// The exit status that a pidfd remembers.
pub(crate) fn status_of(end: ProcessEnd) -> Option<ExitStatus> {
    match end {
        ProcessEnd::Ended(status) => ExitStatus::from_raw_wait(status),
        ProcessEnd::NotYet | ProcessEnd::Forgotten => None,
    }
}

/// How a container ended: what its process 1 wrote, else what the kernel said of process 1, else nothing.
pub(crate) fn how_it_ended(run: &RunDir, id: ContainerId, seen: Option<ExitStatus>) -> EndedFact {
    if let Ok(Some(end)) = facts::read::<End>(&run.exit_fact(id)) {
        return EndedFact::known(end);
    }
    let at = WallTime::now();
    match seen {
        Some(status) => EndedFact { status: Some(status), at, unknown_because: None },
        None => {
            let unknown_because = Some("process 1 and the launcher were both gone when it ended".to_owned());
            EndedFact { status: None, at, unknown_because }
        }
    }
}

/// Keeps how it ended for those who ask later. A run directory that is gone was swept: then nobody asks.
pub(crate) fn write_end(run: &RunDir, id: ContainerId, ended: &EndedFact) {
    facts::write(&run.ended_fact(id), ended).unwrap_or_default();
}
