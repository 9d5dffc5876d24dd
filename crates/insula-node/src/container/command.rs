//! Requests to a driver and their answers: changes of the configuration, names, and what a verb came to.

use std::os::fd::OwnedFd;
use std::time::Duration;

use insula_api::{Problem, ProblemCode};
use insula_model::{ContainerName, ContainerState};

use super::driver::Driver;
use super::handle::{AnswerSender, gone};
use super::lend::{Lent, LentFiles};
use super::words::{Activity, Ask, ChangePending, Input, Reply, Ticket};
use crate::host::Streams;
use crate::settings::Change;

/// A request to a driver.
#[derive(Debug)]
pub(crate) enum Command {
    /// A verb of the lifecycle; `streams` are for a start that it leads to.
    Ask { ask: Ask, streams: Streams, answer: AnswerSender },
    /// Changes of the configuration, checked already.
    Set { change: Box<Change>, answer: AnswerSender },
    /// Changes of the image, checked already, and the restart that tries them; refused as a whole when it cannot begin.
    Upgrade { change: Box<Change>, grace: Duration, answer: AnswerSender },
    /// Another name.
    Rename { name: ContainerName, answer: AnswerSender },
    /// The files of a container that does not run.
    Lend { answer: AnswerSender },
}

/// What a request came to.
#[derive(Debug)]
pub(crate) enum Answer {
    /// As asked.
    Done,
    /// It runs, with these descriptors for who attached.
    Attached(Attachment),
    /// The new version failed and the last good one was started again.
    RolledBack,
    /// The files asked for.
    Files(LentFiles),
}

/// Descriptors for who started a container in the foreground.
#[derive(Debug)]
pub(crate) struct Attachment {
    /// Host process id of process 1.
    pub(crate) pid: u32,
    /// A pidfd of process 1, then the file that holds the main process's end.
    pub(crate) follow: Vec<OwnedFd>,
    /// The terminal's master.
    pub(crate) master: Option<OwnedFd>,
}

impl Command {
    pub(super) fn refuse(self, problem: Problem) {
        let (Self::Ask { answer, .. }
        | Self::Set { answer, .. }
        | Self::Upgrade { answer, .. }
        | Self::Rename { answer, .. }
        | Self::Lend { answer }) = self;
        answer.send(Err(problem)).ok();
    }
}

impl Driver {
    pub(super) async fn upgrade(&mut self, change: Change, grace: Duration, answer: AnswerSender) {
        let is_busy = matches!(self.lifecycle.state(), Some(ContainerState::Starting | ContainerState::Stopping));
        let changed = match self.lent {
            _ if is_busy => Ok(Answer::Done),
            Lent::No => self.set(change, Some(grace)).await,
            _ => Err(self.lent_problem()),
        };
        match changed {
            // What is under way is known to who refuses it.
            Ok(_) => self.ask(Ask::Upgrade { grace }, answer).await,
            Err(problem) => drop(answer.send(Err(problem))),
        }
    }

    /// Takes the changes; `upgrade` is the grace of the restart that follows if it runs.
    pub(super) async fn set(&mut self, change: Change, upgrade: Option<Duration>) -> Result<Answer, Problem> {
        if self.lifecycle.upgrading() {
            return Err(self.busy(Activity::Upgrade));
        }
        let mut record = self.record.clone();
        change.apply(&mut record);
        if self.facts.pid.is_some() {
            record.upgrade_grace = upgrade.or(record.upgrade_grace);
        }
        if record.spec.network != self.record.spec.network {
            record.addresses = self.context.host.claim_addresses(record.spec.network, record.addresses)?;
        }
        let old_limits = self.spec.resources.clone();
        if self.facts.pid.is_some()
            && let Ok(resolved) = self.context.config.resolve(&record.spec)
        {
            self.context.ledger.reserve(record.id, &resolved.resources)?;
        }
        if let Err(problem) = self.put(&record).await {
            self.context.ledger.adopt(self.record.id, &old_limits);
            return Err(problem);
        }
        let health_before = std::mem::replace(&mut self.record, record).spec.health;
        self.resolve();
        let pending = if self.record.next_image.is_some() { ChangePending::Yes } else { ChangePending::No };
        self.lifecycle.step(Input::ImageChange(pending));
        self.lifecycle.step(Input::PolicySet(self.record.spec.restart));
        if self.facts.pid.is_some() && self.record.spec.health != health_before {
            self.begin_checks();
        }
        let mut result = Ok(Answer::Done);
        let limits = self.spec.resources.clone();
        if old_limits != limits
            && self.facts.pid.is_some()
            && let Err(problem) = self.context.host.limit(self.record.id, old_limits, limits).await
        {
            result = Err(problem);
        }
        self.publish();
        self.event("set", &[]);
        result
    }

    pub(super) async fn rename(&mut self, name: ContainerName, answer: AnswerSender) {
        if let Err(problem) = self.context.directory.rename(self.record.id, &name) {
            answer.send(Err(problem)).ok();
            return;
        }
        let former = std::mem::replace(&mut self.record.name, name);
        if let Err(problem) = self.put(&self.record).await {
            self.record.name = former;
            // The new name was free a moment ago and the old one still is ours, so this cannot be refused.
            self.context.directory.rename(self.record.id, &self.record.name).ok();
            answer.send(Err(problem)).ok();
            return;
        }
        self.publish();
        self.event("renamed", &[("former_name", former.to_string())]);
        answer.send(Ok(Answer::Done)).ok();
    }

    pub(super) fn reply(&mut self, ticket: Ticket, reply: Reply) {
        let Some(answer) = self.answers.remove(&ticket) else { return };
        let name = &self.record.name;
        let conflict = |text: String| Err(Problem::new(ProblemCode::Conflict, text));
        let result = match reply {
            Reply::Done => Ok(self.attachment.take().map_or(Answer::Done, Answer::Attached)),
            Reply::RolledBack => Ok(Answer::RolledBack),
            Reply::StartFailed | Reply::ActionFailed => Err(self
                .problem
                .clone()
                .unwrap_or_else(|| Problem::new(ProblemCode::StartFailed, format!("container {name} did not start")))),
            Reply::Busy(activity) => Err(self.busy(activity)),
            Reply::NotRunning => conflict(format!("container {name} is not running")),
            Reply::StillRunning => Err(Problem::new(ProblemCode::Conflict, format!("container {name} is running"))
                .with_remedy("stop it first, or use --force")),
            Reply::WrongState => conflict(match self.lifecycle.state() {
                Some(state) => format!("container {name} is {state}"),
                None => format!("container {name} is gone"),
            }),
            Reply::Overtaken => conflict(format!("container {name}: another request stopped or deleted it meanwhile")),
            Reply::Gone => Err(gone(name)),
        };
        answer.send(result).ok();
    }

    fn busy(&self, activity: Activity) -> Problem {
        let what = match activity {
            Activity::Start => "is being started",
            Activity::Stop => "is being stopped",
            Activity::Cleaning => "has just ended and is being cleaned up",
            Activity::Upgrade => "is being upgraded",
        };
        Problem::new(ProblemCode::Conflict, format!("container {} {what}", self.record.name))
            .with_remedy("wait for it, or try again")
    }
}
