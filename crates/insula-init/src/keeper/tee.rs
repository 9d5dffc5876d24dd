//! Copies of a stream to whoever looks on: written as they come, never waited for.
//!
//! The descriptor is somebody else's, so its blocking mode is not ours to change; each kind has a way of its own to be
//! written without waiting.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use insula_plan::protocol::keeper::{TeeSpec, WhenSlow};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::FileType;
use rustix::io::{Errno, IoSlice, ReadWriteFlags};
use rustix::net::SendFlags;
use rustix::time::Timespec;

/// Bytes that wait for a slow reader. A tee that blocks its stream holds one read at most.
const BUFFER_BYTES_MAX: usize = 256 * 1024;

/// What a pipe that is writable takes without waiting (`PIPE_BUF`).
const PIPE_PIECE_BYTES: usize = 4096;

/// Where a copy goes.
#[derive(Debug)]
pub(super) struct Tee {
    pub(super) spec: TeeSpec,
    /// Of which run's output.
    pub(super) run: u32,
    fd: OwnedFd,
    kind: Kind,
    waiting: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pipe,
    Socket,
    File,
}

/// How a tee stands after it was given something, or had time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TeeState {
    /// All is written.
    Empty,
    /// Something waits until its reader reads.
    Waiting,
    /// Its reader is gone.
    Gone,
}

impl Tee {
    /// Takes a pipe, a stream socket or a regular file; nothing else can be written without waiting.
    pub(super) fn new(spec: TeeSpec, fd: OwnedFd, run: u32) -> Result<Self, Errno> {
        let kind = match FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) {
            FileType::Fifo => Kind::Pipe,
            FileType::Socket => Kind::Socket,
            FileType::RegularFile => Kind::File,
            _ => return Err(Errno::INVAL),
        };
        Ok(Self { spec, run, fd, kind, waiting: Vec::new() })
    }

    /// Whether its end and its room can be waited for.
    pub(super) fn can_be_watched(&self) -> bool {
        self.kind != Kind::File
    }

    /// Whether its stream must not be read now.
    pub(super) fn holds_up(&self) -> bool {
        self.spec.when_slow == WhenSlow::Block && !self.waiting.is_empty()
    }

    pub(super) fn state(&self) -> TeeState {
        if self.waiting.is_empty() { TeeState::Empty } else { TeeState::Waiting }
    }

    /// Writes what it can, keeps what it may.
    pub(super) fn offer(&mut self, bytes: &[u8]) -> TeeState {
        if !self.waiting.is_empty() {
            let room = BUFFER_BYTES_MAX.saturating_sub(self.waiting.len());
            if bytes.len() <= room {
                self.waiting.extend_from_slice(bytes);
            }
            return TeeState::Waiting;
        }
        match self.write(bytes) {
            Ok(written) => {
                self.waiting.extend_from_slice(bytes.get(written..).unwrap_or_default());
                self.state()
            }
            Err(_) => TeeState::Gone,
        }
    }

    /// Writes what waits.
    pub(super) fn go_on(&mut self) -> TeeState {
        let waiting = std::mem::take(&mut self.waiting);
        match self.write(&waiting) {
            Ok(written) => {
                self.waiting = waiting.get(written..).unwrap_or_default().to_vec();
                self.state()
            }
            Err(_) => TeeState::Gone,
        }
    }

    /// Writes as much as goes without waiting; an error is the end of its reader.
    fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let mut done = 0;
        while let Some(left) = bytes.get(done..).filter(|left| !left.is_empty()) {
            let written = match self.kind {
                Kind::Pipe => write_pipe(self.fd.as_fd(), left),
                Kind::Socket => rustix::net::send(&self.fd, left, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
                Kind::File => rustix::io::write(&self.fd, left),
            };
            match written {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(written) => done += written,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }
}

impl AsFd for Tee {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn write_pipe(pipe: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    match rustix::io::pwritev2(pipe, &[IoSlice::new(bytes)], u64::MAX, ReadWriteFlags::NOWAIT) {
        // Kernels before 6.4 do not know this for pipes; but one that is writable has room for a piece, and no other
        // writer is expected.
        Err(Errno::OPNOTSUPP) => {
            let mut fds = [PollFd::new(&pipe, PollFlags::OUT)];
            rustix::event::poll(&mut fds, Some(&Timespec::default()))?;
            let state = fds[0].revents();
            if state.contains(PollFlags::ERR) {
                return Err(Errno::PIPE);
            }
            if !state.contains(PollFlags::OUT) {
                return Err(Errno::AGAIN);
            }
            rustix::io::write(pipe, bytes.get(..bytes.len().min(PIPE_PIECE_BYTES)).unwrap_or_default())
        }
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use insula_plan::protocol::keeper::LogStream;

    fn tee(fd: impl Into<OwnedFd>, when_slow: WhenSlow) -> Tee {
        Tee::new(TeeSpec { stream: LogStream::Output, when_slow }, fd.into(), 0).unwrap()
    }

    fn drain(reader: impl AsFd, bytes: usize) {
        let mut buffer = vec![0; bytes];
        assert!(rustix::io::read(reader, &mut buffer).unwrap() > 0);
    }

    #[test]
    fn a_full_pipe_or_socket_is_not_waited_for_though_it_blocks() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let (other, socket) = std::os::unix::net::UnixStream::pair().unwrap();
        for (reader, mut tee) in
            [(reader, tee(writer, WhenSlow::Block)), (OwnedFd::from(other), tee(socket, WhenSlow::Block))]
        {
            let offered = (0..100).position(|_| tee.offer(&[7; 65_536]) == TeeState::Waiting).unwrap();
            assert!(offered < 10);
            assert!(tee.holds_up());
            for _ in 0..10 {
                drain(&reader, 1 << 20);
                if tee.go_on() == TeeState::Empty {
                    break;
                }
            }
            assert!(!tee.holds_up());
        }
    }

    #[test]
    fn a_slow_onlooker_misses_bytes_and_keeps_a_bounded_number() {
        let (_reader, writer) = rustix::pipe::pipe().unwrap();
        let mut tee = tee(writer, WhenSlow::Drop);
        for _ in 0..100 {
            tee.offer(&[7; 65_536]);
        }
        assert!(!tee.holds_up());
        assert!(tee.waiting.len() <= BUFFER_BYTES_MAX);
    }

    #[test]
    fn a_reader_that_is_gone_is_seen() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let mut tee = tee(writer, WhenSlow::Block);
        drop(reader);
        assert_eq!(tee.offer(b"x"), TeeState::Gone);
    }

    #[test]
    fn a_terminal_a_device_or_a_directory_is_refused() {
        for path in ["/dev/null", "/"] {
            let file = std::fs::File::open(path).unwrap();
            let spec = TeeSpec { stream: LogStream::Output, when_slow: WhenSlow::Drop };
            assert_eq!(Tee::new(spec, file.into(), 0).unwrap_err(), Errno::INVAL, "{path}");
        }
    }
}
