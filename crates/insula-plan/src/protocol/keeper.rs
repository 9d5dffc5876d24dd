//! The keeper: descriptors by name that must not close, and the containers' logs.
//!
//! Several connections may be open; each call has a number that its answer repeats. Events go to every connection.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::str::FromStr;

use insula_model::ContainerId;
use minicbor::decode::Error as DecodeError;
use minicbor::encode::{Error as EncodeError, Write};
use minicbor::{Decode, Decoder, Encode, Encoder};

use super::channel::{Channel, ConnectError, ReceiveError, Received, SendError, Wait};
use super::failure::Failure;

/// Most descriptors the keeper stores by name, beside those of logs.
pub const STORED_FDS_MAX: usize = 16_384;

/// Most names in one answer to [`KeeperRequest::List`].
pub const NAMES_PER_ANSWER: usize = 512;

/// A name of a stored descriptor: 1 to 128 bytes of `a-z 0-9 _ . - : /`.
///
/// What belongs to a container begins with its id and a slash, so that one prefix removes all of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FdName(String);

/// Text that names no descriptor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("descriptor name `{}` is not 1 to 128 of a-z 0-9 _ . - : /", given.escape_debug())]
pub struct ParseFdNameError {
    given: String,
}

impl FdName {
    /// `part` of a container, such as `pty` or `port:tcp:8080`.
    ///
    /// # Errors
    ///
    /// `part` is outside the alphabet or too long.
    pub fn of_container(id: ContainerId, part: &str) -> Result<Self, ParseFdNameError> {
        format!("{id}/{part}").parse()
    }

    /// Which container's it is and which part of it, if it is a container's.
    #[must_use]
    pub fn container_part(&self) -> Option<(ContainerId, &str)> {
        let (id, part) = self.0.split_once('/')?;
        Some((id.parse().ok()?, part))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FdName {
    type Err = ParseFdNameError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b':' | b'/');
        if (1..=128).contains(&given.len()) && given.bytes().all(allowed) {
            Ok(Self(given.to_owned()))
        } else {
            Err(ParseFdNameError { given: given.chars().take(128).collect() })
        }
    }
}

impl<C> Encode<C> for FdName {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
        e.str(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for FdName {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, DecodeError> {
        let at = d.position();
        d.str()?.parse().map_err(|_| DecodeError::message("not a descriptor name").at(at))
    }
}

/// A request with the number that its answer repeats.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct KeeperCall {
    /// Chosen by the caller, not 0.
    #[n(0)]
    pub number: u64,
    /// What is asked.
    #[n(1)]
    pub request: KeeperRequest,
}

/// What the keeper can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum KeeperRequest {
    /// First message of a connection.
    #[n(0)]
    Hello {
        /// The caller's [`PROTOCOL_VERSION`](super::PROTOCOL_VERSION).
        #[n(0)]
        version: u16,
    },
    /// Keep the one descriptor beside this; one that had the name is closed.
    #[n(1)]
    Put {
        /// Under which name.
        #[n(0)]
        name: FdName,
    },
    /// Give a copy back.
    #[n(2)]
    Take {
        /// Of which.
        #[n(0)]
        name: FdName,
    },
    /// Close one.
    #[n(3)]
    Remove {
        /// Which.
        #[n(0)]
        name: FdName,
    },
    /// Close everything of a container: stored descriptors, and its log after what is in the pipes was written.
    #[n(4)]
    RemoveContainer {
        /// Whose.
        #[n(0)]
        #[cbor(with = "super::cbor::container_id")]
        container: ContainerId,
    },
    /// Names in order, after this one or from the beginning.
    #[n(5)]
    List {
        /// The last name of the answer before.
        #[n(0)]
        after: Option<FdName>,
    },
    /// Begin or go on with a container's log. Beside it: the log directory (opened `O_DIRECTORY`), then the read
    /// ends that [`LogStart::streams`] names, then for each tee of `tees` its descriptor.
    #[n(6)]
    LogStart(#[n(0)] LogStart),
    /// Copy a stream to the descriptor beside this too: a pipe, a stream socket or a regular file.
    #[n(7)]
    Tee {
        /// Whose.
        #[n(0)]
        #[cbor(with = "super::cbor::container_id")]
        container: ContainerId,
        /// What.
        #[n(1)]
        tee: TeeSpec,
    },
    /// Answered when what was in the pipes at that moment is in the log and in the tees, or their readers are gone.
    #[n(8)]
    Flush {
        /// Whose.
        #[n(0)]
        #[cbor(with = "super::cbor::container_id")]
        container: ContainerId,
    },
    /// How a log stands.
    #[n(9)]
    LogState {
        /// Whose.
        #[n(0)]
        #[cbor(with = "super::cbor::container_id")]
        container: ContainerId,
    },
    /// The next thing kept, with copies of its descriptors: for a launcher that takes over.
    #[n(10)]
    Export {
        /// The cursor of the entry before; 0 for the first.
        #[n(0)]
        after: u64,
    },
    /// End, closing everything. Only the launcher's `Shutdown` asks for this.
    #[n(11)]
    Shutdown,
}

/// How a container's output is kept.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LogStart {
    /// Whose.
    #[n(0)]
    #[cbor(with = "super::cbor::container_id")]
    pub container: ContainerId,
    /// Which streams' pipes come beside it, in order.
    #[n(1)]
    pub streams: Vec<LogStream>,
    /// Where copies go.
    #[n(2)]
    pub tees: Vec<TeeSpec>,
    /// Whether it is written to files, and with which bounds; `None` only feeds the tees.
    #[n(3)]
    pub files: Option<LogBounds>,
}

/// One output of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum LogStream {
    /// Standard output.
    #[n(1)]
    Output,
    /// Standard error.
    #[n(2)]
    Error,
}

/// A copy of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct TeeSpec {
    /// Of which stream.
    #[n(0)]
    pub stream: LogStream,
    /// What happens when its reader is slow.
    #[n(1)]
    pub when_slow: WhenSlow,
}

/// What happens to a stream when a tee's buffer (256 KiB) is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum WhenSlow {
    /// The stream is not read until there is room: the container waits, nothing is lost. For foreground runs.
    #[n(0)]
    Block,
    /// The tee misses bytes. For those who look on.
    #[n(1)]
    Drop,
}

/// Bounds of a log on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LogBounds {
    /// Bytes of one segment, 64 KiB at least.
    #[n(0)]
    pub segment_bytes: u64,
    /// Segments kept, 2 at least; the oldest is removed when a new one begins.
    #[n(1)]
    pub segments: u32,
    /// Bytes per second that are written in the long run; what is beyond is lost and counted.
    #[n(2)]
    pub rate_bytes_per_second: u64,
    /// Bytes that may be written at once before the rate applies.
    #[n(3)]
    pub burst_bytes: u64,
}

impl LogBounds {
    /// 4 segments of 4 MiB, 4 MiB per second, a burst of 16 MiB.
    pub const DEFAULT: Self = Self {
        segment_bytes: 4 * 1024 * 1024,
        segments: 4,
        rate_bytes_per_second: 4 * 1024 * 1024,
        burst_bytes: 16 * 1024 * 1024,
    };
}

/// What the keeper says.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum KeeperMessage {
    /// To the call with this number.
    #[n(0)]
    Answer {
        /// The call's number.
        #[n(0)]
        number: u64,
        /// Its answer.
        #[n(1)]
        answer: KeeperAnswer,
    },
    /// All pipes of a container's log reached their end and the tees are closed; its log is no more kept.
    #[n(1)]
    Drained {
        /// Whose.
        #[n(0)]
        #[cbor(with = "super::cbor::container_id")]
        container: ContainerId,
    },
    /// The same of all runs of a container but the one that goes on.
    #[n(2)]
    RunsDrained {
        /// Whose.
        #[n(0)]
        #[cbor(with = "super::cbor::container_id")]
        container: ContainerId,
    },
}

/// Answers of the keeper.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum KeeperAnswer {
    /// To `Hello`.
    #[n(0)]
    Welcome {
        /// The keeper's [`PROTOCOL_VERSION`](super::PROTOCOL_VERSION).
        #[n(0)]
        version: u16,
        /// Its process number.
        #[n(1)]
        pid: u32,
    },
    /// Done; for `Take` with the descriptor beside it.
    #[n(1)]
    Done,
    /// It was not done.
    #[n(2)]
    Failed(#[n(0)] Failure),
    /// To `List`.
    #[n(3)]
    Names {
        /// In order, at most [`NAMES_PER_ANSWER`].
        #[n(0)]
        names: Vec<FdName>,
        /// Whether there are more.
        #[n(1)]
        more: bool,
    },
    /// To `LogState`.
    #[n(4)]
    LogState(#[n(0)] LogState),
    /// To `Export`: a stored descriptor, beside it.
    #[n(5)]
    Stored {
        /// Cursor for the next call.
        #[n(0)]
        cursor: u64,
        /// Its name.
        #[n(1)]
        name: FdName,
    },
    /// To `Export`: a log, its descriptors beside it as in [`KeeperRequest::LogStart`].
    #[n(6)]
    Log {
        /// Cursor for the next call.
        #[n(0)]
        cursor: u64,
        /// How it is kept.
        #[n(1)]
        log: LogStart,
    },
    /// To `Export`: there is no more.
    #[n(7)]
    End,
}

/// How a log stands.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LogState {
    /// Streams whose pipes are open.
    #[n(0)]
    pub open: Vec<LogStream>,
    /// Number of the segment being written.
    #[n(1)]
    pub segment: u64,
    /// Bytes that the rate limit or a full disk cost since the keeper started.
    #[n(2)]
    pub lost_bytes: u64,
    /// Tees that are attached.
    #[n(3)]
    pub tees: u32,
}

/// A connection to the keeper with one call at a time.
#[derive(Debug)]
pub struct KeeperClient {
    channel: Channel,
    number: u64,
    drained: VecDeque<ContainerId>,
}

/// A call that was not answered as it should be.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The keeper is not there.
    #[error("the keeper is not reachable")]
    Connect(#[source] ConnectError),
    /// It went away, or the call is too large.
    #[error("the call was not sent")]
    Send(#[source] SendError),
    /// It went away before it answered.
    #[error("no answer came")]
    Receive(#[source] ReceiveError),
    /// It refused.
    #[error("the keeper refused")]
    Refused(#[source] Failure),
    /// It speaks another version.
    #[error("the keeper speaks version {theirs} of the protocol, not {}", super::PROTOCOL_VERSION)]
    Version {
        /// What it speaks.
        theirs: u16,
    },
    /// An answer that does not belong to the call.
    #[error("the answer does not belong to the call")]
    OutOfOrder,
}

/// Events that wait in a client until they are taken; beyond it the oldest is forgotten.
const EVENTS_MAX: usize = 4096;

impl KeeperClient {
    /// Connects and says hello.
    ///
    /// # Errors
    ///
    /// Nobody listens, or it speaks another version.
    pub fn connect(path: &Path) -> Result<Self, KeeperError> {
        Self::over(Channel::connect(path).map_err(KeeperError::Connect)?)
    }

    /// Says hello over a connection that somebody else made.
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect).
    pub fn over(channel: Channel) -> Result<Self, KeeperError> {
        let mut client = Self { channel, number: 0, drained: VecDeque::new() };
        let hello = KeeperRequest::Hello { version: super::PROTOCOL_VERSION };
        match client.call(hello, &[])?.message {
            KeeperAnswer::Welcome { version: super::PROTOCOL_VERSION, .. } => Ok(client),
            KeeperAnswer::Welcome { version, .. } => Err(KeeperError::Version { theirs: version }),
            _ => Err(KeeperError::OutOfOrder),
        }
    }

    /// Asks and waits for the answer. A refusal is an error here.
    ///
    /// # Errors
    ///
    /// See [`KeeperError`]; after all but `Refused` and `Send` the connection is of no more use.
    pub fn call(
        &mut self,
        request: KeeperRequest,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Received<KeeperAnswer>, KeeperError> {
        self.number += 1;
        let number = self.number;
        self.channel.send(&KeeperCall { number, request }, fds, Wait::Forever).map_err(KeeperError::Send)?;
        loop {
            let received = self.channel.receive(Wait::Forever).map_err(KeeperError::Receive)?;
            match received.message {
                KeeperMessage::Answer { number: answered, answer } if answered == number => {
                    return match answer {
                        KeeperAnswer::Failed(failure) => Err(KeeperError::Refused(failure)),
                        message => Ok(Received { message, fds: received.fds }),
                    };
                }
                KeeperMessage::Answer { .. } => return Err(KeeperError::OutOfOrder),
                KeeperMessage::Drained { container } => self.remember(container),
                KeeperMessage::RunsDrained { .. } => {}
            }
        }
    }

    fn remember(&mut self, container: ContainerId) {
        if self.drained.len() == EVENTS_MAX {
            self.drained.pop_front();
        }
        self.drained.push_back(container);
    }

    /// Keeps a descriptor.
    ///
    /// # Errors
    ///
    /// The keeper is full or gone.
    pub fn put(&mut self, name: &FdName, fd: BorrowedFd<'_>) -> Result<(), KeeperError> {
        self.call(KeeperRequest::Put { name: name.clone() }, &[fd]).map(drop)
    }

    /// A copy of a kept descriptor.
    ///
    /// # Errors
    ///
    /// There is none of that name (`Refused` with [`FailureKind::Unknown`](super::failure::FailureKind::Unknown)).
    pub fn take(&mut self, name: &FdName) -> Result<OwnedFd, KeeperError> {
        let received = self.call(KeeperRequest::Take { name: name.clone() }, &[])?;
        received.fds.into_iter().next().ok_or(KeeperError::OutOfOrder)
    }

    /// Waits until what is in a log's pipes was written.
    ///
    /// # Errors
    ///
    /// The keeper is gone.
    pub fn flush(&mut self, container: ContainerId) -> Result<(), KeeperError> {
        self.call(KeeperRequest::Flush { container }, &[]).map(drop)
    }

    /// Containers whose logs ended and were not asked for yet.
    pub fn take_drained(&mut self) -> impl Iterator<Item = ContainerId> {
        std::mem::take(&mut self.drained).into_iter()
    }
}

impl AsFd for KeeperClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_the_alphabet_are_refused_also_on_the_wire() {
        assert!("a/b:c".parse::<FdName>().is_ok());
        for bad in ["", "A", "a b", "a\0", &"x".repeat(129)] {
            assert!(bad.parse::<FdName>().is_err(), "{bad:?}");
            let bytes = super::super::channel::encode(&bad);
            assert!(super::super::channel::decode::<FdName>(&bytes).is_err());
        }
    }
}
