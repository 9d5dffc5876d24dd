//! Process 1 of a container: what it is given, what it can be asked, what it answers.
//!
//! ```text
//!   fd 0 1 2   standard input, output, error of the main process (process 1 itself gives them away)
//!   fd 3       InitConfig, a sealed memfd; closed once read
//!   fd 4       status socket (SOCK_SEQPACKET): InitEvent about the main process, to the launcher
//!   fd 5       exec listener (SOCK_SEQPACKET, non-blocking): made on the host, named below the run directory
//!   fd 6       exit fact: a host file open for writing, where the main process's End is kept
//!   fd 7 8     reading ends of the main process's output and error, or its terminal's master at 7; else /dev/null.
//!              Never read here: as long as process 1 lives its outputs have a reader, whoever else may die
//! ```
//!
//! One connection to the listener is one exec request: `Exec` first, then any number of `Signal` and `Resize`; the
//! answers are `Started` or `Failed`, later `Ended`. Closing the connection leaves the process running unless the
//! request said [`OnClose::Kill`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use minicbor::{Decode, Encode};

use super::channel::{Channel, ConnectError, ReceiveError, SendError, Wait};
use super::process::{ProcessSpec, SpawnFailure, Stdio, WindowSize};
use super::status::End;

/// Where process 1 finds its [`InitConfig`].
pub const CONFIG_FD: RawFd = 3;
/// Where it tells the launcher about the main process.
pub const STATUS_FD: RawFd = 4;
/// Where exec requests are accepted.
pub const EXEC_FD: RawFd = 5;
/// Where the main process's end is written.
pub const EXIT_FACT_FD: RawFd = 6;
/// What it holds so that it stays open, of standard output and of standard error.
pub const HELD_FDS: [RawFd; 2] = [7, 8];
/// First descriptor that process 1 was not given; it closes all from here on.
pub const FIRST_FREE_FD: RawFd = 9;

/// Longest configuration, in bytes.
pub const CONFIG_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most exec connections at a time; one more is answered with [`SpawnFailure::Busy`] and closed.
pub const EXEC_CONNECTIONS_MAX: usize = 256;

/// What process 1 is to do.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct InitConfig {
    /// [`PROTOCOL_VERSION`](super::PROTOCOL_VERSION) of who wrote it.
    #[n(0)]
    pub version: u16,
    /// The main process. Its end is the container's end. Without one the container stays, for its files, until it is
    /// killed.
    #[n(1)]
    pub main: Option<ProcessSpec>,
}

impl InitConfig {
    /// A configuration in this build's version.
    #[must_use]
    pub fn new(main: Option<ProcessSpec>) -> Self {
        Self { version: super::PROTOCOL_VERSION, main }
    }
}

/// What process 1 can be asked over an exec connection.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum InitRequest {
    /// Run this. With [`Stdio::Given`] three descriptors come beside it.
    #[n(0)]
    Exec(#[n(0)] Box<ExecRequest>),
    /// Send this signal to the process of this connection.
    #[n(1)]
    Signal(#[n(0)] u8),
    /// Its terminal has this size now.
    #[n(2)]
    Resize(#[n(0)] WindowSize),
}

/// A further process.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ExecRequest {
    /// What to run.
    #[n(0)]
    pub process: ProcessSpec,
    /// What the end of the connection means for it.
    #[n(1)]
    pub on_close: OnClose,
}

/// What happens to an exec'd process when its connection closes before it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum OnClose {
    /// It goes on; its end is told to nobody.
    #[n(0)]
    Leave,
    /// It is killed.
    #[n(1)]
    Kill,
}

/// What process 1 says: over the status socket about the main process, over an exec connection about that process.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum InitEvent {
    /// The program runs. With [`Stdio::Terminal`] the terminal's master is beside it.
    #[n(0)]
    Started {
        /// Its number inside the container.
        #[n(0)]
        pid: u32,
    },
    /// It does not run, and nothing of it is left.
    #[n(1)]
    Failed(#[n(0)] SpawnFailure),
    /// It ended.
    #[n(2)]
    Ended(#[n(0)] End),
    /// It ended, and the kernel did not tell how: it had joined the container, and the launcher that was its parent
    /// was gone (before Linux 6.15).
    #[n(3)]
    EndedUnseen,
}

/// Connections to one container's process 1.
#[derive(Debug)]
pub struct InitClient {
    channel: Channel,
}

/// An exec request that was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// Process 1 answered: the process did not start.
    #[error("the container did not start the process")]
    Refused(#[source] SpawnFailure),
    /// The container has no such listener: it ended.
    #[error("the container takes no requests")]
    Connect(#[source] ConnectError),
    /// The request is larger than a message may be, or the container just ended.
    #[error("the request was not sent")]
    Send(#[source] SendError),
    /// The container ended before it answered, or what answered is not our process 1.
    #[error("no answer came")]
    Receive(#[source] ReceiveError),
    /// An answer that does not belong here.
    #[error("the answer is out of order")]
    OutOfOrder,
}

/// Standard input, output and error of an exec'd process.
#[derive(Debug, Clone, Copy)]
pub struct StdioFds<'fd> {
    /// Standard input.
    pub input: BorrowedFd<'fd>,
    /// Standard output.
    pub output: BorrowedFd<'fd>,
    /// Standard error.
    pub error: BorrowedFd<'fd>,
}

impl InitClient {
    /// Connects to a container's exec listener ([`RunDir::exec_socket`](super::run_dir::RunDir::exec_socket)).
    ///
    /// # Errors
    ///
    /// The container ended, or the caller is not root.
    pub fn connect(path: &Path) -> Result<Self, ExecError> {
        Channel::connect(path).map(|channel| Self { channel }).map_err(ExecError::Connect)
    }

    /// Over a connection that somebody else made.
    #[must_use]
    pub fn over(channel: Channel) -> Self {
        Self { channel }
    }

    /// Runs a process and waits until its program runs. `fds` is given with [`Stdio::Given`] and only then.
    ///
    /// # Errors
    ///
    /// See [`ExecError`]; in each case the process does not run.
    pub fn exec(self, request: ExecRequest, fds: Option<StdioFds<'_>>) -> Result<RunningExec, ExecError> {
        let pending = self.request(request, fds)?;
        pending.channel.receive(Wait::Forever).map_err(ExecError::Receive).and_then(|answer| pending.started(answer))
    }

    /// Sends the request and does not wait: for callers with a loop of their own, who wait until the descriptor of
    /// what is returned is readable.
    ///
    /// # Errors
    ///
    /// The request was not sent.
    pub fn request(self, request: ExecRequest, fds: Option<StdioFds<'_>>) -> Result<PendingExec, ExecError> {
        let given: Vec<BorrowedFd<'_>> = fds.map(|fds| vec![fds.input, fds.output, fds.error]).unwrap_or_default();
        debug_assert_eq!(given.is_empty(), request.process.stdio != Stdio::Given, "descriptors go with Given only");
        self.channel.send(&InitRequest::Exec(Box::new(request)), &given, Wait::Forever).map_err(ExecError::Send)?;
        Ok(PendingExec { channel: self.channel })
    }
}

/// An exec request on its way.
#[derive(Debug)]
pub struct PendingExec {
    channel: Channel,
}

impl PendingExec {
    /// Takes the answer if it is there.
    ///
    /// # Errors
    ///
    /// `Ok(Err(self))` says that it is not there yet; all other errors are as for [`InitClient::exec`].
    pub fn try_started(self) -> Result<Result<RunningExec, Self>, ExecError> {
        match self.channel.receive(Wait::Never) {
            Ok(answer) => self.started(answer).map(Ok),
            Err(ReceiveError::WouldBlock) => Ok(Err(self)),
            Err(error) => Err(ExecError::Receive(error)),
        }
    }

    fn started(self, answer: super::channel::Received<InitEvent>) -> Result<RunningExec, ExecError> {
        match answer.message {
            InitEvent::Started { pid } => {
                let terminal = answer.fds.into_iter().next();
                Ok(RunningExec { pid, terminal, channel: self.channel })
            }
            InitEvent::Failed(failure) => Err(ExecError::Refused(failure)),
            InitEvent::Ended(_) | InitEvent::EndedUnseen => Err(ExecError::OutOfOrder),
        }
    }
}

impl AsFd for PendingExec {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// A process that was started by request. Dropping it closes the connection; see [`OnClose`].
#[derive(Debug)]
pub struct RunningExec {
    /// Its number inside the container.
    pub pid: u32,
    /// Master of its terminal, with [`Stdio::Terminal`]. Resizing may be done on it directly.
    pub terminal: Option<OwnedFd>,
    channel: Channel,
}

impl RunningExec {
    /// Sends it a signal (1 to 64).
    ///
    /// # Errors
    ///
    /// The container ended.
    pub fn signal(&self, number: u8) -> Result<(), ExecError> {
        self.channel.send(&InitRequest::Signal(number), &[], Wait::Forever).map_err(ExecError::Send)
    }

    /// Tells it the size of its terminal.
    ///
    /// # Errors
    ///
    /// The container ended.
    pub fn resize(&self, size: WindowSize) -> Result<(), ExecError> {
        self.channel.send(&InitRequest::Resize(size), &[], Wait::Forever).map_err(ExecError::Send)
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// The container was killed as a whole before it could say how the process ended.
    pub fn wait(&self) -> Result<End, ExecError> {
        match self.channel.receive::<InitEvent>(Wait::Forever).map_err(ExecError::Receive)?.message {
            InitEvent::Ended(end) => Ok(end),
            _ => Err(ExecError::OutOfOrder),
        }
    }

    /// Its end, if it is known; `None` while it runs. Never waits.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Self::wait).
    pub fn try_wait(&self) -> Result<Option<End>, ExecError> {
        match self.channel.receive::<InitEvent>(Wait::Never) {
            Ok(received) => match received.message {
                InitEvent::Ended(end) => Ok(Some(end)),
                _ => Err(ExecError::OutOfOrder),
            },
            Err(ReceiveError::WouldBlock) => Ok(None),
            Err(error) => Err(ExecError::Receive(error)),
        }
    }
}

impl AsFd for RunningExec {
    /// Readable when the process ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}
