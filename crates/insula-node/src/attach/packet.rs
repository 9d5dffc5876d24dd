//! JSON packets with descriptors over a SOCK_SEQPACKET socket, without blocking a thread.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use insula_api::attach::MESSAGE_BYTES_MAX;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::unix::AsyncFd;

/// Most descriptors beside one message.
pub(super) const FDS_MAX: usize = 8;

/// A packet did not come or did not go.
#[derive(Debug, thiserror::Error)]
pub(super) enum PacketError {
    /// The peer closed the connection.
    #[error("the client closed the connection")]
    Closed,
    /// Larger than the contract allows.
    #[error("message is larger than {MESSAGE_BYTES_MAX} bytes or {FDS_MAX} descriptors")]
    TooLarge,
    /// Not JSON of the contract.
    #[error("message")]
    Form(#[source] serde_json::Error),
    /// The kernel refused.
    #[error("attach socket")]
    Kernel(#[source] std::io::Error),
}

impl From<Errno> for PacketError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PIPE | Errno::CONNRESET => Self::Closed,
            errno => Self::Kernel(errno.into()),
        }
    }
}

/// Takes the next packet.
pub(super) async fn receive<M: DeserializeOwned>(socket: &AsyncFd<OwnedFd>) -> Result<(M, Vec<OwnedFd>), PacketError> {
    loop {
        // What came before the socket was watched is there already.
        match try_receive(socket.as_fd()) {
            Err(Errno::AGAIN) => {
                let mut ready = socket.readable().await.map_err(PacketError::Kernel)?;
                // Something may have come in between, which the kernel has told by then.
                ready.clear_ready();
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(None) => return Err(PacketError::TooLarge),
            Ok(Some((bytes, _))) if bytes.is_empty() => return Err(PacketError::Closed),
            Ok(Some((bytes, fds))) => {
                return serde_json::from_slice(&bytes).map(|message| (message, fds)).map_err(PacketError::Form);
            }
        }
    }
}

/// Bytes of a packet and its descriptors.
type Packet = (Vec<u8>, Vec<OwnedFd>);

/// One packet and its descriptors; `None` when it is too large.
fn try_receive(socket: BorrowedFd<'_>) -> Result<Option<Packet>, Errno> {
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let result = recvmsg(socket, &mut [IoSliceMut::new(&mut buffer)], &mut control, flags)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(given) = message {
            fds.extend(given);
        }
    }
    if result.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Ok(None);
    }
    buffer.truncate(result.bytes);
    Ok(Some((buffer, fds)))
}

/// Sends one packet with descriptors; the caller keeps its own.
pub(super) async fn send<M: Serialize + Sync>(
    socket: &AsyncFd<OwnedFd>,
    message: &M,
    fds: &[OwnedFd],
) -> Result<(), PacketError> {
    let bytes = serde_json::to_vec(message).map_err(PacketError::Form)?;
    if bytes.len() > MESSAGE_BYTES_MAX || fds.len() > FDS_MAX {
        return Err(PacketError::TooLarge);
    }
    loop {
        match try_send(socket.as_fd(), &bytes, fds) {
            Ok(()) => return Ok(()),
            Err(Errno::AGAIN) => socket.writable().await.map_err(PacketError::Kernel)?.clear_ready(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn try_send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[OwnedFd]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(Errno::INVAL);
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).map(drop)
}

/// Done when the peer closed the connection or said something that nobody asked for.
pub(super) async fn closed(socket: &AsyncFd<OwnedFd>) {
    while let Ok(mut ready) = socket.readable().await {
        match try_receive(socket.as_fd()) {
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            _ => return,
        }
    }
}
