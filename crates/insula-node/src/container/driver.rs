//! Performs what [`Lifecycle`] decides, for one container, and publishes the result.
//!
//! The driver is one task. It owns the record, the facts and the lifecycle of its container; long actions (a start,
//! a sweep, a trial, a timer) run as futures that it polls, short ones (a signal, a freeze) are awaited in place.
//! An order of things holds for every step: perform, publish, then answer, so that who was answered sees the state
//! that he was told. Nothing on the way of a start waits for the disk.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use insula_api::{EventSubject, Problem, ProblemCode};
use insula_model::{ContainerSpec, ContainerState, ImageId, RestartPolicy};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use super::command::{Attachment, Command};
use super::facts::Facts;
use super::handle::{AnswerSender, ContainerHandle, gone};
use super::health::Counter;
use super::lend::{Holder, Lent};
use super::lifecycle::Lifecycle;
use super::record::{ContainerRecord, Kept};
use super::snapshot::Snapshot;
use super::words::{Ask, AtEnd, ChangePending, Effect, Found, Input, Ticket, Unfinished, Verdict, Version, Wanted};
use crate::context::Context;
use crate::events::About;
use crate::host::{Exit, RootSource, StartOrder, Started, Streams};
use crate::store::CommitError;

/// Requests that may wait for a driver; more are refused.
const COMMANDS_MAX: usize = 64;

/// Pause before a restart that found the container's files lent tries again.
const LENT_RETRY: Duration = Duration::from_millis(200);

/// A container to drive, as it was created or found.
#[derive(Debug)]
pub(crate) struct Subject {
    /// Intent.
    pub(crate) record: ContainerRecord,
    /// Facts.
    pub(crate) facts: Facts,
    /// How it was found.
    pub(crate) found: Found,
    /// What runs.
    pub(crate) running: Option<Started>,
    /// Where the record is.
    pub(crate) kept: Kept,
}

pub(super) enum Happening {
    StartEnded(Result<Started, Problem>),
    Exited(Exit),
    SweepEnded(Result<(), Problem>),
    TrialEnded { generation: u64, result: Result<(), String> },
    StopDue { generation: u64 },
    RestartDue { generation: u64 },
    Saved(Result<(), CommitError>),
    Returned(Option<Holder>),
    Checked { generation: u64, result: Option<Result<(), String>> },
}

/// Generations make results of what was given up recognisable.
#[derive(Debug, Default)]
pub(super) struct Generations {
    stop: u64,
    restart: u64,
    pub(super) trial: u64,
    pub(super) check: u64,
}

pub(crate) struct Driver {
    pub(super) context: Arc<Context>,
    pub(super) record: ContainerRecord,
    /// The record's, with the limits that hold.
    pub(super) spec: Arc<ContainerSpec>,
    /// Why it cannot be started: its template is gone from the configuration.
    pub(super) unresolved: Option<Problem>,
    pub(super) facts: Facts,
    pub(super) lifecycle: Lifecycle,
    pub(super) running_since: Option<Instant>,
    pub(super) healthy: Option<bool>,
    pub(super) starts: u64,
    pub(super) published: watch::Sender<Arc<Snapshot>>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) happenings: FuturesUnordered<BoxFuture<'static, Happening>>,
    pub(super) generations: Generations,
    pub(super) answers: HashMap<Ticket, AnswerSender>,
    pub(super) last_ticket: u64,
    pub(super) streams: Streams,
    pub(super) attachment: Option<Attachment>,
    pub(super) problem: Option<Problem>,
    pub(super) kept: Kept,
    pub(super) unsaved: bool,
    pub(super) saving: bool,
    pub(super) last_state: Option<ContainerState>,
    pub(super) lent: Lent,
    pub(super) checks: Option<Counter>,
}

/// Starts driving `subject`; the task ends when the container is gone.
pub(crate) fn spawn(context: &Arc<Context>, subject: Subject) -> ContainerHandle {
    let id = subject.record.id;
    let (command_sender, commands) = mpsc::channel(COMMANDS_MAX);
    let driver = Driver::new(context.clone(), subject, commands);
    let handle = ContainerHandle::new(id, command_sender, driver.published.subscribe());
    tokio::spawn(driver.run());
    handle
}

/// The record's configuration with the limits that hold, or with its own alone and why.
fn resolve_spec(context: &Context, record: &ContainerRecord) -> (Arc<ContainerSpec>, Option<Problem>) {
    let mut spec = record.spec.clone();
    let (resources, problem) = match context.config.resolve(&spec) {
        Ok(resolved) => (resolved.resources, None),
        Err(mut problem) => {
            problem.detail = format!("container {}: {}", record.name, problem.detail);
            tracing::warn!(detail = problem.detail, "limits");
            (spec.resources.over(&context.config.default_resources()), Some(problem))
        }
    };
    spec.resources = resources;
    (Arc::new(spec), problem)
}

impl Driver {
    fn new(context: Arc<Context>, subject: Subject, commands: mpsc::Receiver<Command>) -> Self {
        let Subject { record, facts, found, running, kept } = subject;
        let at_end = if record.remove { AtEnd::Delete } else { AtEnd::Keep };
        let mut lifecycle = Lifecycle::new(found, record.spec.restart, at_end);
        lifecycle.resume_restarts(facts.restarts);
        if record.next_image.is_some() {
            lifecycle.step(Input::ImageChange(ChangePending::Yes));
        }
        let (spec, unresolved) = resolve_spec(&context, &record);
        let state = lifecycle.state();
        let snapshot = Snapshot {
            kept,
            state,
            record: Arc::new(record.clone()),
            spec: spec.clone(),
            facts: facts.clone(),
            restarts: lifecycle.restarts(),
            healthy: None,
            health: None,
            starts: 0,
            named: None,
        };
        let mut driver = Self {
            context,
            record,
            spec,
            unresolved,
            facts,
            lifecycle,
            running_since: None,
            healthy: None,
            starts: 0,
            published: watch::Sender::new(Arc::new(snapshot.with_name(None))),
            commands,
            happenings: FuturesUnordered::new(),
            generations: Generations::default(),
            answers: HashMap::new(),
            last_ticket: 0,
            streams: Streams::Detached,
            attachment: None,
            problem: None,
            kept,
            unsaved: false,
            saving: false,
            last_state: state,
            lent: Lent::No,
            checks: None,
        };
        if let Some(started) = running {
            driver.watch_exit(started.exit);
            driver.facts.pid = Some(started.pid);
            driver.facts.cgroup = started.cgroup;
            driver.begin_checks();
        }
        driver
    }

    async fn run(mut self) {
        self.resume().await;
        while self.lifecycle.state().is_some() {
            tokio::select! {
                // What has happened is known before the request of somebody who knows it already.
                biased;
                Some(happening) = self.happenings.next() => self.happened(happening).await,
                command = self.commands.recv(), if self.lent != Lent::Returning => match command {
                    Some(command) => self.command(command).await,
                    // Every handle is gone: the daemon ends, and the container goes on.
                    None => return,
                },
            }
        }
        self.commands.close();
        while let Some(command) = self.commands.recv().await {
            command.refuse(gone(&self.record.name));
        }
    }

    /// Goes on with what the last daemon had begun.
    async fn resume(&mut self) {
        let up = matches!(self.lifecycle.state(), Some(ContainerState::Running | ContainerState::Paused));
        let on_trial = up && self.record.next_image.is_some() && self.facts.image == self.record.next_image;
        let unfinished = self.facts.unfinished.filter(|what| !(up && *what == Unfinished::Start));
        let is_untried = up && !on_trial && self.record.next_image.is_some();
        let upgrade = self.record.upgrade_grace.filter(|_| is_untried).map(|grace| Unfinished::Restart { grace });
        let unfinished = unfinished.or(upgrade);
        if let Some(unfinished) = unfinished {
            tracing::info!(container = %self.record.name, ?unfinished, "finished now");
            let effects = self.lifecycle.finish(unfinished);
            self.perform(effects).await;
        } else if on_trial {
            let effects = self.lifecycle.resume_trial();
            self.perform(effects).await;
        } else if !up && self.record.wanted == Wanted::Running && self.record.spec.restart != RestartPolicy::No {
            let ended = self.facts.finished.map_or(Duration::MAX, |at| elapsed(at, Timestamp::now()));
            let effects = self.lifecycle.resume_policy(self.facts.exit_code, ended);
            self.perform(effects).await;
        } else {
            self.publish();
        }
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Ask { answer, .. } if self.lent != Lent::No => {
                answer.send(Err(self.lent_problem())).ok();
            }
            Command::Lend { answer } => self.lend(answer),
            Command::Ask { ask, streams, answer } => {
                let attaching = !matches!(streams, Streams::Detached);
                if attaching && matches!(self.lifecycle.state(), Some(ContainerState::Running | ContainerState::Paused))
                {
                    let problem = Problem::new(
                        ProblemCode::Conflict,
                        format!(
                            "container {} runs already; its streams cannot be given to it any more",
                            self.record.name
                        ),
                    );
                    answer.send(Err(problem)).ok();
                    return;
                }
                if attaching {
                    self.streams = streams;
                }
                self.ask(ask, answer).await;
                if !matches!(self.lifecycle.state(), Some(ContainerState::Starting | ContainerState::Stopping)) {
                    self.streams = Streams::Detached;
                }
            }
            Command::Set { change, answer } => {
                answer.send(self.set(*change, None).await).ok();
            }
            Command::Upgrade { change, grace, answer } => self.upgrade(*change, grace, answer).await,
            Command::Rename { name, answer } => self.rename(name, answer).await,
        }
    }

    pub(super) async fn ask(&mut self, ask: Ask, answer: AnswerSender) {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.answers.insert(ticket, answer);
        let effects = self.lifecycle.step(Input::Asked(ticket, ask));
        self.perform(effects).await;
    }

    async fn happened(&mut self, happening: Happening) {
        let input = match happening {
            Happening::StartEnded(Ok(started)) => {
                self.started(started);
                Input::StartEnded(Ok(()))
            }
            Happening::StartEnded(Err(problem)) => {
                self.start_failed(problem);
                Input::StartEnded(Err(()))
            }
            Happening::Exited(exit) => self.exited(exit),
            Happening::SweepEnded(result) => {
                if let Err(problem) = result {
                    tracing::error!(container = %self.record.name, detail = problem.detail, "sweep");
                }
                self.context.ledger.release(self.record.id);
                Input::SweepEnded
            }
            Happening::TrialEnded { generation, result } if generation == self.generations.trial => {
                self.healthy = Some(result.is_ok());
                match result {
                    Ok(()) => Input::TrialEnded(Verdict::Good),
                    Err(why) => {
                        self.record.rolled_back = Some(why);
                        Input::TrialEnded(Verdict::Bad)
                    }
                }
            }
            Happening::StopDue { generation } if generation == self.generations.stop => Input::StopDeadline,
            Happening::RestartDue { generation } if self.lent != Lent::No => {
                return self.after(LENT_RETRY, Happening::RestartDue { generation });
            }
            Happening::RestartDue { generation } if generation == self.generations.restart => Input::RestartDue,
            Happening::Checked { generation, result } if generation == self.generations.check => {
                return self.checked(result);
            }
            Happening::Checked { .. } => return,
            Happening::Returned(holder) => return self.take_back(holder),
            Happening::Saved(result) => return self.saved(result),
            Happening::TrialEnded { .. } | Happening::StopDue { .. } | Happening::RestartDue { .. } => return,
        };
        let write_facts = matches!(input, Input::StartEnded(_) | Input::Exited { .. });
        let effects = self.lifecycle.step(input);
        self.perform(effects).await;
        // Of a container that goes when it ends, the record says everything that a later daemon needs.
        if write_facts && !self.record.remove && self.lifecycle.state().is_some() {
            self.facts.restarts = self.lifecycle.restarts();
            self.write_facts();
            self.remember_run();
        }
    }

    fn started(&mut self, started: Started) {
        self.facts.pid = Some(started.pid);
        self.facts.cgroup = started.cgroup;
        self.facts.started = Some(Timestamp::now());
        self.facts.finished = None;
        self.facts.exit_code = None;
        self.facts.reason = None;
        self.facts.start_failed = false;
        self.running_since = Some(Instant::now());
        self.starts += 1;
        self.healthy = None;
        self.problem = None;
        self.attachment = Some(Attachment { pid: started.pid, follow: started.follow, master: started.master });
        self.watch_exit(started.exit);
        self.begin_checks();
        self.event("started", &[("pid", started.pid.to_string())]);
    }

    fn start_failed(&mut self, problem: Problem) {
        let image = self.facts.image.as_ref().unwrap_or(&self.record.image);
        tracing::warn!(container = %self.record.name, %image, detail = problem.detail, "start failed");
        if self.record.next_image.is_some() {
            self.record.rolled_back = Some(format!("{image} did not start: {}", problem.detail));
        }
        self.facts.pid = None;
        self.facts.reason = Some(problem.detail.clone());
        self.facts.start_failed = true;
        self.facts.finished = Some(Timestamp::now());
        self.context.ledger.release(self.record.id);
        self.event("start_failed", &[("reason", problem.detail.clone())]);
        self.problem = Some(problem);
    }

    fn exited(&mut self, exit: Exit) -> Input {
        let ran = match (self.running_since.take(), self.facts.started) {
            (Some(since), _) => since.elapsed(),
            (None, Some(started)) => elapsed(started, exit.at),
            (None, None) => Duration::ZERO,
        };
        let on_trial = self.record.next_image.is_some() && self.facts.image == self.record.next_image;
        if on_trial && exit.code != Some(0) {
            let code = exit.code.map_or_else(|| "an unknown code".to_owned(), |code| format!("code {code}"));
            let image = self.record.wanted_image();
            self.record.rolled_back = Some(format!("{image} ended with {code} {} ms after its start", ran.as_millis()));
        }
        self.end_checks();
        self.facts.pid = None;
        self.facts.exit_code = exit.code;
        self.facts.reason = exit.reason;
        self.facts.finished = Some(exit.at);
        let code = exit.code.map_or_else(|| "unknown".to_owned(), |code| code.to_string());
        self.event("exited", &[("exit_code", code)]);
        Input::Exited { code: exit.code, ran }
    }

    pub(super) async fn perform(&mut self, effects: Vec<Effect>) {
        self.note_unfinished();
        let mut queue = VecDeque::from(effects);
        let mut replies = Vec::new();
        while let Some(effect) = queue.pop_front() {
            if let Effect::Reply(ticket, reply) = effect {
                replies.push((ticket, reply));
            } else if let Some(input) = self.perform_one(effect).await {
                queue.extend(self.lifecycle.step(input));
            }
        }
        self.publish();
        for (ticket, reply) in replies {
            self.reply(ticket, reply);
        }
        self.attachment = None;
        self.save_if_needed();
    }

    /// Writes down what the next daemon is to finish, before anything of it is done, and that it is finished.
    fn note_unfinished(&mut self) {
        let unfinished = self.lifecycle.unfinished();
        if self.facts.unfinished != unfinished {
            self.facts.unfinished = unfinished;
            self.write_facts();
        }
    }

    async fn perform_one(&mut self, effect: Effect) -> Option<Input> {
        let (id, pid) = (self.record.id, self.facts.pid.unwrap_or_default());
        let host = self.context.host.clone();
        match effect {
            Effect::Start(version) => self.begin_start(version),
            Effect::SignalStop => {
                let signal = self.context.catalog.stop_signal(self.facts.image.as_ref(), &self.spec);
                let result = host.signal(id, pid, signal).await;
                self.note(result);
            }
            Effect::Signal(signal) => {
                let result = host.signal(id, pid, signal).await;
                self.note(result);
            }
            Effect::KillAll => {
                let result = host.kill_all(id, pid).await;
                self.note(result);
            }
            Effect::Freeze(ticket) => {
                let result = host.freeze(id).await;
                return Some(Input::FreezeEnded(ticket, self.keep_problem(result)));
            }
            Effect::Thaw(ticket) => {
                let result = host.thaw(id).await;
                let result = self.keep_problem(result);
                return ticket.map(|ticket| Input::ThawEnded(ticket, result));
            }
            Effect::Sweep => {
                let swept = host.sweep(id, self.facts.traces.clone());
                self.happenings.push(Box::pin(async move { Happening::SweepEnded(swept.await) }));
            }
            Effect::ArmStop(grace) => {
                self.generations.stop += 1;
                let generation = self.generations.stop;
                self.after(grace, Happening::StopDue { generation });
            }
            Effect::DisarmStop => self.generations.stop += 1,
            Effect::ArmRestart(pause) => {
                self.generations.restart += 1;
                let generation = self.generations.restart;
                self.after(pause, Happening::RestartDue { generation });
            }
            Effect::DisarmRestart => self.generations.restart += 1,
            Effect::BeginTrial => self.begin_trial(),
            Effect::EndTrial => self.generations.trial += 1,
            Effect::KeepChange => self.keep_change(),
            Effect::DropChange => self.drop_change(),
            Effect::Want(wanted) => self.want(wanted),
            Effect::Forget => self.forget().await,
            Effect::Reply(..) => {}
        }
        None
    }

    fn begin_start(&mut self, version: Version) {
        let image = match version {
            Version::Wanted => self.record.wanted_image().clone(),
            Version::LastGood => self.record.image.clone(),
        };
        self.facts.image = Some(image.clone());
        self.facts.traces = self.record.traces();
        self.facts.started = None;
        self.facts.start_failed = false;
        self.facts.restarts = self.lifecycle.restarts();
        // Written before anything runs: a daemon that finds the container knows what it was to be.
        let written = match self.record.remove {
            true => self.context.facts.write_record(&self.record),
            false => self.context.facts.write_facts(self.record.id, &self.facts),
        };
        if let Err(error) = written {
            tracing::warn!(container = %self.record.name, %error, "facts of a start");
        }
        if self.record.remove && self.kept == Kept::Stored {
            // From here on it is as one that was run with `--rm`. Not waited for: until then the store has the older
            // word, and what the run directory says of it is newer.
            self.kept = Kept::WhileItRuns;
            let gone = self.context.store.delete(self.record.id);
            self.happenings.push(Box::pin(async move { Happening::Saved(gone.await) }));
        }
        let prepared = self.prepare_start(image);
        let host = self.context.host.clone();
        self.happenings.push(Box::pin(async move {
            Happening::StartEnded(match prepared {
                Ok(order) => host.start(order).await,
                Err(problem) => Err(problem),
            })
        }));
    }

    fn prepare_start(&mut self, image: ImageId) -> Result<StartOrder, Problem> {
        let streams = std::mem::replace(&mut self.streams, Streams::Detached);
        if let Some(problem) = &self.unresolved {
            return Err(problem.clone());
        }
        self.context.refuse_taken_ports(self.record.id, &self.spec.ports)?;
        self.context.ledger.reserve(self.record.id, &self.spec.resources)?;
        Ok(StartOrder {
            id: self.record.id,
            name: self.record.name.clone(),
            spec: self.spec.clone(),
            root: RootSource::Image(image),
            files: self.record.id,
            ids: self.record.ids,
            addresses: self.record.addresses,
            streams,
        })
    }

    /// Makes [`Self::spec`] anew of the record's.
    pub(super) fn resolve(&mut self) {
        (self.spec, self.unresolved) = resolve_spec(&self.context, &self.record);
    }

    fn watch_exit(&mut self, exit: BoxFuture<'static, Exit>) {
        self.happenings.push(Box::pin(async move { Happening::Exited(exit.await) }));
    }

    fn after(&mut self, time: Duration, happening: Happening) {
        self.happenings.push(Box::pin(async move {
            tokio::time::sleep(time).await;
            happening
        }));
    }

    pub(super) fn publish(&mut self) {
        let state = self.lifecycle.state();
        let snapshot = Snapshot {
            kept: self.kept,
            state,
            record: Arc::new(self.record.clone()),
            spec: self.spec.clone(),
            facts: self.facts.clone(),
            restarts: self.lifecycle.restarts(),
            healthy: self.healthy,
            health: self.checks.as_ref().map(Counter::health),
            starts: self.starts,
            named: None,
        };
        let now = snapshot.with_name(Some(&self.published.borrow()));
        let now = Arc::new(now);
        let before = self.published.send_replace(now.clone());
        self.context.names.tell_if_other(&before, &now);
        if state != self.last_state {
            self.last_state = state;
            match state {
                Some(ContainerState::Paused) => self.event("paused", &[]),
                Some(ContainerState::Stopped) => self.event("stopped", &[]),
                _ => {}
            }
        }
    }

    pub(super) fn event(&self, action: &str, attributes: &[(&str, String)]) {
        let record = &self.record;
        let about =
            About { subject: EventSubject::Container, name: record.name.as_str(), id: Some(record.id.to_string()) };
        self.context.events.publish(about, action, attributes);
    }

    pub(super) fn note(&self, result: Result<(), Problem>) {
        if let Err(problem) = result {
            tracing::warn!(container = %self.record.name, detail = problem.detail, "host");
        }
    }

    pub(super) fn keep_problem(&mut self, result: Result<(), Problem>) -> Result<(), ()> {
        result.map_err(|problem| self.problem = Some(problem))
    }
}

pub(super) fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}
