//! What the daemon asks, and what becomes of it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use insula_kernel::pidfd_info::{ProcessEnd, process_end};
use insula_plan::plan::{PLAN_BYTES_MAX, Plan};
use insula_plan::protocol::ContainerId;
use insula_plan::protocol::channel::{self, Channel, ReceiveError, Received, SendError, Wait};
use insula_plan::protocol::facts::{self, StartedFact};
use insula_plan::protocol::failure::{Failure, FailureKind};
use insula_plan::protocol::init::InitEvent;
use insula_plan::protocol::keeper::KeeperRequest;
use insula_plan::protocol::launcher::{
    CONTAINERS_PER_ANSWER, LauncherCall, LauncherEvent, LauncherOutcome, LauncherRequest, ShutdownWhen, WAITING_MAX,
    WORKERS_MAX,
};
use insula_plan::protocol::status::{ExitStatus, WallTime};
use insula_plan::slot::{Input, Slots};
use insula_plan::sweep::{SWEEP_BYTES_MAX, SweepPlan};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::process::Pid;
use rustix::time::Timespec;

use super::containers::{Phase, Running, how_it_ended, process_1_name, status_of, write_end};
use super::daemon::Asker;
use super::join::JoinWork;
use super::keeper_link::Heard;
use super::worker::{self, Report, Task, Worker};
use super::{FIRST_PIDFD, FIRST_STATUS, Flow, KEEPER, Launcher};
use crate::sealed;
use insula_kernel::poller::Interest;

/// A task that waits for a worker.
#[derive(Debug)]
pub(crate) struct Waiting {
    asker: Asker,
    work: Work,
}

/// What a worker is to do.
#[derive(Debug)]
enum Work {
    Start { plan: Box<Plan>, file: OwnedFd, fds: Vec<OwnedFd> },
    Sweep(Box<SweepPlan>),
    Join(Box<JoinWork>),
}

pub(crate) fn malformed(message: &str) -> Failure {
    Failure::new(FailureKind::Malformed, message)
}

/// The whole content of a memory file, up to `most` bytes and one.
fn read_file(file: &OwnedFd, most: usize) -> Result<Vec<u8>, Failure> {
    let kernel = |errno: rustix::io::Errno| Failure::from_error(FailureKind::Kernel, &errno);
    let size = usize::try_from(rustix::fs::fstat(file).map_err(kernel)?.st_size).unwrap_or(usize::MAX);
    let mut bytes = vec![0; size.min(most + 1)];
    let mut done = 0;
    while done < bytes.len() {
        let offset = u64::try_from(done).unwrap_or(u64::MAX);
        match rustix::io::pread(file, &mut bytes[done..], offset).map_err(kernel)? {
            0 => break,
            read => done += read,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// Reads and checks a plan.
pub(crate) fn read_plan(file: &OwnedFd) -> Result<Plan, Failure> {
    Plan::decode(&read_file(file, PLAN_BYTES_MAX)?).map_err(|error| Failure::from_error(FailureKind::Malformed, &error))
}

impl Launcher {
    /// Serves every call that is there.
    pub(crate) fn daemon_ready(&mut self) -> Flow {
        loop {
            match self.daemon.receive() {
                Ok(received) => {
                    if self.serve(received) == Flow::End {
                        return Flow::End;
                    }
                }
                Err(ReceiveError::WouldBlock) => return Flow::Go,
                Err(_) => {
                    self.daemon.forget(&self.poller);
                    return Flow::Go;
                }
            }
        }
    }

    fn serve(&mut self, Received { message, fds }: Received<LauncherCall>) -> Flow {
        let asker = self.daemon.asker(message.op);
        let outcome = match message.request {
            LauncherRequest::Hello { .. } => Ok(self.welcome()),
            LauncherRequest::Start { container } => {
                let work = self.start_work(container, fds);
                return self.queue(asker, work);
            }
            LauncherRequest::Sweep { container } => return self.queue(asker, sweep_work(container, fds)),
            LauncherRequest::Join { container, process, on_close } => {
                let work = JoinWork { container, process, streams: fds, on_close };
                return self.queue(asker, Ok(Work::Join(Box::new(work))));
            }
            LauncherRequest::MountImage { key } => self.mount_image(&key, &fds),
            LauncherRequest::UnmountImage { key } => {
                let unmounted = self.images.unmount(&key).map(|()| LauncherOutcome::Done);
                unmounted.map_err(|error| Failure::from_error(FailureKind::Kernel, &error))
            }
            LauncherRequest::Keep(request) => match self.keeper.pass_on(request, fds, Some(asker)) {
                Ok(()) => return Flow::Go,
                Err(error @ SendError::WouldBlock) => Err(Failure::from_error(FailureKind::Busy, &error)),
                Err(error) => Err(Failure::from_error(FailureKind::KeeperLost, &error)),
            },
            LauncherRequest::List { after } => {
                self.list(asker, after);
                return Flow::Go;
            }
            LauncherRequest::ListImages => Ok(LauncherOutcome::Images { keys: self.images.keys() }),
            LauncherRequest::Shutdown(when) => return self.shut_down(asker, when),
            LauncherRequest::ServeGuests(fact) => self.serve_guests(fact),
            LauncherRequest::EndGuests => {
                self.end_guests();
                Ok(LauncherOutcome::Done)
            }
            LauncherRequest::Upgrade => Err(self.upgrade(asker, fds.first())),
        };
        self.answer(asker, outcome);
        Flow::Go
    }

    fn welcome(&self) -> LauncherOutcome {
        LauncherOutcome::Welcome {
            version: insula_plan::protocol::PROTOCOL_VERSION,
            pid: std::process::id(),
            running: u32::try_from(self.containers.alive_count()).unwrap_or(u32::MAX),
        }
    }

    pub(crate) fn answer(&self, asker: Asker, outcome: Result<LauncherOutcome, Failure>) {
        self.daemon.answer(asker, outcome.unwrap_or_else(LauncherOutcome::Failed), &[]);
    }

    fn mount_image(
        &mut self,
        key: &insula_plan::protocol::launcher::ImageKey,
        fds: &[OwnedFd],
    ) -> Result<LauncherOutcome, Failure> {
        let file = fds.first().ok_or_else(|| malformed("the image's file is missing"))?;
        let mounted = self.images.mount(key, file.as_fd());
        mounted.map(|()| LauncherOutcome::Mounted).map_err(|error| Failure::from_error(FailureKind::Kernel, &error))
    }

    fn list(&self, asker: Asker, after: Option<ContainerId>) {
        let (containers, pidfds, more) = self.containers.list(after, CONTAINERS_PER_ANSWER);
        let pidfds: Vec<BorrowedFd<'_>> = pidfds.iter().map(AsFd::as_fd).collect();
        self.daemon.answer(asker, LauncherOutcome::Containers { containers, more }, &pidfds);
    }

    fn shut_down(&mut self, asker: Asker, when: ShutdownWhen) -> Flow {
        let running = self.containers.alive_count();
        if when == ShutdownWhen::Idle && running > 0 {
            let message = format!("{running} containers run");
            self.answer(asker, Err(Failure::new(FailureKind::Exists, message)));
            return Flow::Go;
        }
        self.answer(asker, Ok(LauncherOutcome::Done));
        self.end_others();
        Flow::End
    }

    /// Ends what works for the launcher, which is about to end.
    pub(crate) fn end_others(&mut self) {
        self.ending = true;
        self.keeper.shut_down();
        self.end_guests();
    }

    /// Reads and checks a start; the container counts as starting from here on.
    fn start_work(&self, container: ContainerId, fds: Vec<OwnedFd>) -> Result<Work, Failure> {
        let mut fds = fds.into_iter();
        let file = fds.next().ok_or_else(|| malformed("the plan is missing"))?;
        let plan = read_plan(&file)?;
        let fds: Vec<OwnedFd> = fds.collect();
        if plan.container != container || plan.given_count() != fds.len() {
            return Err(malformed("the plan is another container's, or descriptors are missing"));
        }
        if self.containers.is_alive(container) {
            return Err(Failure::new(FailureKind::Exists, "the container runs already"));
        }
        Ok(Work::Start { plan: Box::new(plan), file, fds })
    }

    fn queue(&mut self, asker: Asker, work: Result<Work, Failure>) -> Flow {
        match work {
            Err(failure) => self.answer(asker, Err(failure)),
            Ok(_) if self.ending => {
                self.answer(asker, Err(Failure::new(FailureKind::Ending, "the launcher is ending")));
            }
            Ok(_) if self.waiting.len() >= WAITING_MAX => {
                let message = format!("{WAITING_MAX} operations are waiting; try again later");
                self.answer(asker, Err(Failure::new(FailureKind::Busy, message)));
            }
            Ok(work) => {
                self.waiting.push_back(Waiting { asker, work });
                self.employ();
            }
        }
        Flow::Go
    }

    /// Gives waiting tasks to workers, as many as may be at work.
    fn employ(&mut self) {
        while self.workers.count() < WORKERS_MAX {
            let Some(Waiting { asker, work }) = self.waiting.pop_front() else { return };
            let outcome = match work {
                Work::Start { plan, file, fds } => self.employ_start(asker, (&plan, &file), fds),
                Work::Join(work) => self.employ_join(asker, &work),
                Work::Sweep(plan) => {
                    let task = Task::Sweep { container: plan.container };
                    let mounts = self.containers.give_up_mounts(plan.container);
                    let spawned =
                        self.workers.spawn(&self.poller, (task, asker), |report| worker::sweep(report, &plan, mounts));
                    spawned.map_err(|errno| Failure::from_error(FailureKind::Kernel, &errno))
                }
            };
            if let Err(failure) = outcome {
                self.answer(asker, Err(failure));
            }
        }
    }

    fn employ_start(
        &mut self,
        asker: Asker,
        (plan, file): (&Plan, &OwnedFd),
        fds: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let container = plan.container;
        let (slots, status) = self.fill(container, plan, fds)?;
        // What an earlier run of the same container left says nothing about this one.
        for fact in [self.run.started_fact(container), self.run.ended_fact(container), self.run.join_fact(container)] {
            facts::remove(&fact).map_err(|error| Failure::from_error(FailureKind::Kernel, &error))?;
        }
        if let Some(join) = &plan.join {
            facts::write(&self.run.join_fact(container), join)
                .map_err(|error| Failure::from_error(FailureKind::Kernel, &error))?;
        }
        self.containers.begin(container);
        let task = Task::Start { container, status };
        let spawned = self.workers.start(&self.poller, (task, asker), (plan, file, slots));
        spawned.map_err(|errno| {
            self.containers.remove(container);
            Failure::from_error(FailureKind::Kernel, &errno)
        })
    }

    /// The descriptors that a plan's first slots are to hold.
    fn fill(
        &self,
        container: ContainerId,
        plan: &Plan,
        fds: Vec<OwnedFd>,
    ) -> Result<(Slots, Option<Channel>), Failure> {
        let kernel = |errno: rustix::io::Errno| Failure::from_error(FailureKind::Kernel, &errno);
        let folder = self.run.container(container);
        std::fs::create_dir_all(&folder).map_err(|error| Failure::from_error(FailureKind::Kernel, &error))?;
        let mut given = fds.into_iter();
        let missing = || malformed("descriptors are missing");
        let mut status = None;
        let mut filled = Vec::with_capacity(plan.inputs.len());
        for input in &plan.inputs {
            filled.push(match input {
                Input::Given => here(given.next().ok_or_else(missing)?),
                Input::Mount => given.next().ok_or_else(missing)?,
                Input::ImageMount { key } => {
                    let unknown = || Failure::new(FailureKind::Unknown, format!("image {} is not mounted", key.0));
                    self.images
                        .get(key)
                        .ok_or_else(unknown)?
                        .try_clone_to_owned()
                        .map_err(|error| Failure::from_error(FailureKind::Kernel, &error))?
                }
                Input::InitProgram => rustix::io::fcntl_dupfd_cloexec(&self.init_program, 0).map_err(kernel)?,
                Input::Status => {
                    let (ours, theirs) = Channel::pair().map_err(kernel)?;
                    status = Some(ours);
                    theirs.into_socket()
                }
                Input::ExecListener => channel::listen(&self.run.exec_socket(container))
                    .map_err(|error| Failure::from_error(FailureKind::Kernel, &error))?,
                Input::ExitFact => {
                    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
                    rustix::fs::open(self.run.exit_fact(container), flags, Mode::RUSR | Mode::WUSR).map_err(kernel)?
                }
                Input::Content { bytes } => sealed::data("insula-config", bytes)
                    .map_err(|error| Failure::from_error(FailureKind::Kernel, &error))?,
                Input::Null => {
                    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(kernel)?
                }
            });
        }
        Ok((Slots::new(filled), status))
    }

    /// A worker reported, or died.
    pub(crate) fn worker_ready(&mut self, number: u64) {
        let Some((worker, Received { message, fds })) = self.workers.take(number, &self.poller) else { return };
        // What is left of it is dropped at the end: a worker that waits to be seen is seen by then.
        let Worker { task, asker, .. } = worker;
        match (task, message) {
            (Task::Start { container, status }, Report::Started { process, mounts, console }) => {
                let mut fds = fds.into_iter();
                let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
                let (Some(pid), Some(pidfd)) = (pid, fds.next()) else { return };
                self.containers.hold_mounts(container, mounts.then(|| fds.next()).flatten());
                let master = console.then(|| fds.next()).flatten();
                let running = Running { process, pid, pidfd, status, master, asker: Some(asker) };
                self.begun(container, running);
            }
            (Task::Start { container, .. }, Report::Failed(failure)) => {
                self.containers.remove(container);
                self.answer(asker, Err(failure));
            }
            (Task::Sweep { container }, Report::Swept) => {
                // A start that comes before the end of what was killed would be told that the container runs.
                if self.containers.note_swept(container, asker) {
                    self.answer(asker, Ok(LauncherOutcome::Done));
                }
            }
            (Task::Sweep { .. }, Report::Failed(failure)) => self.answer(asker, Err(failure)),
            (Task::Join { container, on_close }, Report::Joined(number)) => {
                self.joined(asker, (container, on_close), (number, fds));
            }
            (Task::Join { .. }, Report::Failed(failure)) => self.answer(asker, Err(failure)),
            (Task::Start { .. }, Report::Swept | Report::Joined(_))
            | (Task::Sweep { .. }, Report::Started { .. } | Report::Joined(_))
            | (Task::Join { .. }, Report::Started { .. } | Report::Swept) => {}
        }
        self.employ();
    }

    /// Process 1 is there. Ours tells when the main process runs; the image's own is the main process.
    fn begun(&mut self, id: ContainerId, running: Running) {
        let started = StartedFact { process: running.process, at: WallTime::now() };
        if let Err(error) = facts::write(&self.run.started_fact(id), &started)
            && let Some(asker) = running.asker
        {
            self.answer(asker, Err(Failure::from_error(FailureKind::Kernel, &error)));
        }
        self.keep_process_1(id, &running.pidfd);
        let has_ended = has_ended(&running.pidfd);
        let has_status = running.status.is_some();
        let Some(container) = self.containers.get_mut(id) else { return };
        let token = FIRST_STATUS + container.number;
        if let Some(status) = &running.status
            && self.poller.add(status, token, Interest::Read).is_err()
        {
            return;
        }
        let pid = running.pid;
        container.phase = Phase::Begun(Box::new(running));
        if !has_status {
            self.started(id, 1);
        }
        // What is remembered may be of an earlier process of the same number.
        let early = self.containers.take_early_end(pid);
        if let Some(status) = early.filter(|_| has_ended) {
            self.container_ended(id, ExitStatus::from_wait(status));
        }
    }

    /// Has the keeper hold a pidfd of process 1. If it cannot, all that is lost is the exit status in case that both
    /// the launcher and process 1 are killed.
    fn keep_process_1(&mut self, id: ContainerId, pidfd: &OwnedFd) {
        if let (Some(name), Ok(copy)) = (process_1_name(id), rustix::io::fcntl_dupfd_cloexec(pidfd, 0)) {
            self.keeper.pass_on(KeeperRequest::Put { name }, vec![copy], None).unwrap_or_default();
        }
    }

    /// The main process runs: now the daemon is told.
    fn started(&mut self, id: ContainerId, main_pid: u32) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let phase = std::mem::replace(&mut container.phase, Phase::Starting);
        let Phase::Begun(mut running) = phase else {
            container.phase = phase;
            return;
        };
        let asker = running.asker.take();
        let process = running.process;
        let pidfd = rustix::io::fcntl_dupfd_cloexec(&running.pidfd, 0);
        let master = running.master.take();
        // Nothing more that counts comes from there: the end is read from the exit fact.
        if let Some(status) = running.status.take() {
            self.poller.remove(&status);
        }
        container.phase = Phase::Running(running);
        if let (Some(asker), Ok(pidfd)) = (asker, pidfd) {
            let mut fds = vec![pidfd.as_fd()];
            fds.extend(master.as_ref().map(AsFd::as_fd));
            self.daemon.answer(asker, LauncherOutcome::Started { process, main_pid }, &fds);
        }
    }

    /// Process 1 of a container told something about the main process.
    pub(crate) fn status_ready(&mut self, number: u64) {
        let Some(id) = self.containers.by_number(number) else { return };
        let Some(container) = self.containers.get_mut(id) else { return };
        let (Phase::Begun(running) | Phase::Running(running)) = &mut container.phase else { return };
        let Some(status) = &running.status else { return };
        match status.receive::<InitEvent>(Wait::Never) {
            Ok(Received { message: InitEvent::Started { pid }, fds }) => {
                running.master = fds.into_iter().next();
                self.started(id, pid);
            }
            Ok(Received { message: InitEvent::Failed(failure), .. }) => {
                let asker = running.asker.take();
                let message = failure.to_string();
                if let Some(asker) = asker {
                    let mut told = Failure::new(FailureKind::Spawn(failure), message);
                    told.step = Some("main-process".to_owned());
                    self.answer(asker, Err(told));
                }
            }
            Ok(Received { message: InitEvent::Ended(_) | InitEvent::EndedUnseen, .. })
            | Err(ReceiveError::WouldBlock) => {}
            Err(_) => {
                if let Some(status) = running.status.take() {
                    self.poller.remove(&status);
                }
            }
        }
    }

    /// Process 1 of some container ended.
    pub(crate) fn container_ended(&mut self, id: ContainerId, seen: Option<ExitStatus>) {
        // What it said last is still in its socket.
        if let Some(number) = self.containers.get_mut(id).map(|container| container.number) {
            self.status_ready(number);
        }
        let end = how_it_ended(&self.run, id, seen);
        let Some(container) = self.containers.get_mut(id) else { return };
        let phase = std::mem::replace(&mut container.phase, Phase::Ended(end.clone()));
        let swept_for = std::mem::take(&mut container.swept_for);
        if let Phase::Begun(running) | Phase::Running(running) = phase {
            if let Some(status) = &running.status {
                self.poller.remove(status);
            }
            self.poller.remove(&running.pidfd);
            if let Some(asker) = running.asker {
                let message = "process 1 ended before the main process ran";
                self.answer(asker, Err(Failure::new(FailureKind::WorkerLost, message)));
            }
        }
        if swept_for.is_empty() {
            write_end(&self.run, id, &end);
        } else {
            self.containers.remove(id);
        }
        if let Some(name) = process_1_name(id) {
            // The fact says it now. One that stays there is removed with the container.
            self.keeper.pass_on(KeeperRequest::Remove { name }, Vec::new(), None).unwrap_or_default();
        }
        self.daemon.tell(&LauncherEvent::Exited { container: id, end }, &[]);
        for asker in swept_for {
            self.answer(asker, Ok(LauncherOutcome::Done));
        }
    }

    /// Process 1 of a container that an earlier launcher started ended.
    pub(crate) fn stranger_ended(&mut self, number: u64) {
        debug_assert!(number < FIRST_PIDFD, "a container's number");
        let Some(id) = self.containers.by_number(number) else { return };
        let Some(Phase::Running(running)) = self.containers.get_mut(id).map(|container| &container.phase) else {
            return;
        };
        let seen = running.process.zombie_status();
        let remembered = process_end(&running.pidfd).unwrap_or(ProcessEnd::Forgotten);
        if seen.is_none() && remembered == ProcessEnd::NotYet {
            // Between its end and its being reaped; its handle hangs up when it is.
            self.poller.change(&running.pidfd, FIRST_PIDFD + number, Interest::End).unwrap_or_default();
            return;
        }
        self.container_ended(id, seen.or(status_of(remembered)));
    }

    /// The keeper said something, or died.
    pub(crate) fn keeper_ready(&mut self) {
        loop {
            match self.keeper.hear() {
                Ok(Heard::Answer(asker, answer, fds)) => {
                    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
                    self.daemon.answer(asker, LauncherOutcome::Kept(answer), &fds);
                }
                Ok(Heard::Drained(container)) => self.daemon.tell(&LauncherEvent::LogDrained { container }, &[]),
                Ok(Heard::Nothing) => {}
                Err(ReceiveError::WouldBlock) => {
                    let askers = self.keeper.ask_held();
                    return self.refuse(askers, "the keeper does not take it");
                }
                Err(_) => {
                    self.poller.remove(&self.keeper);
                    let askers = self.keeper.died(Instant::now());
                    return self.refuse(askers, "the keeper died before it answered");
                }
            }
        }
    }

    /// Puts another keeper in the place of one that died, if it is time. What it was to be asked meanwhile it is asked.
    pub(crate) fn start_keeper_if_due(&mut self, now: Instant) {
        if !self.keeper.is_due(now) {
            return;
        }
        let replaced = self.keeper.replace().is_ok() && self.poller.add(&self.keeper, KEEPER, Interest::Read).is_ok();
        if !replaced {
            let askers = self.keeper.died(now);
            return self.refuse(askers, "the keeper died, and no other could be started");
        }
        self.daemon.tell(&LauncherEvent::KeeperRestarted, &[]);
        let askers = self.keeper.ask_held();
        self.refuse(askers, "the keeper died again");
    }

    fn refuse(&self, askers: Vec<Asker>, why: &str) {
        for asker in askers {
            self.answer(asker, Err(Failure::new(FailureKind::KeeperLost, why)));
        }
    }
}

/// Whether a process ended, by its pidfd.
pub(super) fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&Timespec::default())).is_ok_and(|count| count > 0)
}

/// The same file as this mount namespace has it. The kernel clones only mounts of the caller's own namespace, and the
/// daemon opened it in its own. What cannot be found again, or is another file by now, stays as it was given: if it is
/// to be cloned, the kernel then refuses it by name. Pipes and sockets have no place to be found at.
fn here(given: OwnedFd) -> OwnedFd {
    let is_place = rustix::fs::fcntl_getfl(&given).is_ok_and(|flags| flags.contains(OFlags::PATH))
        || rustix::fs::fstat(&given).is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory);
    if !is_place {
        return given;
    }
    let found = rustix::fs::readlink(format!("/proc/self/fd/{}", given.as_raw_fd()), Vec::new())
        .and_then(|path| rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()));
    let same = |other: &OwnedFd| match (rustix::fs::fstat(&given), rustix::fs::fstat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    };
    match found {
        Ok(found) if same(&found) => found,
        _ => given,
    }
}

/// Reads and checks a sweep.
fn sweep_work(container: ContainerId, fds: Vec<OwnedFd>) -> Result<Work, Failure> {
    let file = fds.into_iter().next().ok_or_else(|| malformed("the sweep is missing"))?;
    let plan = SweepPlan::decode(&read_file(&file, SWEEP_BYTES_MAX)?)
        .map_err(|error| Failure::from_error(FailureKind::Malformed, &error))?;
    if plan.container != container {
        return Err(malformed("the sweep is another container's"));
    }
    Ok(Work::Sweep(Box::new(plan)))
}
