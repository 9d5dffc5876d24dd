//! Decides what a container does next; performs nothing.
//!
//! [`Lifecycle::step`] takes one [`Input`] (a request, or the end of something that was begun) and answers with
//! [`Effect`]s for the driver to perform. There is no clock, no channel and no kernel in here: the same inputs give
//! the same effects, so every interleaving can be tested.
//!
//! ```text
//!            ask start                     started
//!   Idle ───────────────────> Starting ──────────────> Running <──> Paused
//!    ^  <───────────────────     │  failed                 │           │
//!    │        swept              │ (rolls back a change)   │ ask stop  │
//!    │                           v                         v           │
//!    └───────────────────── Cleaning <──────────────── Stopping <──────┘
//!                               │          exited
//!                               └── deleted ──> Gone
//! ```
//!
//! Two requests at once, in words:
//!
//! - `start` while starting, `restart` and `upgrade` while anything is under way: refused as busy.
//! - `stop` wins over `start` and `restart`: it is taken in every state; who waited for the container to run is told.
//! - `stop` while stopping joins the stop under way; the shorter time-out counts.
//! - `kill` reaches whatever runs. `delete --force` wins over everything but another delete.
//! - While an upgrade is under way everything but `kill` and `delete --force` is refused as busy.
//!
//! A change of image is a *trial*: until it passed, the container's last good version is kept, and a start that
//! fails, an exit with another code than 0 or a failed health check brings that version back.

mod unfinished;

use std::time::Duration;

use insula_model::{ContainerState, RestartPolicy, Signal};

use super::backoff::{self, STABLE_AFTER};
use super::words::{
    Activity, Ask, AtEnd, ChangePending, Effect, Force, Found, Input, Reply, Ticket, Verdict, Version, Wanted,
};

/// Time that a failed version has from the stop signal to the kill.
const FAILED_TRIAL_GRACE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    Created,
    Stopped,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Rest(Rest, Option<Duration>),
    Start(Version),
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle(Rest),
    Starting { version: Version, then: Option<AfterStart> },
    Running,
    Paused,
    Stopping(Next),
    Cleaning(Next),
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AfterStart {
    Stop { grace: Duration },
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Running,
    Stopped,
    Deleted,
    Upgraded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trial {
    None,
    Watching,
}

/// State of one container, as decided.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    phase: Phase,
    policy: RestartPolicy,
    at_end: AtEnd,
    change: ChangePending,
    trial: Trial,
    upgrading: bool,
    rolled_back: bool,
    restarts: u32,
    user_stopped: bool,
    /// Time that the stop under way gives.
    grace: Duration,
    /// Whether the start under way follows an end that was asked for.
    again: bool,
    waiters: Vec<(Ticket, Goal)>,
    effects: Vec<Effect>,
}

impl Lifecycle {
    /// A container as it was found, or as it was just created.
    pub(crate) fn new(found: Found, policy: RestartPolicy, at_end: AtEnd) -> Self {
        let phase = match found {
            Found::Created => Phase::Idle(Rest::Created),
            Found::Ended => Phase::Idle(Rest::Stopped),
            Found::Failed => Phase::Idle(Rest::Failed),
            Found::Running => Phase::Running,
            Found::Paused => Phase::Paused,
        };
        Self {
            phase,
            policy,
            at_end,
            change: ChangePending::No,
            trial: Trial::None,
            upgrading: false,
            rolled_back: false,
            restarts: 0,
            user_stopped: false,
            grace: Duration::ZERO,
            again: false,
            waiters: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// The state as the outside sees it; `None` when the container is gone.
    pub(crate) fn state(&self) -> Option<ContainerState> {
        match self.phase {
            Phase::Idle(Rest::Created) => Some(ContainerState::Created),
            Phase::Idle(Rest::Stopped) => Some(ContainerState::Stopped),
            Phase::Idle(Rest::Failed) => Some(ContainerState::Failed),
            Phase::Starting { .. } => Some(ContainerState::Starting),
            Phase::Running => Some(ContainerState::Running),
            Phase::Paused => Some(ContainerState::Paused),
            Phase::Stopping(_) | Phase::Cleaning(_) => Some(ContainerState::Stopping),
            Phase::Gone => None,
        }
    }

    /// Starts in a row by the restart policy.
    pub(crate) fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Whether a change of image is under way, so that the configuration must not change.
    pub(crate) fn upgrading(&self) -> bool {
        self.upgrading
    }

    /// Takes one input and says what is to be done, in order.
    pub(crate) fn step(&mut self, input: Input) -> Vec<Effect> {
        match input {
            Input::Asked(ticket, ask) => self.asked(ticket, ask),
            Input::StartEnded(Ok(())) => self.started(),
            Input::StartEnded(Err(())) => self.start_failed(),
            Input::Exited { code, ran } => self.exited(code, ran),
            Input::FreezeEnded(ticket, result) => self.freeze_ended(ticket, result),
            Input::ThawEnded(ticket, result) => self.thaw_ended(ticket, result),
            Input::SweepEnded => self.sweep_ended(),
            Input::StopDeadline => {
                if matches!(self.phase, Phase::Stopping(_)) {
                    self.effects.push(Effect::KillAll);
                }
            }
            Input::RestartDue => {
                if matches!(self.phase, Phase::Idle(_)) && !self.user_stopped {
                    self.again = false;
                    self.restarts = self.restarts.saturating_add(1);
                    self.begin_start(Version::Wanted);
                }
            }
            Input::TrialEnded(verdict) => self.trial_ended(verdict),
            Input::ImageChange(change) => self.change = change,
            Input::PolicySet(policy) => self.policy = policy,
        }
        std::mem::take(&mut self.effects)
    }

    fn asked(&mut self, ticket: Ticket, ask: Ask) {
        if self.phase == Phase::Gone
            || matches!(self.phase, Phase::Cleaning(Next::Delete) | Phase::Stopping(Next::Delete))
        {
            return match ask {
                Ask::Delete(_) if self.phase != Phase::Gone => self.wait(ticket, Goal::Deleted),
                _ => self.reply(ticket, Reply::Gone),
            };
        }
        let may_interrupt_upgrade = matches!(ask, Ask::Kill(_) | Ask::Delete(Force::Yes));
        if self.upgrading && !may_interrupt_upgrade {
            return self.reply(ticket, Reply::Busy(Activity::Upgrade));
        }
        match ask {
            Ask::Start => self.ask_start(ticket),
            Ask::Stop { grace } => self.ask_stop(ticket, grace),
            Ask::Restart { grace } => self.ask_restart(ticket, grace),
            Ask::Kill(signal) => self.ask_kill(ticket, signal),
            Ask::Pause => match self.phase {
                Phase::Running => self.effects.push(Effect::Freeze(ticket)),
                _ => self.reply_wrong_state(ticket),
            },
            Ask::Resume => match self.phase {
                Phase::Paused => self.effects.push(Effect::Thaw(Some(ticket))),
                _ => self.reply_wrong_state(ticket),
            },
            Ask::Delete(force) => self.ask_delete(ticket, force),
            Ask::Upgrade { grace } => self.ask_upgrade(ticket, grace),
        }
    }

    fn ask_start(&mut self, ticket: Ticket) {
        match self.phase {
            Phase::Idle(_) => {
                self.restarts = 0;
                self.again = false;
                self.want(Wanted::Running);
                self.wait(ticket, Goal::Running);
                self.begin_start(Version::Wanted);
            }
            Phase::Running | Phase::Paused => self.reply(ticket, Reply::Done),
            // It ended by itself and its traces are being removed: the start follows.
            Phase::Cleaning(Next::Rest(..)) if self.at_end == AtEnd::Keep => {
                self.want(Wanted::Running);
                self.wait(ticket, Goal::Running);
                self.phase = Phase::Cleaning(Next::Start(Version::Wanted));
            }
            _ => self.reply_busy(ticket),
        }
    }

    fn ask_stop(&mut self, ticket: Ticket, grace: Duration) {
        self.want(Wanted::Stopped);
        match self.phase {
            Phase::Idle(_) => {
                self.effects.push(Effect::DisarmRestart);
                self.reply(ticket, Reply::Done);
            }
            Phase::Starting { version, then } => {
                let then = then.or(Some(AfterStart::Stop { grace }));
                self.phase = Phase::Starting { version, then };
                self.wait(ticket, Goal::Stopped);
            }
            Phase::Running | Phase::Paused => {
                self.wait(ticket, Goal::Stopped);
                self.begin_stop(grace, Next::Rest(Rest::Stopped, None));
            }
            Phase::Stopping(next) => {
                self.effects.push(Effect::ArmStop(grace));
                self.grace = grace;
                self.wait(ticket, Goal::Stopped);
                self.phase = Phase::Stopping(self.without_start(next));
            }
            Phase::Cleaning(next) => {
                self.wait(ticket, Goal::Stopped);
                let next = self.without_start(next);
                self.phase = self.cleaning(next);
            }
            Phase::Gone => self.reply(ticket, Reply::Gone),
        }
    }

    /// `next`, but at rest instead of a start; who waited for that start is told.
    fn without_start(&mut self, next: Next) -> Next {
        match next {
            Next::Start(_) | Next::Rest(_, Some(_)) => {
                self.answer(Goal::Running, Reply::Overtaken);
                Next::Rest(Rest::Stopped, None)
            }
            next => next,
        }
    }

    fn ask_restart(&mut self, ticket: Ticket, grace: Duration) {
        match self.phase {
            Phase::Idle(_) => self.ask_start(ticket),
            Phase::Running | Phase::Paused => {
                self.restarts = 0;
                self.want(Wanted::Running);
                self.wait(ticket, Goal::Running);
                self.begin_stop(grace, Next::Start(Version::Wanted));
            }
            _ => self.reply_busy(ticket),
        }
    }

    fn ask_kill(&mut self, ticket: Ticket, signal: Signal) {
        if !matches!(self.phase, Phase::Running | Phase::Paused | Phase::Stopping(_)) {
            return self.reply(ticket, Reply::NotRunning);
        }
        if signal == Signal::KILL {
            if !self.upgrading {
                self.want(Wanted::Stopped);
            }
            self.effects.push(Effect::KillAll);
            if self.phase == Phase::Paused {
                self.effects.push(Effect::Thaw(None));
                self.phase = Phase::Running;
            }
        } else {
            self.effects.push(Effect::Signal(signal));
        }
        self.reply(ticket, Reply::Done);
    }

    fn ask_delete(&mut self, ticket: Ticket, force: Force) {
        match (self.phase, force) {
            (Phase::Idle(_), _) => {
                self.effects.push(Effect::DisarmRestart);
                self.effects.push(Effect::Sweep);
                self.wait(ticket, Goal::Deleted);
                self.phase = Phase::Cleaning(Next::Delete);
            }
            (Phase::Cleaning(next), _) => {
                self.without_start(next);
                self.wait(ticket, Goal::Deleted);
                self.phase = Phase::Cleaning(Next::Delete);
            }
            (Phase::Running | Phase::Paused | Phase::Stopping(_), Force::No) => self.reply(ticket, Reply::StillRunning),
            (Phase::Starting { .. }, Force::No) => self.reply_busy(ticket),
            (Phase::Starting { version, .. }, Force::Yes) => {
                self.wait(ticket, Goal::Deleted);
                self.phase = Phase::Starting { version, then: Some(AfterStart::Delete) };
            }
            (Phase::Running | Phase::Paused | Phase::Stopping(_), Force::Yes) => {
                self.wait(ticket, Goal::Deleted);
                self.begin_delete_running();
            }
            (Phase::Gone, _) => self.reply(ticket, Reply::Gone),
        }
    }

    fn begin_delete_running(&mut self) {
        self.end_trial();
        self.effects.push(Effect::KillAll);
        if self.phase == Phase::Paused {
            self.effects.push(Effect::Thaw(None));
        }
        self.answer(Goal::Running, Reply::Overtaken);
        self.answer(Goal::Upgraded, Reply::Overtaken);
        self.upgrading = false;
        self.phase = Phase::Stopping(Next::Delete);
    }

    fn ask_upgrade(&mut self, ticket: Ticket, grace: Duration) {
        match self.phase {
            Phase::Idle(_) => self.reply(ticket, Reply::Done),
            Phase::Running | Phase::Paused => {
                self.want(Wanted::Running);
                self.upgrading = true;
                self.rolled_back = false;
                self.wait(ticket, Goal::Upgraded);
                self.begin_stop(grace, Next::Start(Version::Wanted));
            }
            _ => self.reply_busy(ticket),
        }
    }

    fn begin_start(&mut self, version: Version) {
        self.user_stopped = false;
        self.effects.push(Effect::DisarmRestart);
        self.effects.push(Effect::Start(version));
        self.phase = Phase::Starting { version, then: None };
    }

    fn begin_stop(&mut self, grace: Duration, next: Next) {
        self.end_trial();
        self.grace = grace;
        if grace.is_zero() {
            self.effects.push(Effect::KillAll);
        } else {
            self.effects.push(Effect::SignalStop);
            self.effects.push(Effect::ArmStop(grace));
        }
        if self.phase == Phase::Paused {
            self.effects.push(Effect::Thaw(None));
        }
        self.phase = Phase::Stopping(next);
    }

    fn begin_cleaning(&mut self, next: Next) {
        self.effects.push(Effect::DisarmStop);
        self.effects.push(Effect::Sweep);
        self.phase = self.cleaning(next);
    }

    /// One that goes when it ends comes to no rest.
    fn cleaning(&self, next: Next) -> Phase {
        let goes = self.at_end == AtEnd::Delete && matches!(next, Next::Rest(..));
        Phase::Cleaning(if goes { Next::Delete } else { next })
    }

    fn end_trial(&mut self) {
        if self.trial == Trial::Watching {
            self.trial = Trial::None;
            self.effects.push(Effect::EndTrial);
        }
    }

    fn started(&mut self) {
        let Phase::Starting { version, then } = self.phase else { return };
        self.phase = Phase::Running;
        let on_trial = version == Version::Wanted && self.change == ChangePending::Yes;
        let reply = if version == Version::LastGood { Reply::RolledBack } else { Reply::Done };
        self.answer(Goal::Running, reply);
        match then {
            Some(AfterStart::Delete) => return self.begin_delete_running(),
            Some(AfterStart::Stop { grace }) => {
                self.finish_upgrade(Reply::Overtaken);
                return self.begin_stop(grace, Next::Rest(Rest::Stopped, None));
            }
            None => {}
        }
        if on_trial {
            self.trial = Trial::Watching;
            self.effects.push(Effect::BeginTrial);
        } else {
            self.finish_upgrade(reply);
        }
    }

    fn start_failed(&mut self) {
        let Phase::Starting { version, then } = self.phase else { return };
        let on_trial = version == Version::Wanted && self.change == ChangePending::Yes;
        match then {
            Some(AfterStart::Delete) => {
                self.answer(Goal::Running, Reply::StartFailed);
                self.finish_upgrade(Reply::StartFailed);
                return self.begin_cleaning(Next::Delete);
            }
            None if on_trial => {
                self.drop_change();
                return self.begin_start(Version::LastGood);
            }
            _ => {}
        }
        self.answer(Goal::Running, Reply::StartFailed);
        self.finish_upgrade(if self.rolled_back { Reply::RolledBack } else { Reply::StartFailed });
        if self.at_end == AtEnd::Delete {
            return self.begin_cleaning(Next::Delete);
        }
        self.phase = Phase::Idle(Rest::Failed);
        self.answer(Goal::Stopped, Reply::Done);
        if then.is_none()
            && let Some(pause) = backoff::pause(self.policy, self.restarts, None)
        {
            self.effects.push(Effect::ArmRestart(pause));
        }
    }

    fn exited(&mut self, code: Option<i32>, ran: Duration) {
        match self.phase {
            Phase::Stopping(next) => self.begin_cleaning(next),
            Phase::Running | Phase::Paused => self.exited_by_itself(code, ran),
            Phase::Starting { .. } | Phase::Idle(_) | Phase::Cleaning(_) | Phase::Gone => {}
        }
    }

    fn exited_by_itself(&mut self, code: Option<i32>, ran: Duration) {
        if ran >= STABLE_AFTER {
            self.restarts = 0;
        }
        if self.trial == Trial::Watching {
            self.end_trial();
            if code != Some(0) && !self.user_stopped {
                self.drop_change();
                return self.begin_cleaning(Next::Start(Version::LastGood));
            }
            self.keep_change();
            self.finish_upgrade(Reply::Done);
        }
        let pause = if self.user_stopped { None } else { backoff::pause(self.policy, self.restarts, code) };
        self.begin_cleaning(Next::Rest(Rest::Stopped, pause));
    }

    fn freeze_ended(&mut self, ticket: Ticket, result: Result<(), ()>) {
        if result.is_ok() && self.phase == Phase::Running {
            self.phase = Phase::Paused;
        }
        self.reply(ticket, if result.is_ok() { Reply::Done } else { Reply::ActionFailed });
    }

    fn thaw_ended(&mut self, ticket: Ticket, result: Result<(), ()>) {
        if result.is_ok() && self.phase == Phase::Paused {
            self.phase = Phase::Running;
        }
        self.reply(ticket, if result.is_ok() { Reply::Done } else { Reply::ActionFailed });
    }

    fn sweep_ended(&mut self) {
        let Phase::Cleaning(next) = self.phase else { return };
        // Also when somebody asked for the next start meanwhile.
        self.answer(Goal::Stopped, Reply::Done);
        match next {
            Next::Rest(rest, pause) => {
                self.phase = Phase::Idle(rest);
                if let Some(pause) = pause {
                    self.effects.push(Effect::ArmRestart(pause));
                }
            }
            Next::Start(version) => {
                self.again = true;
                self.begin_start(version);
            }
            Next::Delete => {
                self.phase = Phase::Gone;
                self.effects.push(Effect::Forget);
                self.answer(Goal::Deleted, Reply::Done);
                self.answer(Goal::Running, Reply::Overtaken);
                self.finish_upgrade(Reply::Overtaken);
            }
        }
    }

    fn trial_ended(&mut self, verdict: Verdict) {
        if self.trial != Trial::Watching {
            return;
        }
        self.trial = Trial::None;
        match verdict {
            Verdict::Good => {
                self.keep_change();
                self.finish_upgrade(Reply::Done);
            }
            Verdict::Bad => {
                self.drop_change();
                self.begin_stop(FAILED_TRIAL_GRACE, Next::Start(Version::LastGood));
            }
        }
    }

    fn keep_change(&mut self) {
        self.change = ChangePending::No;
        self.effects.push(Effect::KeepChange);
    }

    fn drop_change(&mut self) {
        self.change = ChangePending::No;
        self.rolled_back = true;
        self.effects.push(Effect::DropChange);
    }

    fn finish_upgrade(&mut self, reply: Reply) {
        self.answer(Goal::Upgraded, reply);
        self.upgrading = false;
    }

    fn want(&mut self, wanted: Wanted) {
        self.user_stopped = wanted == Wanted::Stopped;
        self.effects.push(Effect::Want(wanted));
    }

    fn wait(&mut self, ticket: Ticket, goal: Goal) {
        self.waiters.push((ticket, goal));
    }

    fn reply(&mut self, ticket: Ticket, reply: Reply) {
        self.effects.push(Effect::Reply(ticket, reply));
    }

    fn answer(&mut self, goal: Goal, reply: Reply) {
        let effects = &mut self.effects;
        self.waiters.retain(|&(ticket, waits_for)| {
            if waits_for == goal {
                effects.push(Effect::Reply(ticket, reply));
            }
            waits_for != goal
        });
    }

    fn reply_busy(&mut self, ticket: Ticket) {
        let activity = match self.phase {
            Phase::Starting { .. } => Activity::Start,
            Phase::Stopping(_) => Activity::Stop,
            _ => Activity::Cleaning,
        };
        self.reply(ticket, Reply::Busy(activity));
    }

    fn reply_wrong_state(&mut self, ticket: Ticket) {
        match self.phase {
            Phase::Starting { .. } | Phase::Stopping(_) | Phase::Cleaning(_) => self.reply_busy(ticket),
            Phase::Idle(_) => self.reply(ticket, Reply::NotRunning),
            _ => self.reply(ticket, Reply::WrongState),
        }
    }
}
