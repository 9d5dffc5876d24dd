//! One conversation: packets of CBOR with descriptors, bounded on both sides.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use minicbor::{Decode, Encode};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// Longest message, in bytes. A command line or environment beyond it is refused by name; a plan travels as a memfd.
pub const MESSAGE_BYTES_MAX: usize = 128 * 1024;

/// Most descriptors beside one message (the kernel's own bound is 253).
pub const MESSAGE_FDS_MAX: usize = 64;

/// Connections that may wait to be accepted on one of our listeners; one more waits in its `connect`.
pub const BACKLOG: i32 = 64;

/// One end of a conversation over a `SOCK_SEQPACKET` unix socket.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

/// A message and the descriptors that came with it, in the sender's order.
#[derive(Debug)]
pub struct Received<M> {
    /// What was said.
    pub message: M,
    /// What came beside it: at most [`MESSAGE_FDS_MAX`], all close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// Whether a call may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Until it can be done.
    Forever,
    /// Not at all: `WouldBlock` instead.
    Never,
}

/// A connection that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("connect to {}", path.display())]
pub struct ConnectError {
    /// The socket's path.
    pub path: PathBuf,
    /// `ENOENT` and `ECONNREFUSED`: nobody listens there.
    #[source]
    pub errno: Errno,
}

/// A message that was not sent; nothing of it reached the peer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Say it in fewer words.
    #[error("message has {bytes} bytes; at most {MESSAGE_BYTES_MAX} are allowed")]
    TooLarge {
        /// Its encoded length.
        bytes: usize,
    },
    /// More than [`MESSAGE_FDS_MAX`].
    #[error("message has {count} descriptors; at most {MESSAGE_FDS_MAX} are allowed")]
    TooManyFds {
        /// How many.
        count: usize,
    },
    /// The peer is gone.
    #[error("the peer closed the connection")]
    Closed,
    /// The peer does not read; only with [`Wait::Never`].
    #[error("the peer's queue is full")]
    WouldBlock,
    /// Anything else the kernel says.
    #[error("sendmsg")]
    Kernel(#[source] Errno),
}

/// A message that could not be taken. After all but `WouldBlock` the connection is to be closed.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The peer is gone; all it sent has been read.
    #[error("the peer closed the connection")]
    Closed,
    /// Nothing is there; only with [`Wait::Never`].
    #[error("no message is there")]
    WouldBlock,
    /// More than [`MESSAGE_BYTES_MAX`] bytes or [`MESSAGE_FDS_MAX`] descriptors.
    #[error("the peer's message is larger than {MESSAGE_BYTES_MAX} bytes or {MESSAGE_FDS_MAX} descriptors")]
    TooLarge,
    /// Not a message of this protocol.
    #[error("the peer's message is malformed")]
    Malformed(#[source] minicbor::decode::Error),
    /// Anything else the kernel says.
    #[error("recvmsg")]
    Kernel(#[source] Errno),
}

impl Channel {
    /// Takes a connected `SOCK_SEQPACKET` socket.
    #[must_use]
    pub fn from_socket(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Two ends of a new conversation.
    ///
    /// # Errors
    ///
    /// The process or the system has no descriptor left.
    pub fn pair() -> Result<(Self, Self), Errno> {
        let (one, other) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self::from_socket(one), Self::from_socket(other)))
    }

    /// Connects to a listener. Paths longer than a socket address (107 bytes) are reached through their directory.
    ///
    /// # Errors
    ///
    /// Nobody listens there, or the path is not accessible.
    pub fn connect(path: &Path) -> Result<Self, ConnectError> {
        let wrap = |errno| ConnectError { path: path.to_owned(), errno };
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(wrap)?;
        with_address(path, |address| rustix::net::connect(&socket, address)).map_err(wrap)?;
        Ok(Self { socket })
    }

    /// Sends one message with descriptors; they are duplicated to the peer, the caller keeps its own.
    ///
    /// # Errors
    ///
    /// See [`SendError`]; the connection stays usable after `TooLarge`, `TooManyFds` and `WouldBlock`.
    pub fn send<M: Encode<()>>(&self, message: &M, fds: &[BorrowedFd<'_>], wait: Wait) -> Result<(), SendError> {
        let bytes = encode(message);
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(SendError::TooLarge { bytes: bytes.len() });
        }
        if fds.len() > MESSAGE_FDS_MAX {
            return Err(SendError::TooManyFds { count: fds.len() });
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MESSAGE_FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(fds));
            debug_assert!(fits, "the buffer has room for MESSAGE_FDS_MAX");
        }
        let flags = SendFlags::NOSIGNAL | if wait == Wait::Never { SendFlags::DONTWAIT } else { SendFlags::empty() };
        loop {
            return match rustix::net::sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, flags) {
                Ok(_) => Ok(()),
                Err(Errno::INTR) => continue,
                Err(Errno::PIPE | Errno::CONNRESET) => Err(SendError::Closed),
                Err(Errno::AGAIN) => Err(SendError::WouldBlock),
                Err(errno) => Err(SendError::Kernel(errno)),
            };
        }
    }

    /// Takes the next message.
    ///
    /// # Errors
    ///
    /// See [`ReceiveError`].
    pub fn receive<M>(&self, wait: Wait) -> Result<Received<M>, ReceiveError>
    where
        M: for<'b> Decode<'b, ()>,
    {
        let mut buffer = vec![0; self.next_length(wait)?];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MESSAGE_FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let result = rustix::net::recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
            .map_err(ReceiveError::Kernel)?;
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(given) = message {
                fds.extend(given);
            }
        }
        if result.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(ReceiveError::TooLarge);
        }
        let message = decode(&buffer[..result.bytes]).map_err(ReceiveError::Malformed)?;
        Ok(Received { message, fds })
    }

    /// Length of the next message, which stays where it is.
    fn next_length(&self, wait: Wait) -> Result<usize, ReceiveError> {
        let mut flags = RecvFlags::PEEK | RecvFlags::TRUNC;
        if wait == Wait::Never {
            flags |= RecvFlags::DONTWAIT;
        }
        loop {
            let mut nothing: [u8; 0] = [];
            match rustix::net::recv(&self.socket, &mut nothing, flags) {
                // No message of ours is empty, so an empty one is as good as none.
                Ok((_, 0)) | Err(Errno::CONNRESET) => return Err(ReceiveError::Closed),
                Ok((_, bytes)) if bytes > MESSAGE_BYTES_MAX => return Err(ReceiveError::TooLarge),
                Ok((_, bytes)) => return Ok(bytes),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(ReceiveError::WouldBlock),
                Err(errno) => return Err(ReceiveError::Kernel(errno)),
            }
        }
    }

    /// The socket itself, for another owner.
    #[must_use]
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Makes a listener at `path`, whose directory must exist; what stood there before is replaced.
/// The listener is non-blocking, its socket file has mode 0600.
///
/// # Errors
///
/// The directory is missing or not writable, or something that is no socket stands at `path`.
pub fn listen(path: &Path) -> Result<OwnedFd, ConnectError> {
    let wrap = |errno| ConnectError { path: path.to_owned(), errno };
    match rustix::fs::lstat(path) {
        Ok(found) if rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::Socket => {
            rustix::fs::unlink(path).map_err(wrap)?;
        }
        Ok(_) => return Err(wrap(Errno::EXIST)),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(wrap(errno)),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(wrap)?;
    // The file takes its mode from the socket's inode; before bind nobody can connect.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(wrap)?;
    with_address(path, |address| rustix::net::bind(&socket, address)).map_err(wrap)?;
    rustix::net::listen(&socket, BACKLOG).map_err(wrap)?;
    Ok(socket)
}

/// Takes the next waiting connection of a non-blocking listener; `None` when there is none.
///
/// # Errors
///
/// No descriptor is left.
pub fn accept(listener: BorrowedFd<'_>) -> Result<Option<Channel>, Errno> {
    match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
        Ok(socket) => Ok(Some(Channel::from_socket(socket))),
        Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn with_address<T>(path: &Path, call: impl Fn(&SocketAddrUnix) -> Result<T, Errno>) -> Result<T, Errno> {
    match SocketAddrUnix::new(path) {
        Ok(address) => call(&address),
        Err(Errno::NAMETOOLONG) => {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::INVAL) };
            let directory =
                rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
            call(&SocketAddrUnix::new(&short)?)
        }
        Err(errno) => Err(errno),
    }
}

/// The message's bytes.
pub fn encode<M: Encode<()>>(message: &M) -> Vec<u8> {
    // The writer is a Vec and none of our messages has a fallible encoder.
    minicbor::to_vec(message).unwrap_or_default()
}

/// Reads one message back; bytes after it are an error.
///
/// # Errors
///
/// The bytes are not this message, or more than it.
pub fn decode<M>(bytes: &[u8]) -> Result<M, minicbor::decode::Error>
where
    M: for<'b> Decode<'b, ()>,
{
    let mut decoder = minicbor::Decoder::new(bytes);
    let message = decoder.decode()?;
    if decoder.position() == bytes.len() {
        Ok(message)
    } else {
        Err(minicbor::decode::Error::message("bytes after the end of the message").at(decoder.position()))
    }
}

/// What every map that has a version begins with, whatever the rest became in another version.
#[derive(minicbor::Decode)]
#[cbor(map)]
struct Versioned {
    #[n(0)]
    version: u16,
}

/// Version of a map that has it as its entry 0. To be looked at before the whole is decoded: the rest of another
/// version's map may mean nothing here.
///
/// # Errors
///
/// Not such a map.
pub fn version_of(bytes: &[u8]) -> Result<u16, minicbor::decode::Error> {
    decode::<Versioned>(bytes).map(|found| found.version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let (one, other) = Channel::pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        one.send(&"hello", &[writer.as_fd()], Wait::Never).unwrap();
        let received = other.receive::<String>(Wait::Never).unwrap();
        assert_eq!(received.message, "hello");
        rustix::io::write(&received.fds[0], b"x").unwrap();
        let mut byte = [0];
        rustix::io::read(&reader, &mut byte).unwrap();
        assert_eq!(byte, *b"x");
    }

    #[test]
    fn an_empty_queue_and_a_closed_peer_are_told_apart() {
        let (one, other) = Channel::pair().unwrap();
        assert!(matches!(other.receive::<u8>(Wait::Never), Err(ReceiveError::WouldBlock)));
        drop(one);
        assert!(matches!(other.receive::<u8>(Wait::Forever), Err(ReceiveError::Closed)));
        assert!(matches!(other.send(&1u8, &[], Wait::Never), Err(SendError::Closed)));
    }

    #[test]
    fn a_message_over_the_bound_is_refused_by_both_sides() {
        let (one, other) = Channel::pair().unwrap();
        let long = "x".repeat(MESSAGE_BYTES_MAX);
        assert!(matches!(one.send(&long, &[], Wait::Never), Err(SendError::TooLarge { .. })));
        rustix::net::send(&one, &vec![0; MESSAGE_BYTES_MAX + 1], SendFlags::empty()).unwrap();
        assert!(matches!(other.receive::<u8>(Wait::Never), Err(ReceiveError::TooLarge)));
    }

    #[test]
    fn the_longest_message_fits_the_kernels_default_queue() {
        let (one, other) = Channel::pair().unwrap();
        let long = "x".repeat(MESSAGE_BYTES_MAX - 5);
        one.send(&long, &[], Wait::Never).unwrap();
        assert_eq!(other.receive::<String>(Wait::Never).unwrap().message, long);
    }

    #[test]
    fn a_full_queue_is_said_and_does_not_block() {
        let (one, _other) = Channel::pair().unwrap();
        let message = "x".repeat(10_000);
        let refused = (0..1000).find_map(|_| one.send(&message, &[], Wait::Never).err());
        assert!(matches!(refused, Some(SendError::WouldBlock)));
    }

    #[test]
    fn a_long_path_is_reached_through_its_directory() {
        let scratch = tempfile::tempdir().unwrap();
        let deep = scratch.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let path = deep.join("sock");
        let listener = listen(&path).unwrap();
        let client = Channel::connect(&path).unwrap();
        let server = accept(listener.as_fd()).unwrap().unwrap();
        client.send(&7u8, &[], Wait::Never).unwrap();
        assert_eq!(server.receive::<u8>(Wait::Never).unwrap().message, 7);
        assert!(accept(listener.as_fd()).unwrap().is_none());
    }

    #[test]
    fn a_second_listener_replaces_a_stale_socket_but_no_other_file() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("sock");
        drop(listen(&path).unwrap());
        assert!(Channel::connect(&path).is_err());
        let _listener = listen(&path).unwrap();
        Channel::connect(&path).unwrap();
        let file = scratch.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert_eq!(listen(&file).unwrap_err().errno, Errno::EXIST);
    }
}
