//! Messages over a connection: two bytes of length, then the message. Used towards containers and name servers.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

/// Bytes of the length before each message.
const LENGTH_BYTES: usize = 2;
/// What one look at a connection reads at most.
const READ_BYTES: usize = 4_096;

/// One connection, with what was read and not yet taken and what is not yet written.
#[derive(Debug)]
pub struct Stream {
    socket: OwnedFd,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// Why nothing came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nothing {
    /// It is not there yet.
    Yet,
    /// The other side is gone, or says what no message is.
    Ever,
}

impl Stream {
    /// Over a connected or connecting socket that does not block.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, input: Vec::new(), output: Vec::new() }
    }

    /// Puts a message behind what is to be written. One longer than 65,535 bytes is cut away: none of ours is.
    pub fn queue(&mut self, message: &[u8]) {
        let Ok(length) = u16::try_from(message.len()) else { return };
        self.output.extend(length.to_be_bytes());
        self.output.extend(message);
    }

    /// Whether all is written.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.output.is_empty()
    }

    /// Writes what can be written now.
    ///
    /// # Errors
    ///
    /// The other side is gone, or was never reached.
    pub fn write(&mut self) -> Result<(), Errno> {
        while !self.output.is_empty() {
            match rustix::net::send(&self.socket, &self.output, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOTCONN | Errno::INPROGRESS) => return Ok(()),
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// The next whole message. Reads a bounded number of bytes: call again when the descriptor is ready again.
    ///
    /// # Errors
    ///
    /// See [`Nothing`].
    pub fn read(&mut self) -> Result<Vec<u8>, Nothing> {
        if let Some(message) = take_message(&mut self.input) {
            return Ok(message);
        }
        let mut buffer = [0; READ_BYTES];
        match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => Err(Nothing::Ever),
            Ok((read, _)) => {
                self.input.extend(&buffer[..read.min(READ_BYTES)]);
                take_message(&mut self.input).ok_or(Nothing::Yet)
            }
            Err(Errno::AGAIN | Errno::INTR | Errno::NOTCONN) => Err(Nothing::Yet),
            Err(_) => Err(Nothing::Ever),
        }
    }

    /// Whether a whole message waits that was read already.
    #[must_use]
    pub fn has_message(&self) -> bool {
        message_end(&self.input).is_some()
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Where the first whole message ends.
fn message_end(input: &[u8]) -> Option<usize> {
    let length = u16::from_be_bytes(input.get(..LENGTH_BYTES)?.try_into().ok()?);
    let end = LENGTH_BYTES + usize::from(length);
    (input.len() >= end).then_some(end)
}

fn take_message(input: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = message_end(input)?;
    let rest = input.split_off(end);
    let message = std::mem::replace(input, rest).split_off(LENGTH_BYTES);
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (Stream, Stream) {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        (Stream::new(one), Stream::new(other))
    }

    #[test]
    fn messages_arrive_whole_and_in_order() {
        let (mut one, mut other) = pair();
        one.queue(b"first");
        one.queue(b"");
        one.queue(&[7; 3_000]);
        one.write().unwrap();
        assert!(one.is_written());
        assert_eq!(other.read(), Ok(b"first".to_vec()));
        assert!(other.has_message());
        assert_eq!(other.read(), Ok(Vec::new()));
        assert_eq!(other.read(), Ok(vec![7; 3_000]));
        assert_eq!(other.read(), Err(Nothing::Yet));
        drop(one);
        assert_eq!(other.read(), Err(Nothing::Ever));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_taken_apart_the_same_way(bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 0_usize..600) {
            let mut whole = bytes.clone();
            let mut from_whole = Vec::new();
            from_whole.extend(std::iter::from_fn(|| take_message(&mut whole)));
            let mut pieces = bytes[..cut.min(bytes.len())].to_vec();
            let mut from_pieces: Vec<_> = std::iter::from_fn(|| take_message(&mut pieces)).collect();
            pieces.extend(&bytes[cut.min(bytes.len())..]);
            from_pieces.extend(std::iter::from_fn(|| take_message(&mut pieces)));
            prop_assert_eq!(from_whole, from_pieces);
            prop_assert_eq!(whole, pieces);
        }
    }
}
