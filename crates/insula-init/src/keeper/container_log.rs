//! One container's output: pipes in, files and tees out.
//!
//! ```text
//!   pipe --read 64 KiB--> files (if the rate allows)
//!                     \-> tee, tee …   (a tee that blocks and is full: the pipe is not watched until it has room)
//!   pipe --splice--> /dev/null         (no terminal, no tee, and the rate allows nothing: counted as lost)
//! ```
//!
//! A run that is over (`RemoveContainer`) goes on until its tees have what it wrote: a reader that is slow gets
//! everything, however long it takes, and one that is gone ends it. The next run of the same container may begin
//! meanwhile; pipes and tees know their run, so that none gets the output of another.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use insula_plan::protocol::ContainerId;
use insula_plan::protocol::keeper::{LogBounds, LogStart, LogState, LogStream, TeeSpec};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

use super::log_files::{LogFiles, Moment};
use super::tee::{Tee, TeeState};
use insula_kernel::poller::{Interest, Poller};

/// Bytes of one read of a pipe.
pub(super) const READ_BYTES: usize = 64 * 1024;

/// Bytes thrown away at one time when the rate allows nothing.
const THROW_BYTES: usize = 1024 * 1024;

/// Pipes of one container: two per run, and those of an earlier run that something still holds open.
const STREAMS_MAX: usize = 16;

/// Tees of one container.
pub(super) const TEES_MAX: usize = 16;

/// Reads of one pipe of a run that is over: more than any pipe holds.
const LAST_READS_MAX: usize = 1024;

/// What the keeper's loop lends to a log.
pub(super) struct Bench<'keeper> {
    pub(super) poller: &'keeper Poller,
    /// [`READ_BYTES`] long.
    pub(super) buffer: &'keeper mut [u8],
    /// `/dev/null`, open for writing.
    pub(super) null: BorrowedFd<'keeper>,
    /// Of this log's first pipe; a pipe's token is its place above that, a tee's is [`STREAMS_MAX`] more.
    pub(super) token: u64,
}

/// A call that waits until output was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flush {
    /// Which connection.
    pub(super) connection: u64,
    /// Which call.
    pub(super) number: u64,
}

#[derive(Debug)]
pub(super) struct ContainerLog {
    container: ContainerId,
    bounds: Option<LogBounds>,
    files: Option<LogFiles>,
    /// Which run pipes and tees that are added now belong to; those of an earlier one are over.
    run: u32,
    /// Whether runs that are over still have something to write or copy, as was told last.
    finishing: bool,
    streams: [Option<Stream>; STREAMS_MAX],
    tees: [Option<Tee>; TEES_MAX],
    flushes: Vec<PendingFlush>,
}

#[derive(Debug)]
struct Stream {
    kind: LogStream,
    run: u32,
    pipe: OwnedFd,
    /// Or the master of a terminal.
    is_pipe: bool,
    read: u64,
    watched: bool,
}

#[derive(Debug)]
struct PendingFlush {
    flush: Flush,
    /// Per pipe: up to which byte it must have been read.
    until: [u64; STREAMS_MAX],
}

impl Stream {
    /// Whether this tee gets what is read here.
    fn feeds(&self, tee: &Tee) -> bool {
        tee.spec.stream == self.kind && tee.run == self.run
    }
}

impl ContainerLog {
    /// A log with nothing to read yet. `directory` goes with bounds.
    pub(super) fn new(start: &LogStart, directory: OwnedFd, now: Moment) -> Result<Self, Errno> {
        let files = start.files.map(|bounds| LogFiles::open(directory, bounds, now)).transpose()?;
        Ok(Self {
            container: start.container,
            bounds: start.files,
            files,
            run: 0,
            finishing: false,
            streams: Default::default(),
            tees: Default::default(),
            flushes: Vec::new(),
        })
    }

    /// Adds a pipe.
    pub(super) fn add_stream(&mut self, kind: LogStream, pipe: OwnedFd) -> Result<(), Errno> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        let is_pipe = FileType::from_raw_mode(rustix::fs::fstat(&pipe)?.st_mode) == FileType::Fifo;
        let slot = self.streams.iter_mut().find(|slot| slot.is_none()).ok_or(Errno::NOSPC)?;
        *slot = Some(Stream { kind, run: self.run, pipe, is_pipe, read: 0, watched: false });
        Ok(())
    }

    /// Adds a copy.
    pub(super) fn add_tee(&mut self, bench: &Bench<'_>, spec: TeeSpec, fd: OwnedFd) -> Result<(), Errno> {
        let tee = Tee::new(spec, fd, self.run)?;
        let place = self.tees.iter().position(Option::is_none).ok_or(Errno::NOSPC)?;
        if tee.can_be_watched() {
            bench.poller.add(&tee, tee_token(bench, place), Interest::End)?;
        }
        self.tees[place] = Some(tee);
        Ok(())
    }

    /// Something happened to the descriptor with this token.
    pub(super) fn on_ready(&mut self, bench: &mut Bench<'_>, token: u64, now: Moment) {
        let place = usize::try_from(token.saturating_sub(bench.token)).unwrap_or(usize::MAX);
        if place < STREAMS_MAX {
            self.read_stream(bench, place, now);
        } else if let Some(Some(tee)) = self.tees.get_mut(place - STREAMS_MAX) {
            let state = if tee.state() == TeeState::Empty { TeeState::Gone } else { tee.go_on() };
            self.settle_tee(bench, place - STREAMS_MAX, state);
        }
    }

    /// Reads what is left of a run that is over, watches what is to be watched now, and closes tees whose stream is
    /// over.
    pub(super) fn settle(&mut self, bench: &mut Bench<'_>, now: Moment) {
        for place in 0..STREAMS_MAX {
            self.finish_stream(bench, place, now);
        }
        for place in 0..TEES_MAX {
            let over = self.tees[place].as_ref().is_some_and(|tee| {
                tee.state() == TeeState::Empty && !self.streams.iter().flatten().any(|stream| stream.feeds(tee))
            });
            if over {
                self.remove_tee(bench, place);
            }
        }
        for (token, stream) in (bench.token..).zip(&mut self.streams) {
            let Some(stream) = stream else { continue };
            let held_up = self.tees.iter().flatten().any(|tee| stream.feeds(tee) && tee.holds_up());
            if held_up && stream.watched {
                bench.poller.remove(&stream.pipe);
                stream.watched = false;
            } else if !held_up && !stream.watched {
                // Only memory can be missing; then the next turn of this log tries again.
                stream.watched = bench.poller.add(&stream.pipe, token, Interest::Read).is_ok();
            }
        }
    }

    /// The run is over: what is in its pipes is all there is, whoever may hold them open.
    pub(super) fn finish_run(&mut self) {
        self.run = self.run.saturating_add(1);
        self.finishing = true;
    }

    /// Whether the last of the runs that are over came to its end since the last call.
    pub(super) fn take_runs_drained(&mut self) -> bool {
        let goes_on = self.streams.iter().flatten().any(|stream| stream.run != self.run)
            || self.tees.iter().flatten().any(|tee| tee.run != self.run);
        !goes_on && std::mem::take(&mut self.finishing)
    }

    /// Reads a pipe of a run that is over until it is empty, or a tee must be waited for.
    fn finish_stream(&mut self, bench: &mut Bench<'_>, place: usize, now: Moment) {
        for _ in 0..LAST_READS_MAX {
            let Some(stream) = self.streams[place].as_ref().filter(|stream| stream.run != self.run) else { return };
            if self.tees.iter().flatten().any(|tee| stream.feeds(tee) && tee.holds_up()) {
                return;
            }
            if !self.read_stream(bench, place, now) {
                return self.remove_stream(bench, place);
            }
        }
        self.remove_stream(bench, place);
    }

    /// Whether all output was read and copied.
    pub(super) fn is_over(&self) -> bool {
        self.streams.iter().all(Option::is_none) && self.tees.iter().all(Option::is_none)
    }

    /// Remembers a call until what is in the pipes now was written.
    pub(super) fn flush(&mut self, flush: Flush) {
        let until = std::array::from_fn(|place| {
            let Some(stream) = &self.streams[place] else { return 0 };
            stream.read + rustix::io::ioctl_fionread(&stream.pipe).unwrap_or(0)
        });
        self.flushes.push(PendingFlush { flush, until });
    }

    /// Calls whose wait is over.
    pub(super) fn take_flushed(&mut self) -> Vec<Flush> {
        let Self { flushes, streams, tees, .. } = self;
        let empty = tees.iter().flatten().all(|tee| tee.state() == TeeState::Empty);
        let reached = |pending: &PendingFlush| {
            let read =
                |(stream, until): (&Option<Stream>, &u64)| stream.as_ref().is_none_or(|stream| stream.read >= *until);
            empty && streams.iter().zip(&pending.until).all(read)
        };
        let mut over = Vec::new();
        flushes.retain(|pending| {
            let reached = reached(pending);
            if reached {
                over.push(pending.flush);
            }
            !reached
        });
        over
    }

    /// Calls that still waited when the log was over.
    pub(super) fn end(mut self, now: Moment) -> Vec<Flush> {
        if let Some(files) = &mut self.files {
            files.say_what_is_lost(now);
        }
        self.flushes.into_iter().map(|pending| pending.flush).collect()
    }

    /// Whose.
    pub(super) fn container(&self) -> ContainerId {
        self.container
    }

    /// How it stands.
    pub(super) fn state(&self) -> LogState {
        LogState {
            open: self.streams.iter().flatten().map(|stream| stream.kind).collect(),
            segment: self.files.as_ref().map_or(0, |files| files.segment().0),
            lost_bytes: self.files.as_ref().map_or(0, LogFiles::lost_bytes),
            tees: u32::try_from(self.tees.iter().flatten().count()).unwrap_or(u32::MAX),
        }
    }

    /// The request that would begin this log again, with its descriptors in order.
    pub(super) fn export<'log>(&'log self, null: BorrowedFd<'log>) -> (LogStart, Vec<BorrowedFd<'log>>) {
        let directory = self.files.as_ref().map_or(null, LogFiles::directory);
        let streams = || self.streams.iter().flatten();
        let tees = || self.tees.iter().flatten();
        let start = LogStart {
            container: self.container,
            streams: streams().map(|stream| stream.kind).collect(),
            tees: tees().map(|tee| tee.spec).collect(),
            files: self.bounds,
        };
        let fds =
            [directory].into_iter().chain(streams().map(|stream| stream.pipe.as_fd())).chain(tees().map(AsFd::as_fd));
        (start, fds.collect())
    }

    /// Reads a pipe once; whether there may be more.
    fn read_stream(&mut self, bench: &mut Bench<'_>, place: usize, now: Moment) -> bool {
        let Some(Some(stream)) = self.streams.get_mut(place) else { return false };
        let (kind, run) = (stream.kind, stream.run);
        // Only a pipe can be spliced; a terminal is read, and what is read is counted below.
        let copied = !stream.is_pipe || self.tees.iter().flatten().any(|tee| stream.feeds(tee));
        if let Some(files) = self.files.as_mut().filter(|_| !copied)
            && files.is_over_rate(now)
        {
            let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
            let thrown = rustix::pipe::splice(&stream.pipe, None, bench.null, None, THROW_BYTES, flags);
            if let Ok(bytes) = thrown {
                files.lose(length(bytes));
            }
            return self.settle_read(bench, place, thrown, now);
        }
        let read = rustix::io::read(&stream.pipe, &mut *bench.buffer);
        let bytes = read.ok().and_then(|length| bench.buffer.get(..length)).unwrap_or_default();
        if !bytes.is_empty() {
            if let Some(files) = &mut self.files {
                files.write(now, kind, bytes);
            }
            for place in 0..TEES_MAX {
                let Some(tee) = self.tees[place].as_mut().filter(|tee| tee.spec.stream == kind && tee.run == run)
                else {
                    continue;
                };
                let state = tee.offer(bytes);
                self.settle_tee(bench, place, state);
            }
        }
        self.settle_read(bench, place, read, now)
    }

    fn settle_read(&mut self, bench: &Bench<'_>, place: usize, read: Result<usize, Errno>, now: Moment) -> bool {
        match read {
            Ok(bytes @ 1..) => {
                if let Some(Some(stream)) = self.streams.get_mut(place) {
                    stream.read += length(bytes);
                }
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => false,
            // The last writer closed it. No other error is known for a pipe; it would be as final.
            Ok(0) | Err(_) => {
                self.remove_stream(bench, place);
                if let Some(files) = &mut self.files {
                    files.say_what_is_lost(now);
                }
                false
            }
        }
    }

    fn settle_tee(&mut self, bench: &Bench<'_>, place: usize, state: TeeState) {
        let Some(Some(tee)) = self.tees.get(place) else { return };
        match state {
            TeeState::Gone => self.remove_tee(bench, place),
            TeeState::Empty | TeeState::Waiting if tee.can_be_watched() => {
                let interest = if state == TeeState::Waiting { Interest::Write } else { Interest::End };
                // It is watched since it was added, and a change of that needs nothing.
                bench.poller.change(tee, tee_token(bench, place), interest).unwrap_or_default();
            }
            // A file that takes nothing is full, and will not say when it is not.
            TeeState::Waiting => self.remove_tee(bench, place),
            TeeState::Empty => {}
        }
    }

    /// Copies of a descriptor live in the launcher too, so closing it here would not end its being watched.
    fn remove_stream(&mut self, bench: &Bench<'_>, place: usize) {
        if let Some(stream) = self.streams.get_mut(place).and_then(Option::take) {
            bench.poller.remove(&stream.pipe);
        }
    }

    fn remove_tee(&mut self, bench: &Bench<'_>, place: usize) {
        if let Some(tee) = self.tees.get_mut(place).and_then(Option::take) {
            bench.poller.remove(&tee);
        }
    }
}

fn tee_token(bench: &Bench<'_>, place: usize) -> u64 {
    bench.token + length(STREAMS_MAX + place)
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
