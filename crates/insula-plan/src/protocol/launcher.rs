//! The launcher: plans in, events out.
//!
//! One daemon is served at a time; a new connection after `Hello` takes the place of the old one. Each call has an
//! operation number that its outcome repeats. What happens while no daemon is connected is kept as facts in the run
//! directory (see [`facts`](super::facts)), never in a queue.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use insula_model::ContainerId;
use minicbor::{Decode, Encode};

use super::channel::{Channel, ConnectError, ReceiveError, Received, SendError, Wait};
use super::facts::{EndedFact, GuestFact, ProcessIdentity};
use super::failure::Failure;
use super::init::OnClose;
use super::keeper::{KeeperAnswer, KeeperRequest};
use super::process::ProcessSpec;

/// Workers at a time; what is beyond waits.
pub const WORKERS_MAX: usize = 16;

/// Operations that wait for a worker; one more is refused as busy.
pub const WAITING_MAX: usize = 4096;

/// Containers in one answer to [`LauncherRequest::List`].
pub const CONTAINERS_PER_ANSWER: usize = 32;

/// Names one operation for as long as a daemon lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct OpId(#[n(0)] pub u64);

/// Names the mount of one image version: its digest in hexadecimal, `[0-9a-z_.-]`, 1 to 128 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct ImageKey(#[n(0)] pub String);

impl ImageKey {
    /// Whether it is within its alphabet, and so one plain path component.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
        (1..=128).contains(&self.0.len()) && !self.0.starts_with('.') && self.0.bytes().all(allowed)
    }
}

/// A request with the operation it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LauncherCall {
    /// Chosen by the daemon, not used twice on one connection.
    #[n(0)]
    pub op: OpId,
    /// What is asked.
    #[n(1)]
    pub request: LauncherRequest,
}

/// What the launcher can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum LauncherRequest {
    /// First message of a connection. Answered by [`LauncherOutcome::Welcome`].
    #[n(0)]
    Hello {
        /// The daemon's [`PROTOCOL_VERSION`](super::PROTOCOL_VERSION).
        #[n(0)]
        version: u16,
    },
    /// Start a container. Beside it: the plan (a sealed memfd), then the plan's descriptors in the plan's order.
    /// Answered by `Started` or `Failed`; after `Failed` nothing of it is left.
    #[n(1)]
    Start {
        /// Which.
        #[n(0)]
        #[cbor(with = "super::cbor::container_id")]
        container: ContainerId,
    },
    /// Run a process in a container whose process 1 is not ours, by joining its namespaces. Beside it: with
    /// [`Stdio::Given`](super::process::Stdio::Given) three descriptors. Answered by `Joined` or `Failed`.
    #[n(2)]
    Join {
        /// Which.
        #[n(0)]
        #[cbor(with = "super::cbor::container_id")]
        container: ContainerId,
        /// What to run.
        #[n(1)]
        process: ProcessSpec,
        /// What the end of its connection means for it.
        #[n(2)]
        on_close: OnClose,
    },
    /// Remove every host object of a container that is not running. Beside it: the sweep's plan (a sealed memfd).
    #[n(3)]
    Sweep {
        /// Whose.
        #[n(0)]
        #[cbor(with = "super::cbor::container_id")]
        container: ContainerId,
    },
    /// Mount an image version, or say that it is mounted. Beside it: its file, open for reading. Answered by
    /// `Mounted`.
    #[n(4)]
    MountImage {
        /// Under which key plans name it.
        #[n(0)]
        key: ImageKey,
    },
    /// Unmount it. Running containers keep what they use.
    #[n(5)]
    UnmountImage {
        /// Which.
        #[n(0)]
        key: ImageKey,
    },
    /// Pass this on to the keeper, with the descriptors beside it. Answered by `Kept`.
    #[n(6)]
    Keep(#[n(0)] KeeperRequest),
    /// Containers in the order of their ids, after this one or from the beginning.
    #[n(7)]
    List {
        /// The last id of the answer before.
        #[n(0)]
        #[cbor(
            encode_with = "super::cbor::optional_container_id::encode",
            decode_with = "super::cbor::optional_container_id::decode",
            nil = "super::cbor::optional_container_id::nil",
            is_nil = "super::cbor::optional_container_id::is_nil"
        )]
        after: Option<ContainerId>,
    },
    /// End the launcher and the keeper.
    #[n(8)]
    Shutdown(#[n(0)] ShutdownWhen),
    /// Become the program beside this (an open file), in place: sockets, containers and mounts stay.
    #[n(9)]
    Upgrade,
    /// Images that are mounted. Answered by `Images`.
    #[n(10)]
    ListImages,
    /// Run the guest services from now on, with what the keeper holds for them (see
    /// [`names::GIVEN_NAMES`](super::names::GIVEN_NAMES)); one that runs already is replaced.
    #[n(11)]
    ServeGuests(#[n(0)] GuestFact),
    /// Run them no more.
    #[n(12)]
    EndGuests,
}

/// When a shutdown is to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum ShutdownWhen {
    /// Only if no container runs; refused as [`Exists`](super::failure::FailureKind::Exists) otherwise.
    #[n(0)]
    Idle,
    /// Now. Containers run on without anybody who reaps them.
    #[n(1)]
    Now,
}

/// What the launcher says.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum LauncherEvent {
    /// About an operation. It is its last word.
    #[n(0)]
    Outcome {
        /// Which.
        #[n(0)]
        op: OpId,
        /// What became of it.
        #[n(1)]
        outcome: LauncherOutcome,
    },
    /// A container ended. Its `ended` fact is written.
    #[n(1)]
    Exited {
        /// Which.
        #[n(0)]
        #[cbor(with = "super::cbor::container_id")]
        container: ContainerId,
        /// How.
        #[n(1)]
        end: EndedFact,
    },
    /// All output of a container was logged and copied.
    #[n(2)]
    LogDrained {
        /// Whose.
        #[n(0)]
        #[cbor(with = "super::cbor::container_id")]
        container: ContainerId,
    },
    /// The keeper died and a new one has its place; nothing was lost but perhaps one read of each pipe.
    #[n(3)]
    KeeperRestarted,
}

/// What became of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum LauncherOutcome {
    /// To `Hello`.
    #[n(0)]
    Welcome {
        /// The launcher's [`PROTOCOL_VERSION`](super::PROTOCOL_VERSION).
        #[n(0)]
        version: u16,
        /// Its process number.
        #[n(1)]
        pid: u32,
        /// Containers that run.
        #[n(2)]
        running: u32,
    },
    /// It was not done, and nothing of it is left.
    #[n(1)]
    Failed(#[n(0)] Failure),
    /// The main process runs. Beside it: a pidfd of process 1, then the master of the main process's terminal if it
    /// has one.
    #[n(2)]
    Started {
        /// Process 1, as the host sees it.
        #[n(0)]
        process: ProcessIdentity,
        /// The main process, as the container sees it; 1 when the image's own init runs.
        #[n(1)]
        main_pid: u32,
    },
    /// A joined process runs. Beside it: a connection like one to process 1 about an exec'd process
    /// ([`InitEvent`](super::init::InitEvent), [`InitRequest`](super::init::InitRequest), but for `Resize`), then the
    /// master of its terminal if it has one.
    #[n(3)]
    Joined {
        /// As the host sees it.
        #[n(0)]
        process: ProcessIdentity,
    },
    /// Done.
    #[n(5)]
    Done,
    /// The image is mounted. Beside it: the detached mount.
    #[n(6)]
    Mounted,
    /// What the keeper answered, with its descriptors.
    #[n(7)]
    Kept(#[n(0)] KeeperAnswer),
    /// To `List`. Beside it: a pidfd for each container that runs, in order.
    #[n(8)]
    Containers {
        /// In the order of their ids, at most [`CONTAINERS_PER_ANSWER`].
        #[n(0)]
        containers: Vec<ContainerEntry>,
        /// Whether there are more.
        #[n(1)]
        more: bool,
    },
    /// To `ListImages`.
    #[n(9)]
    Images {
        /// In order.
        #[n(0)]
        keys: Vec<ImageKey>,
    },
}

/// A container the launcher knows.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ContainerEntry {
    /// Which.
    #[n(0)]
    #[cbor(with = "super::cbor::container_id")]
    pub container: ContainerId,
    /// Its process 1, or how it ended.
    #[n(1)]
    pub condition: ContainerCondition,
}

/// Whether a container runs.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ContainerCondition {
    /// It runs, with this process 1.
    #[n(0)]
    Running(#[n(0)] ProcessIdentity),
    /// It ended and was not swept yet.
    #[n(1)]
    Ended(#[n(0)] EndedFact),
    /// A worker is at it.
    #[n(2)]
    Starting,
}

/// The daemon's blocking half of the conversation: calls and events are taken apart, because outcomes come in any
/// order.
#[derive(Debug)]
pub struct LauncherClient {
    channel: Channel,
    pid: u32,
    next_op: u64,
    waiting: VecDeque<Received<LauncherEvent>>,
}

/// A call that could not be made or was not answered.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    /// The launcher is not there.
    #[error("the launcher is not reachable")]
    Connect(#[source] ConnectError),
    /// It went away, or the call is too large.
    #[error("the call was not sent")]
    Send(#[source] SendError),
    /// It went away.
    #[error("the launcher said nothing more")]
    Receive(#[source] ReceiveError),
    /// It speaks another version.
    #[error("the launcher speaks version {theirs} of the protocol, not {}", super::PROTOCOL_VERSION)]
    Version {
        /// What it speaks.
        theirs: u16,
    },
    /// Its first answer is not a welcome.
    #[error("the launcher did not welcome us")]
    NotWelcome,
    /// The operation failed.
    #[error("the launcher refused")]
    Failed(#[source] Failure),
}

/// Events that may wait in a client while it waits for an outcome; one more ends the connection as malformed.
const WAITING_EVENTS_MAX: usize = 8192;

impl LauncherClient {
    /// Connects and says hello: from now on this is the launcher's daemon.
    ///
    /// # Errors
    ///
    /// Nobody listens, the caller is not root, or the launcher speaks another version.
    pub fn connect(path: &Path) -> Result<Self, LauncherError> {
        let channel = Channel::connect(path).map_err(LauncherError::Connect)?;
        let mut client = Self { channel, pid: 0, next_op: 0, waiting: VecDeque::new() };
        let op = client.send(LauncherRequest::Hello { version: super::PROTOCOL_VERSION }, &[])?;
        match client.outcome(op)?.message {
            LauncherOutcome::Welcome { version: super::PROTOCOL_VERSION, pid, .. } => {
                client.pid = pid;
                Ok(client)
            }
            LauncherOutcome::Welcome { version, .. } => Err(LauncherError::Version { theirs: version }),
            _ => Err(LauncherError::NotWelcome),
        }
    }

    /// The launcher's process number.
    #[must_use]
    pub fn launcher_pid(&self) -> u32 {
        self.pid
    }

    /// Sends a request; its outcome comes as an event with the operation returned.
    ///
    /// # Errors
    ///
    /// The launcher is gone or the request too large.
    pub fn send(&mut self, request: LauncherRequest, fds: &[BorrowedFd<'_>]) -> Result<OpId, LauncherError> {
        self.next_op += 1;
        let op = OpId(self.next_op);
        self.channel.send(&LauncherCall { op, request }, fds, Wait::Forever).map_err(LauncherError::Send)?;
        Ok(op)
    }

    /// The next event; waits for it.
    ///
    /// # Errors
    ///
    /// The launcher is gone.
    pub fn event(&mut self) -> Result<Received<LauncherEvent>, LauncherError> {
        match self.waiting.pop_front() {
            Some(event) => Ok(event),
            None => self.channel.receive(Wait::Forever).map_err(LauncherError::Receive),
        }
    }

    /// The next event if one is there.
    ///
    /// # Errors
    ///
    /// The launcher is gone.
    pub fn try_event(&mut self) -> Result<Option<Received<LauncherEvent>>, LauncherError> {
        if let Some(event) = self.waiting.pop_front() {
            return Ok(Some(event));
        }
        match self.channel.receive(Wait::Never) {
            Ok(event) => Ok(Some(event)),
            Err(ReceiveError::WouldBlock) => Ok(None),
            Err(error) => Err(LauncherError::Receive(error)),
        }
    }

    /// Waits for one operation's next outcome; events about others stay for [`event`](Self::event).
    /// `Failed` is an error here.
    ///
    /// # Errors
    ///
    /// The operation failed, or the launcher is gone.
    pub fn outcome(&mut self, op: OpId) -> Result<Received<LauncherOutcome>, LauncherError> {
        let is_it = |event: &Received<LauncherEvent>| matches!(&event.message, LauncherEvent::Outcome { op: of, .. } if *of == op);
        let found = self.waiting.iter().position(is_it).and_then(|at| self.waiting.remove(at));
        let mut next = found;
        loop {
            let event = match next.take() {
                Some(event) => event,
                None => self.channel.receive(Wait::Forever).map_err(LauncherError::Receive)?,
            };
            match event.message {
                LauncherEvent::Outcome { op: of, outcome: LauncherOutcome::Failed(failure) } if of == op => {
                    return Err(LauncherError::Failed(failure));
                }
                LauncherEvent::Outcome { op: of, outcome } if of == op => {
                    return Ok(Received { message: outcome, fds: event.fds });
                }
                message => {
                    if self.waiting.len() == WAITING_EVENTS_MAX {
                        return Err(LauncherError::Receive(ReceiveError::TooLarge));
                    }
                    self.waiting.push_back(Received { message, fds: event.fds });
                }
            }
        }
    }

    /// Sends a request and waits for its outcome.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send) and [`outcome`](Self::outcome).
    pub fn call(
        &mut self,
        request: LauncherRequest,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Received<LauncherOutcome>, LauncherError> {
        let op = self.send(request, fds)?;
        self.outcome(op)
    }
}

impl AsFd for LauncherClient {
    /// Readable when an event is there (beside those that already wait in the client: drain
    /// [`try_event`](Self::try_event) first).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}
