//! Our side of the attach socket (`insula_api::attach`).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use insula_api::attach::{AttachAnswer, AttachRequest, AttachStream, AttachTo, MESSAGE_BYTES_MAX};
use insula_api::{AttachToken, CreatedContainer};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use super::{ForegroundError, kernel};

/// Most descriptors in one direction: three streams, or pidfd, file and pty.
const FDS_MAX: usize = 4;

/// A connection to the attach socket.
#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
}

/// What came at the end of an attachment's beginning.
#[derive(Debug)]
pub(super) struct Attached {
    /// Host process id of what was started, where the node knows it: of a command, only if the node had it join.
    pub(super) process: Option<u32>,
    /// Whether the file with the main process's end is among the descriptors.
    pub(super) end_file: bool,
    /// The container that the request created.
    pub(super) created: Option<CreatedContainer>,
    /// What the user should know.
    pub(super) warnings: Vec<String>,
    /// Descriptors, as `insula_api::attach` says.
    pub(super) fds: Vec<OwnedFd>,
}

/// Where the attach socket of the node is that listens at `api_socket`: beside it.
pub(super) fn socket_beside(api_socket: &Path) -> PathBuf {
    api_socket.with_file_name("attach.sock")
}

impl Connection {
    /// Connects.
    pub(super) fn open(path: &Path) -> Result<Self, ForegroundError> {
        let wrap = |errno: Errno| ForegroundError::Connect { socket: path.to_owned(), source: errno.into() };
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(wrap)?;
        let address = SocketAddrUnix::new(path).map_err(wrap)?;
        rustix::net::connect(&socket, &address).map_err(wrap)?;
        Ok(Self { socket })
    }

    /// Hands descriptors over.
    pub(super) fn request(
        &self,
        to: AttachTo,
        streams: Vec<AttachStream>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ForegroundError> {
        let request = AttachRequest { to, streams };
        let message = serde_json::to_vec(&request).map_err(ForegroundError::Malformed)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(fds));
            debug_assert!(fits, "there are three standard streams");
        }
        rustix::net::sendmsg(&self.socket, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL)
            .map(drop)
            .map_err(|errno| ForegroundError::Attachment(errno.into()))
    }

    /// The next message, waiting for it; `None` when the node closed the connection.
    pub(super) fn receive(&self) -> Result<Option<(AttachAnswer, Vec<OwnedFd>)>, ForegroundError> {
        let mut message = vec![0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut message)];
        let result = loop {
            match rustix::net::recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(None),
                other => break other.map_err(kernel("receive from the attach socket"))?,
            }
        };
        let mut fds = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(given) = part {
                fds.extend(given);
            }
        }
        if result.bytes == 0 {
            return Ok(None);
        }
        let answer = serde_json::from_slice(&message[..result.bytes]).map_err(ForegroundError::Malformed)?;
        Ok(Some((answer, fds)))
    }

    /// The answer to [`request`](Self::request), waiting for it.
    pub(super) fn attached(&self) -> Result<Attached, ForegroundError> {
        match self.receive()? {
            Some((AttachAnswer::Attached { pid, end_file, created, warnings }, fds)) => {
                Ok(Attached { process: pid, end_file, created, warnings, fds })
            }
            Some((AttachAnswer::Refused(problem), _)) => Err(ForegroundError::Refused(Box::new(problem))),
            Some((AttachAnswer::Ended { .. }, _)) => {
                Err(ForegroundError::Incomplete { what: "the beginning of the attachment" })
            }
            None => Err(ForegroundError::Attachment(std::io::Error::from(std::io::ErrorKind::UnexpectedEof))),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Gives the node a file of ours to read from or write to.
///
/// # Errors
///
/// The node is not there or refuses it.
pub fn send_file(api_socket: &Path, token: &AttachToken, file: BorrowedFd<'_>) -> Result<(), ForegroundError> {
    let connection = Connection::open(&socket_beside(api_socket))?;
    connection.request(AttachTo::Token(token.clone()), vec![AttachStream::File], &[file])?;
    connection.attached().map(drop)
}
