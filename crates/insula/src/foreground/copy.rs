//! Copying between our standard streams and a container's, a thread for each way.
//!
//! An output is done at end-of-file; after [`Copies::expect_no_more`] also when nothing more comes. An input is
//! never waited for: whoever types may never stop.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::Builder;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use super::detach::DetachMatcher;
use super::{ForegroundError, kernel};

/// Bytes moved at once: what a pipe holds.
const CHUNK_BYTES: usize = 64 * 1024;

/// Stack of a copying thread, whose buffer is on the heap.
const STACK_BYTES: usize = 64 * 1024;

/// What a terminal takes for the end of input: control-D.
const END_OF_INPUT: u8 = 0x04;

/// One way that bytes go.
#[derive(Debug)]
pub(super) enum Way {
    /// From us into the container, through a pipe.
    Input { from: OwnedFd, to: OwnedFd },
    /// From the container to us.
    Output { from: Arc<OwnedFd>, to: OwnedFd },
    /// From us into a pty, looking for the detach keys.
    Typing { from: OwnedFd, to: Arc<OwnedFd>, keys: Vec<u8> },
}

impl Way {
    pub(super) fn input(from: OwnedFd, to: OwnedFd) -> Self {
        Self::Input { from, to }
    }

    pub(super) fn output(from: OwnedFd, to: OwnedFd) -> Self {
        Self::Output { from: Arc::new(from), to }
    }
}

/// Something that happened, as a descriptor that stays readable.
#[derive(Debug, Clone)]
struct Flag(Arc<OwnedFd>);

impl Flag {
    fn new() -> Result<Self, ForegroundError> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(kernel("make an eventfd"))?;
        Ok(Self(Arc::new(fd)))
    }

    /// Counts up. The counter has 64 bits, so there is always room.
    fn raise(&self) {
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// How often it was raised since the last call.
    fn take(&self) -> u64 {
        let mut count = [0; 8];
        match rustix::io::read(&*self.0, &mut count) {
            Ok(8) => u64::from_ne_bytes(count),
            _ => 0,
        }
    }
}

/// Ways under way.
#[derive(Debug)]
pub(super) struct Copies {
    no_more: Flag,
    done: Flag,
    detached: Flag,
    outputs_open: u64,
}

impl Copies {
    /// Starts a thread for each way. An output that has no end after [`Copies::expect_no_more`] is done when nothing
    /// has come for `last_wait`.
    ///
    /// # Errors
    ///
    /// No descriptor or thread is left.
    pub(super) fn start(ways: Vec<Way>, last_wait: Duration) -> Result<Self, ForegroundError> {
        let mut copies = Self { no_more: Flag::new()?, done: Flag::new()?, detached: Flag::new()?, outputs_open: 0 };
        for way in ways {
            match way {
                Way::Input { from, to } => spawn(move || copy_input(from.as_fd(), to.as_fd()))?,
                Way::Typing { from, to, keys } => {
                    let detached = copies.detached.clone();
                    spawn(move || {
                        if copy_typing(from.as_fd(), to.as_fd(), &keys) == TypingEnd::Detached {
                            detached.raise();
                        }
                    })?;
                }
                Way::Output { from, to } => {
                    copies.outputs_open += 1;
                    let (no_more, done) = (copies.no_more.clone(), copies.done.clone());
                    spawn(move || {
                        copy_output(from.as_fd(), to.as_fd(), (no_more.0.as_fd(), last_wait));
                        // Closed first: a container that goes on writing is to learn that nobody reads.
                        drop(from);
                        done.raise();
                    })?;
                }
            }
        }
        Ok(copies)
    }

    /// Whether every output reached its end.
    pub(super) fn outputs_are_done(&mut self) -> bool {
        self.outputs_open = self.outputs_open.saturating_sub(self.done.take());
        self.outputs_open == 0
    }

    /// Says that nobody is to write any more.
    pub(super) fn expect_no_more(&self) {
        self.no_more.raise();
    }

    /// Readable when an output reached its end.
    pub(super) fn done_fd(&self) -> BorrowedFd<'_> {
        self.done.0.as_fd()
    }

    /// Readable when the detach keys were typed.
    pub(super) fn detached_fd(&self) -> BorrowedFd<'_> {
        self.detached.0.as_fd()
    }
}

fn spawn(copy: impl FnOnce() + Send + 'static) -> Result<(), ForegroundError> {
    let started = Builder::new().name("copy".to_owned()).stack_size(STACK_BYTES).spawn(copy);
    started.map(drop).map_err(|source| ForegroundError::Kernel { call: "start a thread", source })
}

/// Until the end of `from` or of who reads `to`.
fn copy_input(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Some(bytes @ 1..) = read(from, &mut buffer) {
        if write_all(to, &buffer[..bytes]).is_err() {
            return;
        }
    }
}

/// Why typing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TypingEnd {
    Detached,
    EndOfInput,
}

fn copy_typing(from: BorrowedFd<'_>, to: BorrowedFd<'_>, keys: &[u8]) -> TypingEnd {
    let mut matcher = DetachMatcher::new(keys);
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Some(bytes @ 1..) = read(from, &mut buffer) {
        let typed = matcher.push(&buffer[..bytes]);
        if write_all(to, &typed.forwarded).is_err() {
            return TypingEnd::EndOfInput;
        }
        if typed.detached {
            return TypingEnd::Detached;
        }
    }
    // A pipe or file that ended is to look like the end of what is typed. A terminal that hung up says so by a signal.
    if !rustix::termios::isatty(from) {
        let _ = write_all(to, &[END_OF_INPUT]);
    }
    TypingEnd::EndOfInput
}

fn copy_output(from: BorrowedFd<'_>, to: BorrowedFd<'_>, (no_more, last_wait): (BorrowedFd<'_>, Duration)) {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let mut fds = [PollFd::new(&from, PollFlags::IN), PollFd::new(&no_more, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
        let (source, ended) = (fds[0].revents(), fds[1].revents());
        if source.intersects(PollFlags::IN) {
            let Some(bytes @ 1..) = read(from, &mut buffer) else { return };
            if write_all(to, &buffer[..bytes]).is_err() {
                return;
            }
        } else if source.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)
            || (!ended.is_empty() && !comes_within(from, last_wait))
        {
            return;
        }
    }
}

/// Whether something (or the end) comes before the time is over.
fn comes_within(from: BorrowedFd<'_>, time: Duration) -> bool {
    let timeout = Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
    !matches!(poll(&mut [PollFd::new(&from, PollFlags::IN)], Some(&timeout)), Ok(0))
}

/// `None` at an error; of a pty that nobody has open inside, the end is the error `EIO`.
fn read(from: BorrowedFd<'_>, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match rustix::io::read(from, &mut *buffer) {
            Ok(bytes) => return Some(bytes),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_for(from, PollFlags::IN),
            Err(_) => return None,
        }
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            // Someone who shares our standard streams made them non-blocking.
            Err(Errno::AGAIN) => wait_for(to, PollFlags::OUT),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn wait_for(fd: BorrowedFd<'_>, what: PollFlags) {
    // Whatever comes of it, the call after it tells.
    let _ = poll(&mut [PollFd::new(&fd, what)], None);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::fs::File;
    use std::io::{Read, Write};

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe_with(PipeFlags::CLOEXEC).unwrap()
    }

    fn wait_done(copies: &mut Copies) {
        while !copies.outputs_are_done() {
            wait_for(copies.done_fd(), PollFlags::IN);
        }
    }

    #[test]
    fn everything_arrives_at_a_slow_reader() {
        let ((from, inner), (outer, to)) = (pipe(), pipe());
        let mut copies = Copies::start(vec![Way::output(from, to)], Duration::ZERO).unwrap();
        let sent: Vec<u8> = (0..10_000_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let expected = sent.clone();
        let writer = std::thread::spawn(move || File::from(inner).write_all(&sent).unwrap());
        let mut arrived = Vec::new();
        File::from(outer).read_to_end(&mut arrived).unwrap();
        wait_done(&mut copies);
        writer.join().unwrap();
        assert!(arrived == expected);
    }

    #[test]
    fn an_output_that_somebody_still_holds_open_ends_when_it_is_empty() {
        let ((from, inner), (outer, to)) = (pipe(), pipe());
        let mut copies = Copies::start(vec![Way::output(from, to)], Duration::ZERO).unwrap();
        rustix::io::write(&inner, b"last words").unwrap();
        copies.expect_no_more();
        wait_done(&mut copies);
        let mut arrived = [0; 32];
        assert_eq!(rustix::io::read(&outer, &mut arrived).unwrap(), 10);
        assert_eq!(rustix::io::write(&inner, b"x"), Err(Errno::PIPE));
    }

    #[test]
    fn a_reader_that_goes_away_closes_the_containers_pipe() {
        let ((from, inner), (outer, to)) = (pipe(), pipe());
        let mut copies = Copies::start(vec![Way::output(from, to)], Duration::ZERO).unwrap();
        drop(outer);
        rustix::io::write(&inner, b"x").unwrap();
        wait_done(&mut copies);
        assert_eq!(rustix::io::write(&inner, b"x"), Err(Errno::PIPE));
    }

    #[test]
    fn the_end_of_typing_from_a_pipe_is_control_d() {
        let ((from, ours), (inner, to)) = (pipe(), pipe());
        rustix::io::write(&ours, b"ls\n").unwrap();
        drop(ours);
        assert_eq!(copy_typing(from.as_fd(), to.as_fd(), &[16, 17]), TypingEnd::EndOfInput);
        drop(to);
        let mut arrived = Vec::new();
        File::from(inner).read_to_end(&mut arrived).unwrap();
        assert_eq!(arrived, b"ls\n\x04");
    }
}
