//! What a driver writes down: intent to the store, facts to the run directory, and when it forgets both.

use std::io;

use futures_util::future::BoxFuture;
use insula_api::{Problem, ProblemCode};
use insula_model::RestartPolicy;

use super::driver::{Driver, Happening};
use super::record::{ContainerRecord, Kept, LastRun};
use super::words::Wanted;
use crate::store::CommitError;

impl Driver {
    pub(super) fn want(&mut self, wanted: Wanted) {
        // Only a restart policy asks after a reboot what was wanted; other starts need no commit.
        if self.record.wanted != wanted && self.spec.restart != RestartPolicy::No {
            self.unsaved = true;
        }
        self.record.wanted = wanted;
    }

    pub(super) async fn forget(&mut self) {
        let id = self.record.id;
        if self.kept == Kept::Stored
            && let Err(error) = self.context.store.delete(id).await
        {
            tracing::error!(container = %self.record.name, %error, "forget");
        }
        let result = self.context.host.remove_data(id).await;
        self.note(result);
        if let Err(error) = self.context.facts.forget(id) {
            tracing::warn!(container = %self.record.name, %error, "facts");
        }
        self.context.release(&self.record);
        self.event("deleted", &[]);
    }

    /// What a reboot would take: how a run ended goes to the store, some time after it ended. That another one
    /// began goes there too, because of one that the machine took with it nothing else is known.
    pub(super) fn remember_run(&mut self) {
        let ended = self.facts.finished.is_some();
        let last_run = ended.then(|| LastRun::of(&self.facts));
        if self.record.last_run != last_run {
            self.record.last_run = last_run;
            self.unsaved = true;
            self.save_if_needed();
        }
    }

    /// Writes `record` to where this container's is, and waits for it.
    pub(super) fn put(&self, record: &ContainerRecord) -> BoxFuture<'static, Result<(), Problem>> {
        match self.kept {
            Kept::Stored => {
                let stored = self.context.store.put(record.clone());
                let told = |error| Problem::from_chain(ProblemCode::Internal, &error);
                Box::pin(async move { stored.await.map_err(told) })
            }
            Kept::WhileItRuns => {
                let written = self.write_record(record);
                let told = |error| Problem::from_chain(ProblemCode::Internal, &error);
                Box::pin(std::future::ready(written.map_err(told)))
            }
        }
    }

    /// Of one that is not in the store. Until it is started nobody is to find it.
    fn write_record(&self, record: &ContainerRecord) -> io::Result<()> {
        if self.facts.pid.is_none() {
            return Ok(());
        }
        self.context.facts.write_record(record)
    }

    pub(super) fn save_if_needed(&mut self) {
        if !self.unsaved || self.saving {
            return;
        }
        self.unsaved = false;
        if self.kept == Kept::WhileItRuns {
            if let Err(error) = self.write_record(&self.record) {
                tracing::warn!(container = %self.record.name, %error, "record");
            }
            return;
        }
        self.saving = true;
        let saved = self.context.store.put(self.record.clone());
        self.happenings.push(Box::pin(async move { Happening::Saved(saved.await) }));
    }

    pub(super) fn saved(&mut self, result: Result<(), CommitError>) {
        self.saving = false;
        match result {
            Ok(()) => self.save_if_needed(),
            Err(error) => {
                tracing::error!(container = %self.record.name, %error, "intent");
                // Tried again with what happens next, and not at once: a full disk stays full for a while.
                self.unsaved = true;
            }
        }
    }

    pub(super) fn write_facts(&self) {
        if let Err(error) = self.context.facts.write_facts(self.record.id, &self.facts) {
            tracing::warn!(container = %self.record.name, %error, "facts");
        }
    }
}
