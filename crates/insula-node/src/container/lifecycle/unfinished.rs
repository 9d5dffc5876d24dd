//! What one daemon leaves to the next.
//!
//! A stop, a restart, an upgrade and a delete take a while, and the daemon may die meanwhile: [`Lifecycle::unfinished`]
//! says what is then left to do, and [`Lifecycle::finish`] goes on with it under the next daemon. A start that follows
//! no end is not among them: who asked for it waited for it, and is told that it is not known.

use std::time::Duration;

use super::{AfterStart, Lifecycle, Next, Phase, Rest, Trial};
use crate::container::backoff;
use crate::container::words::{AtEnd, Effect, Unfinished, Version, Wanted};

impl Lifecycle {
    /// What is under way and must be finished by whoever comes after this daemon.
    pub(crate) fn unfinished(&self) -> Option<Unfinished> {
        let grace = self.grace;
        match self.phase {
            Phase::Starting { then: Some(AfterStart::Stop { grace }), .. } => Some(Unfinished::Stop { grace }),
            Phase::Starting { then: None, .. } => self.again.then_some(Unfinished::Start),
            Phase::Stopping(Next::Rest(..)) => Some(Unfinished::Stop { grace }),
            Phase::Stopping(Next::Start(_)) | Phase::Cleaning(Next::Start(_)) => Some(Unfinished::Restart { grace }),
            // What is deleted at its end by its own nature is found to be so.
            Phase::Cleaning(Next::Delete) if self.at_end == AtEnd::Delete => None,
            Phase::Starting { then: Some(AfterStart::Delete), .. }
            | Phase::Stopping(Next::Delete)
            | Phase::Cleaning(Next::Delete) => Some(Unfinished::Delete),
            Phase::Idle(_) | Phase::Running | Phase::Paused | Phase::Cleaning(Next::Rest(..)) | Phase::Gone => None,
        }
    }

    /// Goes on with what an earlier daemon left unfinished.
    pub(crate) fn finish(&mut self, unfinished: Unfinished) -> Vec<Effect> {
        let up = matches!(self.phase, Phase::Running | Phase::Paused);
        match unfinished {
            Unfinished::Stop { grace } => {
                self.want(Wanted::Stopped);
                if up {
                    self.begin_stop(grace, Next::Rest(Rest::Stopped, None));
                }
            }
            Unfinished::Restart { grace } if up => self.begin_stop(grace, Next::Start(Version::Wanted)),
            Unfinished::Start if up => {}
            // The sweep may have been cut off.
            Unfinished::Restart { .. } | Unfinished::Start => self.begin_cleaning(Next::Start(Version::Wanted)),
            Unfinished::Delete if up => self.begin_delete_running(),
            Unfinished::Delete => self.begin_cleaning(Next::Delete),
        }
        std::mem::take(&mut self.effects)
    }

    /// Goes on with a trial that an earlier daemon had begun for what runs.
    pub(crate) fn resume_trial(&mut self) -> Vec<Effect> {
        self.trial = Trial::Watching;
        vec![Effect::BeginTrial]
    }

    /// Goes on with the starts in a row that an earlier daemon had counted.
    pub(crate) fn resume_restarts(&mut self, restarts: u32) {
        self.restarts = restarts;
    }

    /// Goes on with the restart policy of a container that was to run and ended with `code` before this daemon
    /// began, `ago`.
    pub(crate) fn resume_policy(&mut self, code: Option<i32>, ago: Duration) -> Vec<Effect> {
        let pause = backoff::pause(self.policy, self.restarts, code);
        pause.map(|pause| Effect::ArmRestart(pause.saturating_sub(ago))).into_iter().collect()
    }
}
