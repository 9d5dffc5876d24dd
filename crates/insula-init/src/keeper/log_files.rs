//! Writing a container's log: segments that rotate, a rate that is held, loss that is counted.
//!
//! A write goes to the page cache and is never waited for on the disk (no `fsync`). What the rate limit refuses, and
//! what a full or failing disk does not take, is counted, and a record says how much is missing as soon as a record
//! can be written again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use insula_plan::protocol::keeper::{LogBounds, LogStream};
use insula_plan::protocol::log::{SEGMENT_HEADER_BYTES, SegmentNumber, append_lost, append_written, segment_header};
use insula_plan::protocol::log_reader::{segments_in, whole_length};
use insula_plan::protocol::status::WallTime;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Smallest segment; a smaller bound is raised to this.
const SEGMENT_BYTES_MIN: u64 = 64 * 1024;

/// Fewest segments: the one being written and one that is whole.
const SEGMENTS_MIN: u32 = 2;

/// Bytes that are encoded at a time when a whole read would not fit a segment: even if each is a line of its own, the
/// records fit the smallest segment.
const SMALL_PIECE_BYTES: usize = 3000;

/// Capacity that the buffer of encoded records keeps between writes.
const ENCODED_BYTES_KEPT: usize = 128 * 1024;

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) wall: WallTime,
    pub(super) steady: Instant,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { wall: WallTime::now(), steady: Instant::now() }
    }
}

/// Whether the segment that was there at the beginning was looked at. It is read for that, and a keeper that is given
/// the logs of a thousand containers does not read them all before it serves the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Newest {
    NotLookedAt,
    LookedAt,
}

/// A log being written. Its position is what the files themselves say, so that a new keeper goes on where the old one
/// was killed.
#[derive(Debug)]
pub(super) struct LogFiles {
    directory: OwnedFd,
    bounds: LogBounds,
    segment: SegmentNumber,
    newest: Newest,
    file: Option<OwnedFd>,
    position: u64,
    allowance: Allowance,
    /// Bytes that no record counts yet.
    lost_unsaid: u64,
    lost_total: u64,
    encoded: Vec<u8>,
}

impl LogFiles {
    /// Goes on with the newest segment of the directory, cutting off a torn record, or begins the first; at the first
    /// write.
    pub(super) fn open(directory: OwnedFd, bounds: LogBounds, now: Moment) -> Result<Self, Errno> {
        let bounds = LogBounds {
            segment_bytes: bounds.segment_bytes.max(SEGMENT_BYTES_MIN),
            segments: bounds.segments.max(SEGMENTS_MIN),
            ..bounds
        };
        let present = segments_in(&directory)?;
        let newest = present.last().copied().unwrap_or(SegmentNumber(0));
        let allowance = Allowance::new(&bounds, now.steady);
        let encoded = Vec::new();
        let mut files = Self {
            directory,
            bounds,
            segment: newest,
            newest: Newest::NotLookedAt,
            file: None,
            position: 0,
            allowance,
            lost_unsaid: 0,
            lost_total: 0,
            encoded,
        };
        for number in present {
            files.remove_if_old(number);
        }
        Ok(files)
    }

    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    pub(super) fn segment(&self) -> SegmentNumber {
        self.segment
    }

    pub(super) fn lost_bytes(&self) -> u64 {
        self.lost_total
    }

    /// Whether the rate allows nothing now: then bytes need not even be looked at.
    pub(super) fn is_over_rate(&mut self, now: Moment) -> bool {
        self.allowance.left(now.steady) <= 0
    }

    /// Counts bytes that were thrown away unread.
    pub(super) fn lose(&mut self, bytes: u64) {
        self.lost_unsaid = self.lost_unsaid.saturating_add(bytes);
        self.lost_total = self.lost_total.saturating_add(bytes);
    }

    /// Writes what a stream wrote, or counts it as lost.
    pub(super) fn write(&mut self, now: Moment, stream: LogStream, bytes: &[u8]) {
        if self.is_over_rate(now) {
            return self.lose(length(bytes));
        }
        let room = self.bounds.segment_bytes - SEGMENT_HEADER_BYTES as u64;
        self.encode(now, stream, bytes);
        if length(&self.encoded) <= room {
            return self.write_encoded(now, length(bytes));
        }
        // Many short lines: their records are longer than a segment.
        for piece in bytes.chunks(SMALL_PIECE_BYTES) {
            self.encode(now, stream, piece);
            self.write_encoded(now, length(piece));
        }
    }

    /// Says what is missing, if something is and it can be said.
    pub(super) fn say_what_is_lost(&mut self, now: Moment) {
        if self.lost_unsaid > 0 {
            self.encoded.clear();
            append_lost(&mut self.encoded, now.wall, self.lost_unsaid);
            self.write_encoded(now, 0);
        }
    }

    fn encode(&mut self, now: Moment, stream: LogStream, bytes: &[u8]) {
        self.encoded.clear();
        if self.lost_unsaid > 0 {
            append_lost(&mut self.encoded, now.wall, self.lost_unsaid);
        }
        append_written(&mut self.encoded, now.wall, stream, bytes);
    }

    /// Writes the encoded records, which stand for `bytes` bytes of a stream and for what was lost until now.
    fn write_encoded(&mut self, now: Moment, bytes: u64) {
        let encoded = std::mem::take(&mut self.encoded);
        let written = self.ensure_room(length(&encoded), now).and_then(|()| self.write_all(&encoded));
        match written {
            Ok(()) => {
                self.allowance.spend(length(&encoded));
                self.lost_unsaid = 0;
            }
            Err(_) => self.lose(bytes),
        }
        self.encoded = encoded;
        self.encoded.clear();
        self.encoded.shrink_to(ENCODED_BYTES_KEPT);
    }

    /// Begins a segment if there is none or the present one has no room for `bytes` more.
    fn ensure_room(&mut self, bytes: u64, now: Moment) -> Result<(), Errno> {
        if self.newest == Newest::NotLookedAt {
            if let Some((file, position)) = resume(&self.directory, self.segment)? {
                (self.file, self.position) = (Some(file), position);
            }
            self.newest = Newest::LookedAt;
        }
        if self.file.is_some() && self.position + bytes <= self.bounds.segment_bytes {
            return Ok(());
        }
        let next = SegmentNumber(self.segment.0 + 1);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, next.file_name(), flags, Mode::RUSR | Mode::WUSR)?;
        self.file = Some(file);
        self.position = 0;
        self.write_all(&segment_header(next, now.wall))?;
        self.segment = next;
        self.remove_if_old(SegmentNumber(next.0.saturating_sub(self.bounds.segments.into())));
        Ok(())
    }

    /// All of it at the present position, or nothing.
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let Some(file) = &self.file else { return Err(Errno::BADF) };
        let mut done = 0;
        while let Some(left) = bytes.get(done..).filter(|left| !left.is_empty()) {
            let offset = self.position + length(bytes.get(..done).unwrap_or_default());
            match rustix::io::pwrite(file, left, offset) {
                Ok(0) => return Err(Errno::IO),
                Ok(written) => done += written,
                Err(Errno::INTR) => {}
                Err(errno) => {
                    // A reader must not meet half a record. If this fails too the check of the record says so.
                    rustix::fs::ftruncate(file, self.position).unwrap_or_default();
                    return Err(errno);
                }
            }
        }
        self.position += length(bytes);
        Ok(())
    }

    fn remove_if_old(&mut self, number: SegmentNumber) {
        if number.0 + u64::from(self.bounds.segments) <= self.segment.0 && number.0 > 0 {
            // It may be gone; and one that cannot be removed is tried again by the next keeper.
            rustix::fs::unlinkat(&self.directory, number.file_name(), rustix::fs::AtFlags::empty()).unwrap_or_default();
        }
    }
}

/// Opens a segment for going on with it; `None` if there is no use in that.
fn resume(directory: &OwnedFd, number: SegmentNumber) -> Result<Option<(OwnedFd, u64)>, Errno> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(directory, number.file_name(), flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let Some(whole) = whole_length(&file)? else { return Ok(None) };
    rustix::fs::ftruncate(&file, whole)?;
    Ok(Some((file, whole)))
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// How much may be written: fills with time up to the burst, and may be overdrawn by one write.
#[derive(Debug)]
struct Allowance {
    left: i64,
    burst: i64,
    bytes_per_second: u64,
    filled: Instant,
}

impl Allowance {
    fn new(bounds: &LogBounds, now: Instant) -> Self {
        let burst = i64::try_from(bounds.burst_bytes).unwrap_or(i64::MAX).max(1);
        Self { left: burst, burst, bytes_per_second: bounds.rate_bytes_per_second, filled: now }
    }

    fn left(&mut self, now: Instant) -> i64 {
        let passed = now.saturating_duration_since(self.filled);
        // Not at every call, or what is less than a byte would be forgotten each time.
        if passed >= Duration::from_millis(1) {
            let earned = u128::from(self.bytes_per_second) * passed.as_micros() / 1_000_000;
            self.left = self.left.saturating_add(i64::try_from(earned).unwrap_or(i64::MAX)).min(self.burst);
            self.filled = now;
        }
        self.left
    }

    fn spend(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use insula_plan::protocol::log::LogContent;
    use insula_plan::protocol::log_reader::LogReader;
    use std::path::Path;

    const BOUNDS: LogBounds =
        LogBounds { segment_bytes: 64 * 1024, segments: 3, rate_bytes_per_second: 1000, burst_bytes: 1 << 30 };

    fn open(path: &Path, bounds: LogBounds, now: Moment) -> LogFiles {
        let directory = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        LogFiles::open(directory, bounds, now).unwrap()
    }

    fn read(path: &Path) -> (String, u64) {
        let (mut text, mut lost) = (String::new(), 0);
        let mut reader = LogReader::from_start(path);
        while reader
            .read(|record| match record.content {
                LogContent::Written { bytes, .. } => text.push_str(std::str::from_utf8(bytes).unwrap()),
                LogContent::Lost { bytes } => lost += bytes,
            })
            .unwrap()
        {}
        (text, lost)
    }

    #[test]
    fn segments_rotate_within_their_bounds_and_the_oldest_goes() {
        let scratch = tempfile::tempdir().unwrap();
        let now = Moment::now();
        let mut files = open(scratch.path(), BOUNDS, now);
        // Lines of one byte: their records are 17 times as long as what they hold.
        for _ in 0..30 {
            files.write(now, LogStream::Output, &b"\n".repeat(10_000));
        }
        let sizes: Vec<u64> =
            std::fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).collect();
        assert_eq!(sizes.len(), 3);
        assert!(sizes.iter().all(|&size| size <= 64 * 1024), "{sizes:?}");
        assert_eq!(files.lost_bytes(), 0);
        assert!(files.segment().0 > 70);
    }

    #[test]
    fn what_is_over_the_rate_is_counted_where_it_is_missing() {
        let scratch = tempfile::tempdir().unwrap();
        let now = Moment::now();
        let bounds = LogBounds { burst_bytes: 100, ..BOUNDS };
        let mut files = open(scratch.path(), bounds, now);
        files.write(now, LogStream::Output, &[b'a'; 200]);
        assert!(files.is_over_rate(now));
        files.write(now, LogStream::Output, &[b'b'; 50]);
        files.lose(7);
        let later = Moment { steady: now.steady + Duration::from_secs(1), ..now };
        files.write(later, LogStream::Output, b"c");
        assert_eq!(read(scratch.path()), (format!("{}c", "a".repeat(200)), 57));
        assert_eq!(files.lost_bytes(), 57);
    }

    #[test]
    fn a_second_writer_goes_on_behind_the_last_whole_record() {
        let scratch = tempfile::tempdir().unwrap();
        let now = Moment::now();
        open(scratch.path(), BOUNDS, now).write(now, LogStream::Output, b"one\ntwo\n");
        let path = scratch.path().join(SegmentNumber(1).file_name());
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 2]).unwrap();
        open(scratch.path(), BOUNDS, now).write(now, LogStream::Output, b"three\n");
        assert_eq!(read(scratch.path()).0, "one\nthree\n");
        // A header that is torn: a new segment, and the old one stays unread.
        std::fs::write(&path, b"INSU").unwrap();
        open(scratch.path(), BOUNDS, now).write(now, LogStream::Output, b"four\n");
        assert_eq!(read(scratch.path()).0, "four\n");
    }

    #[test]
    fn a_disk_that_takes_nothing_costs_bytes_that_are_counted() {
        let scratch = tempfile::tempdir().unwrap();
        let now = Moment::now();
        let mut files = open(scratch.path(), BOUNDS, now);
        // A directory that is gone takes no new segment.
        let path = scratch.path().to_owned();
        drop(scratch);
        files.write(now, LogStream::Output, b"x\n");
        assert_eq!(files.lost_bytes(), 2);
        assert!(!path.exists());
    }
}
