//! Long actions: begun with an id, watched, waited for, cancelled by request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use insula_api::{
    EventSubject, Operation, OperationKind, OperationOutput, OperationProgress, OperationState, Problem, ProblemCode,
};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::events::{About, Events};

/// Operations remembered; the oldest that ended goes first.
const OPERATIONS_KEPT: usize = 512;
/// Operations under way at a time; more are refused.
const OPERATIONS_RUNNING_MAX: usize = 64;

/// Lines of output that an operation keeps.
const OUTPUT_LINES_MAX: usize = 50;

#[derive(Debug, Clone)]
struct Entry {
    published: watch::Receiver<Operation>,
    cancel: CancellationToken,
}

/// All operations of this node.
#[derive(Debug)]
pub(crate) struct Operations {
    events: Arc<Events>,
    entries: Mutex<BTreeMap<Uuid, Entry>>,
}

/// What an operation's own code holds: says how far it is and learns that it is to stop.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    published: watch::Sender<Operation>,
    cancel: CancellationToken,
}

impl Progress {
    /// Says what is being done and how far it is.
    pub(crate) fn report(&self, phase: &str, done: u64, total: Option<u64>) {
        self.published.send_if_modified(|operation| {
            let progress = OperationProgress { phase: phase.to_owned(), done, total };
            let changed = operation.progress != progress;
            operation.progress = progress;
            changed
        });
    }

    /// Adds lines to what the operation's commands wrote.
    pub(crate) fn output(&self, lines: Vec<String>) {
        self.published.send_modify(|operation| {
            let output = &mut operation.output;
            output.lines.extend(lines);
            let surplus = output.lines.len().saturating_sub(OUTPUT_LINES_MAX);
            output.lines.drain(..surplus);
            output.before = output.before.saturating_add(u64::try_from(surplus).unwrap_or(u64::MAX));
        });
    }

    /// Whether somebody asked to stop.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Done when somebody asked to stop.
    pub(crate) async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }
}

impl Operations {
    /// None yet.
    pub(crate) fn new(events: Arc<Events>) -> Self {
        Self { events, entries: Mutex::default() }
    }

    /// Begins an operation. `prepare` may change what is shown first (its attach token).
    ///
    /// # Errors
    ///
    /// Conflict when too many are under way.
    pub(crate) fn begin<F>(
        &self,
        kind: OperationKind,
        subject: String,
        attach_token: Option<insula_api::AttachToken>,
        work: impl FnOnce(Progress) -> F,
    ) -> Result<Operation, Problem>
    where
        F: Future<Output = Result<serde_json::Value, Problem>> + Send + 'static,
    {
        let operation = Operation {
            id: Uuid::now_v7(),
            kind,
            subject,
            state: OperationState::Running,
            progress: OperationProgress::default(),
            output: OperationOutput::default(),
            started: Timestamp::now(),
            finished: None,
            result: None,
            problem: None,
            attach_token,
        };
        let published = watch::Sender::new(operation.clone());
        let cancel = CancellationToken::new();
        self.remember(operation.id, Entry { published: published.subscribe(), cancel: cancel.clone() })?;
        let work = work(Progress { published: published.clone(), cancel });
        let events = self.events.clone();
        tokio::spawn(async move {
            let result = work.await;
            let operation = published.send_replace_with(result);
            let action = match operation.state {
                OperationState::Succeeded => "succeeded",
                OperationState::Cancelled => "cancelled",
                OperationState::Failed | OperationState::Running => "failed",
            };
            let id = Some(operation.id.to_string());
            events.publish(About { subject: EventSubject::Operation, name: &operation.subject, id }, action, &[]);
        });
        Ok(operation)
    }

    fn remember(&self, id: Uuid, entry: Entry) -> Result<(), Problem> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let running = |entry: &Entry| entry.published.borrow().state == OperationState::Running;
        if entries.values().filter(|entry| running(entry)).count() >= OPERATIONS_RUNNING_MAX {
            let detail = format!("{OPERATIONS_RUNNING_MAX} long actions are under way already");
            return Err(Problem::new(ProblemCode::Conflict, detail).with_remedy("wait for one to end"));
        }
        while entries.len() >= OPERATIONS_KEPT {
            let Some(oldest) = entries.iter().find(|(_, entry)| !running(entry)).map(|(id, _)| *id) else { break };
            entries.remove(&oldest);
        }
        entries.insert(id, entry);
        Ok(())
    }

    fn entry(&self, id: Uuid) -> Result<Entry, Problem> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries
            .get(&id)
            .cloned()
            .ok_or_else(|| Problem::new(ProblemCode::NotFound, format!("operation {id} does not exist")))
    }

    /// All that are remembered, oldest first, without their output.
    pub(crate) fn all(&self) -> Vec<Operation> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let without_output =
            |operation: &Operation| Operation { output: OperationOutput::default(), ..operation.clone() };
        entries.values().map(|entry| without_output(&entry.published.borrow())).collect()
    }

    /// Asks all to stop and waits until they did.
    pub(crate) async fn cancel_all(&self) {
        let running: Vec<Entry> = {
            let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.values().cloned().collect()
        };
        for mut entry in running {
            entry.cancel.cancel();
            // Its sender goes away only after it published the end.
            entry.published.wait_for(|operation| operation.state != OperationState::Running).await.ok();
        }
    }

    /// One.
    ///
    /// # Errors
    ///
    /// Not found.
    pub(crate) fn get(&self, id: Uuid) -> Result<Operation, Problem> {
        Ok(self.entry(id)?.published.borrow().clone())
    }

    /// Asks one to stop; that it ended is seen by its state.
    ///
    /// # Errors
    ///
    /// Not found.
    pub(crate) fn cancel(&self, id: Uuid) -> Result<Operation, Problem> {
        self.entry(id)?.cancel.cancel();
        self.get(id)
    }

    /// Waits until it is otherwise than now, has ended, or has written more lines than the `seen` ones.
    ///
    /// # Errors
    ///
    /// Not found.
    pub(crate) async fn changed(&self, id: Uuid, seen: Option<u64>) -> Result<Operation, Problem> {
        let mut published = self.entry(id)?.published;
        let now = published.borrow_and_update().clone();
        if now.state != OperationState::Running || seen.is_some_and(|seen| now.output.written() > seen) {
            return Ok(now);
        }
        // The sender may go away only after it published the end.
        published.changed().await.ok();
        Ok(published.borrow().clone())
    }
}

trait PublishEnd {
    fn send_replace_with(&self, result: Result<serde_json::Value, Problem>) -> Operation;
}

impl PublishEnd for watch::Sender<Operation> {
    fn send_replace_with(&self, result: Result<serde_json::Value, Problem>) -> Operation {
        self.send_modify(|operation| {
            operation.finished = Some(Timestamp::now());
            operation.attach_token = None;
            match result {
                Ok(value) => {
                    operation.state = OperationState::Succeeded;
                    operation.result = Some(value);
                }
                Err(problem) => {
                    operation.state = match problem.code {
                        ProblemCode::Cancelled => OperationState::Cancelled,
                        _ => OperationState::Failed,
                    };
                    operation.problem = Some(problem);
                }
            }
        });
        self.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operations() -> Operations {
        Operations::new(Arc::new(Events::new()))
    }

    #[tokio::test]
    async fn an_operation_is_watched_to_its_end() {
        let operations = operations();
        let operation = operations
            .begin(OperationKind::ImageImport, "a@1".to_owned(), None, |progress| async move {
                progress.report("reading", 1, Some(2));
                Ok(serde_json::json!({ "image": "a@1" }))
            })
            .unwrap();
        let mut last = operation.clone();
        while last.state == OperationState::Running {
            last = operations.changed(operation.id, None).await.unwrap();
        }
        assert_eq!(last.state, OperationState::Succeeded);
        assert_eq!(last.progress.done, 1);
    }

    #[tokio::test]
    async fn cancelling_is_asked_and_answered() {
        let operations = operations();
        let operation = operations
            .begin(OperationKind::ImageBuild, "a@1".to_owned(), None, |progress| async move {
                progress.cancelled().await;
                assert!(progress.is_cancelled());
                Err(Problem::new(ProblemCode::Cancelled, "cancelled"))
            })
            .unwrap();
        operations.cancel(operation.id).unwrap();
        let mut last = operation.clone();
        while last.state == OperationState::Running {
            last = operations.changed(operation.id, None).await.unwrap();
        }
        assert_eq!(last.state, OperationState::Cancelled);
    }
}
