//! The socket below all netlink families: frames out in one `send`, answers in until every frame has its own.
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_REQUEST, NlasIterator};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use crate::capability::last_errno;

/// Bytes before a frame's payload: length, kind, flags, sequence number, port (`struct nlmsghdr`).
const HEADER_BYTES: usize = 16;
/// One datagram from the kernel: its dumps use at most 32 KiB.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Frames in one `send`, so that their answers fit the socket's default receive queue (about 200 KiB).
const FRAMES_MAX: usize = 64;
/// Datagrams read for the answers of one `send`: bounds a dump at about half a million links.
const DATAGRAMS_MAX: usize = 1 << 16;
/// The kernel does the work inside `send`; only a dump's later parts are awaited.
const RECEIVE_WAIT: Duration = Duration::from_secs(10);

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A request that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("request {request} of {requests}{}", explanation.as_ref().map(|text| format!(": {text}")).unwrap_or_default())]
pub struct RequestError {
    /// Which one, counted from 0 in the order they were handed over.
    pub request: usize,
    /// How many there were.
    pub requests: usize,
    /// What the kernel says beside the error number, if it does.
    pub explanation: Option<String>,
    /// The error number.
    #[source]
    pub errno: Errno,
}

/// One message to the kernel.
#[derive(Debug)]
pub(crate) struct Frame {
    /// Message type.
    pub(crate) kind: u16,
    /// Beside `NLM_F_REQUEST`.
    pub(crate) flags: u16,
    /// Everything after the netlink header.
    pub(crate) payload: Vec<u8>,
}

/// One message from the kernel that is neither an acknowledgement nor an error.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Message type.
    pub(crate) kind: u16,
    /// Everything after the netlink header.
    pub(crate) payload: Vec<u8>,
}

/// A connected netlink socket: it hears only the kernel.
#[derive(Debug)]
pub(crate) struct NetlinkSocket {
    fd: OwnedFd,
    next_sequence: u32,
}

impl NetlinkSocket {
    /// `socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol)`, `setsockopt(NETLINK_EXT_ACK, NETLINK_CAP_ACK)`, `connect`
    ///
    /// Belongs to the network namespace of the calling thread, for ever. Connected to the kernel, so that no other
    /// process can answer in its place.
    ///
    /// # Errors
    ///
    /// - `EPROTONOSUPPORT`: the kernel has no such netlink family.
    ///
    /// Source: netlink(7), include/uapi/linux/netlink.h (4.12).
    pub(crate) fn open(protocol: Option<Protocol>) -> Result<Self, Errno> {
        let fd = net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            set_netlink_option(&fd, option)?;
        }
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(RECEIVE_WAIT))?;
        net::connect(&fd, &net::netlink::SocketAddrNetlink::new(0, 0))?;
        Ok(Self { fd, next_sequence: 1 })
    }

    /// Sends all frames at once and reads until each that asked for an answer (`NLM_F_ACK`, `NLM_F_DUMP`) has it.
    ///
    /// # Errors
    ///
    /// The first frame that the kernel refused. Frames after it may have been done. `ETIMEDOUT`: the kernel was silent
    /// for ten seconds. `E2BIG`: more than 64 frames.
    pub(crate) fn transact(&mut self, frames: &[Frame]) -> Result<Vec<Reply>, RequestError> {
        let requests = frames.len();
        let failed = |request, errno| RequestError { request, requests, explanation: None, errno };
        if frames.len() > FRAMES_MAX {
            return Err(failed(FRAMES_MAX, Errno::TOOBIG));
        }
        if frames.is_empty() {
            return Ok(Vec::new());
        }
        let first = self.next_sequence;
        let count = u32::try_from(frames.len()).expect("bounded by FRAMES_MAX");
        self.next_sequence = first.wrapping_add(count);
        let bytes = encode(frames, first);
        net::send(&self.fd, &bytes, SendFlags::empty()).map_err(|errno| failed(0, errno))?;

        let mut collected = Collected::new(frames, first);
        let mut buffer = vec![0; RECEIVE_BYTES];
        for _ in 0..DATAGRAMS_MAX {
            if collected.awaited == 0 {
                return collected.finish();
            }
            let length = match net::recv(&self.fd, buffer.as_mut_slice(), RecvFlags::TRUNC) {
                Ok((_, length)) if length <= buffer.len() => length,
                Ok(_) => return Err(failed(0, Errno::MSGSIZE)),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Err(failed(0, Errno::TIMEDOUT)),
                Err(errno) => return Err(failed(0, errno)),
            };
            collected.take(&buffer[..length]);
        }
        Err(failed(0, Errno::OVERFLOW))
    }
}

impl AsFd for NetlinkSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// `setsockopt(fd, SOL_NETLINK, option, 1)`
fn set_netlink_option(fd: &OwnedFd, option: libc::c_int) -> Result<(), Errno> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).expect("four bytes");
    // SAFETY: the kernel reads `length` bytes at `on`, a live integer of exactly that size, and keeps no pointer.
    let ret = unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const on).cast(), length) };
    if ret == -1 { Err(last_errno()) } else { Ok(()) }
}

/// The frames as one datagram; their sequence numbers count up from `first`.
fn encode(frames: &[Frame], first: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(frames.iter().map(|frame| HEADER_BYTES + frame.payload.len() + 4).sum());
    let mut sequence = first;
    for frame in frames {
        let length = u32::try_from(HEADER_BYTES + frame.payload.len()).expect("payloads are bounded by their writers");
        bytes.extend_from_slice(&length.to_ne_bytes());
        bytes.extend_from_slice(&frame.kind.to_ne_bytes());
        bytes.extend_from_slice(&(frame.flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&frame.payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        sequence = sequence.wrapping_add(1);
    }
    bytes
}

/// Answers to one `send` while they come in. Those to an earlier, failed one are skipped by their sequence number.
struct Collected {
    first: u32,
    /// Per frame: whether its answer is still to come.
    open: Vec<bool>,
    awaited: usize,
    replies: Vec<Reply>,
    error: Option<RequestError>,
}

impl Collected {
    fn new(frames: &[Frame], first: u32) -> Self {
        let open: Vec<bool> = frames.iter().map(|frame| frame.flags & (NLM_F_ACK | NLM_F_DUMP) != 0).collect();
        let awaited = open.iter().filter(|open| **open).count();
        Self { first, open, awaited, replies: Vec::new(), error: None }
    }

    fn finish(self) -> Result<Vec<Reply>, RequestError> {
        match self.error {
            None => Ok(self.replies),
            Some(error) => Err(error),
        }
    }

    /// Takes one datagram, which holds one or more messages.
    fn take(&mut self, datagram: &[u8]) {
        let mut rest = datagram;
        while let Some((header, after)) = rest.split_first_chunk::<HEADER_BYTES>() {
            let Some(message) = Header::parse(header) else { return };
            let Some(payload) = after.get(..message.payload_bytes) else { return };
            self.take_message(&message, payload);
            rest = after.get(message.payload_bytes.next_multiple_of(4)..).unwrap_or_default();
        }
    }

    fn take_message(&mut self, message: &Header, payload: &[u8]) {
        let Ok(request) = usize::try_from(message.sequence.wrapping_sub(self.first)) else { return };
        if request >= self.open.len() {
            return;
        }
        match message.kind {
            NLMSG_DONE | NLMSG_ERROR => {
                // A dump's end holds an error number as an acknowledgement does, with nothing between it and the text.
                if let Some(errno) = error_number(payload) {
                    self.refuse(request, errno, explanation(message, payload));
                }
                if std::mem::take(&mut self.open[request]) {
                    self.awaited -= 1;
                }
            }
            kind => self.replies.push(Reply { kind, payload: payload.to_vec() }),
        }
    }

    /// Keeps the refusal of the earliest request. A refused batch is also answered by a refusal of its first frame,
    /// which asked for no answer: then nothing more comes.
    fn refuse(&mut self, request: usize, errno: Errno, explanation: Option<String>) {
        if !self.open[request] {
            self.awaited = 0;
        }
        if self.error.as_ref().is_none_or(|known| request < known.request) {
            self.error = Some(RequestError { request, requests: self.open.len(), explanation, errno });
        }
    }
}

struct Header {
    payload_bytes: usize,
    kind: u16,
    flags: u16,
    sequence: u32,
}

impl Header {
    /// `None` when the length is less than the header's own.
    fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *bytes;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        Some(Self {
            payload_bytes: length.checked_sub(HEADER_BYTES)?,
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
        })
    }
}

/// The error number at the start of an acknowledgement or of a dump's end; `None` is success.
fn error_number(payload: &[u8]) -> Option<Errno> {
    let code = i32::from_ne_bytes(*payload.first_chunk()?);
    (code < 0).then(|| Errno::from_raw_os_error(code.saturating_neg()))
}

/// The kernel's text behind the error number and, in an acknowledgement, the request's header or whole request.
fn explanation(message: &Header, payload: &[u8]) -> Option<String> {
    if message.flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let skipped = if message.kind == NLMSG_DONE {
        4
    } else if message.flags & NLM_F_CAPPED != 0 {
        4 + HEADER_BYTES
    } else {
        let request = payload.get(4..)?.first_chunk::<4>()?;
        4 + usize::try_from(u32::from_ne_bytes(*request)).ok()?.next_multiple_of(4)
    };
    NlasIterator::new(payload.get(skipped..)?)
        .filter_map(Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
        .map(|attribute| String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = encode(&[Frame { kind, flags, payload: payload.to_vec() }], sequence);
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes
    }

    fn asked(count: usize) -> Collected {
        let frames: Vec<_> = (0..count).map(|_| Frame { kind: 16, flags: NLM_F_ACK, payload: Vec::new() }).collect();
        Collected::new(&frames, 10)
    }

    #[test]
    fn every_frame_gets_its_own_answer() {
        let mut collected = asked(2);
        let datagram = [
            message(16, 0, 10, b"link"),
            message(NLMSG_ERROR, 0, 10, &0i32.to_ne_bytes()),
            message(NLMSG_ERROR, 0, 11, &0i32.to_ne_bytes()),
        ]
        .concat();
        collected.take(&datagram);
        assert_eq!(collected.awaited, 0);
        let replies = collected.finish().unwrap();
        assert_eq!((replies[0].kind, replies[0].payload.as_slice()), (16, b"link".as_slice()));
    }

    #[test]
    fn the_first_refused_request_is_named_with_the_kernels_text() {
        let mut collected = asked(3);
        let mut refusal = (-17i32).to_ne_bytes().to_vec();
        refusal.extend_from_slice(&[0; HEADER_BYTES]);
        let mut text = super::super::Attributes::new();
        text.put_text(NLMSGERR_ATTR_MSG, "File is there");
        refusal.extend_from_slice(text.as_bytes());
        collected.take(&message(NLMSG_ERROR, 0, 12, &(-19i32).to_ne_bytes()));
        collected.take(&message(NLMSG_ERROR, NLM_F_ACK_TLVS | NLM_F_CAPPED, 11, &refusal));
        collected.take(&message(NLMSG_ERROR, 0, 10, &0i32.to_ne_bytes()));
        let error = collected.finish().unwrap_err();
        assert_eq!((error.request, error.errno), (1, Errno::EXIST));
        assert_eq!(error.to_string(), "request 1 of 3: File is there");
    }

    #[test]
    fn answers_to_an_earlier_send_and_broken_datagrams_are_skipped() {
        let mut collected = asked(1);
        collected.take(&message(NLMSG_ERROR, 0, 9, &(-1i32).to_ne_bytes()));
        collected.take(&[1, 2, 3]);
        collected.take(&[0; 40]);
        collected.take(&message(16, 0, 10, b"cut")[..18]);
        assert_eq!(collected.awaited, 1);
        assert!(collected.error.is_none());
        assert!(collected.replies.is_empty());
    }
}
