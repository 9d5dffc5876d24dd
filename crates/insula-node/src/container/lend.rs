//! Files of a container that does not run, lent to who copies.
//!
//! What a container sees of its image, its data, its layer and its volumes only a start puts together. So one is made
//! of the same configuration under an id that nobody else knows, without network, devices or a program of the image:
//! our process 1 holds the mounts until the files are given back. While they are lent the container itself cannot
//! start, because neither a layer nor a file system may be mounted twice. A daemon that dies meanwhile leaves
//! something that runs without intent, which its successor ends.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use insula_api::{Problem, ProblemCode};
use insula_model::{ContainerId, ContainerState, InitKind, NetworkMode};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::command::Answer;
use super::driver::{Driver, Happening};
use super::handle::AnswerSender;
use super::record::Addresses;
use crate::host::{Host, RootSource, StartOrder, Started, Streams};
use crate::machine::Traces;

/// A root with all its mounts; given back when dropped.
#[derive(Debug)]
pub(crate) struct LentFiles {
    /// The root directory.
    pub(crate) root: OwnedFd,
    /// Where mounts begin that outlive the container's end, beside the root if that can be written to.
    pub(crate) kept: Vec<String>,
    /// Goes last: who waits at its other end unmounts what the root is in.
    pub(crate) lease: oneshot::Sender<()>,
}

/// Where the files of a container at rest are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lent {
    /// At home.
    No,
    /// With who copies: requests are refused.
    Out,
    /// Given back, and still mounted: requests wait.
    Returning,
}

/// What holds the mounts.
pub(super) struct Holder {
    id: ContainerId,
    started: Started,
}

impl Driver {
    /// Lends the files of a container at rest.
    pub(super) fn lend(&mut self, answer: AnswerSender) {
        let name = self.record.name.clone();
        let refused =
            |detail: String| Problem::new(ProblemCode::Conflict, detail).with_remedy("wait for it, or try again");
        let at_rest = [ContainerState::Created, ContainerState::Stopped, ContainerState::Failed];
        match self.lifecycle.state() {
            Some(state) if !at_rest.contains(&state) => {
                answer.send(Err(refused(format!("container {name} is {state}")))).ok();
                return;
            }
            _ if self.lent != Lent::No => {
                answer.send(Err(self.lent_problem())).ok();
                return;
            }
            _ => self.lent = Lent::Out,
        }
        let mut spec = (*self.spec).clone();
        spec.network = NetworkMode::None;
        spec.init = Some(InitKind::Insula);
        spec.ports.clear();
        spec.devices.clear();
        let kept = spec.volumes.iter().map(|volume| volume.target.clone());
        let kept = std::iter::once("/data".to_owned()).chain(kept).collect();
        let order = StartOrder {
            id: ContainerId::from_uuid(Uuid::new_v4()),
            name,
            spec: Arc::new(spec),
            root: RootSource::Image(self.record.wanted_image().clone()),
            files: self.record.id,
            ids: self.record.ids,
            addresses: Addresses::default(),
            streams: Streams::Absent,
        };
        let host = self.context.host.clone();
        self.happenings.push(Box::pin(async move { Happening::Returned(lend(&*host, order, (answer, kept)).await) }));
    }

    /// Takes down what the files were lent from; requests wait for that.
    pub(super) fn take_back(&mut self, holder: Option<Holder>) {
        let Some(Holder { id, started }) = holder else {
            self.lent = Lent::No;
            return;
        };
        self.lent = Lent::Returning;
        let (host, name) = (self.context.host.clone(), self.record.name.clone());
        self.happenings.push(Box::pin(async move {
            if let Err(problem) = host.kill_all(id, started.pid).await {
                tracing::error!(container = %name, detail = problem.detail, "end of a copy");
            }
            started.exit.await;
            if let Err(problem) = host.sweep(id, Traces::default()).await {
                tracing::error!(container = %name, detail = problem.detail, "sweep after a copy");
            }
            Happening::Returned(None)
        }));
    }

    /// Why nothing else can be done now.
    pub(super) fn lent_problem(&self) -> Problem {
        Problem::new(ProblemCode::Conflict, format!("files of container {} are being copied", self.record.name))
            .with_remedy("wait for the end of the copy, or try again")
    }
}

/// Starts what holds the mounts, and waits until the files are given back.
async fn lend(host: &dyn Host, order: StartOrder, (answer, kept): (AnswerSender, Vec<String>)) -> Option<Holder> {
    let id = order.id;
    let started = match host.start(order).await {
        Ok(started) => started,
        Err(mut problem) => {
            problem.detail = format!("copy without a start: {}", problem.detail);
            answer.send(Err(problem)).ok();
            return None;
        }
    };
    match host.open_root(id).await {
        Ok(root) => {
            let (lease, returned) = oneshot::channel();
            if answer.send(Ok(Answer::Files(LentFiles { root, kept, lease }))).is_ok() {
                // Nothing is ever sent: the lease ends by being dropped.
                returned.await.ok();
            }
        }
        Err(problem) => {
            answer.send(Err(problem)).ok();
        }
    }
    Some(Holder { id, started })
}
