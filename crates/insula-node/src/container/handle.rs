//! How the rest of the node talks to a container's driver.

use std::sync::Arc;

use insula_api::{Problem, ProblemCode};
use insula_model::{ContainerId, ContainerName, ContainerState};
use tokio::sync::{mpsc, oneshot, watch};

use super::command::{Answer, Command};
use super::snapshot::Snapshot;
use super::words::Ask;
use crate::host::Streams;

/// A container's driver, from outside.
#[derive(Debug, Clone)]
pub(crate) struct ContainerHandle {
    /// Whose driver.
    pub(crate) id: ContainerId,
    commands: mpsc::Sender<Command>,
    published: watch::Receiver<Arc<Snapshot>>,
}

/// What the driver answers with.
pub(crate) type AnswerSender = oneshot::Sender<Result<Answer, Problem>>;

impl ContainerHandle {
    /// A handle on the driver behind these channels.
    pub(crate) fn new(
        id: ContainerId,
        commands: mpsc::Sender<Command>,
        published: watch::Receiver<Arc<Snapshot>>,
    ) -> Self {
        Self { id, commands, published }
    }

    /// The latest published copy.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.published.borrow().clone()
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    ///
    /// What the driver answers; conflict when too many requests wait.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Answer, Problem> {
        self.send(|answer| Command::Ask { ask, streams: Streams::Detached, answer }).await
    }

    /// Starts with these streams and waits until it runs.
    ///
    /// # Errors
    ///
    /// As for [`ContainerHandle::ask`].
    pub(crate) async fn start_attached(&self, streams: Streams) -> Result<Answer, Problem> {
        self.send(|answer| Command::Ask { ask: Ask::Start, streams, answer }).await
    }

    /// Sends a command made of the answer's sender and waits for the answer.
    ///
    /// # Errors
    ///
    /// As for [`ContainerHandle::ask`].
    pub(crate) async fn send(&self, command: impl FnOnce(AnswerSender) -> Command) -> Result<Answer, Problem> {
        let (answer, answered) = oneshot::channel();
        let name = self.snapshot().record.name.clone();
        self.commands.try_send(command(answer)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                Problem::new(ProblemCode::Conflict, format!("container {name}: too many requests wait already"))
            }
            mpsc::error::TrySendError::Closed(_) => gone(&name),
        })?;
        answered.await.map_err(|_| gone(&name))?
    }

    /// Waits until `condition` holds of the published copy, or the container is gone. Dropping it is harmless.
    pub(crate) async fn wait_for(&self, mut condition: impl FnMut(&Snapshot) -> bool) -> Arc<Snapshot> {
        let mut published = self.published.clone();
        let found = published.wait_for(|snapshot| snapshot.state.is_none() || condition(snapshot)).await;
        match found {
            Ok(snapshot) => snapshot.clone(),
            Err(_) => self.snapshot(),
        }
    }

    /// State, or `None` when gone.
    pub(crate) fn state(&self) -> Option<ContainerState> {
        self.published.borrow().state
    }
}

/// The container does not exist, as far as anybody may know.
pub(crate) fn gone(name: &ContainerName) -> Problem {
    Problem::new(ProblemCode::NotFound, format!("container {name} does not exist"))
        .with_remedy("`insula list` shows what exists")
}
