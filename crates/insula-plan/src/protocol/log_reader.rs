//! Reading a container's log while it is written: from the first segment that is left, from the end, or on from where
//! one was.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::log::{LogRecord, SEGMENT_HEADER_BYTES, SegmentNumber, read_record, read_segment_header};

/// Bytes that one read takes from a segment.
const READ_BYTES: usize = 256 * 1024;

/// Segments listed in one directory; a log has a handful.
const SEGMENTS_MAX: usize = 100_000;

/// A place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    /// Which segment.
    pub segment: SegmentNumber,
    /// Bytes from its beginning; 0 is before its header.
    pub offset: u64,
}

/// A log that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("read log {}", path.display())]
pub struct ReadLogError {
    /// The log directory or segment.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub errno: Errno,
}

/// Reads records in order. A segment that was rotated away while it was read is passed over.
#[derive(Debug)]
pub struct LogReader {
    directory: PathBuf,
    position: LogPosition,
    open: Option<(SegmentNumber, OwnedFd)>,
    buffer: Vec<u8>,
}

impl LogReader {
    /// From the first record that is left. The directory need not exist yet.
    #[must_use]
    pub fn from_start(directory: impl Into<PathBuf>) -> Self {
        let position = LogPosition { segment: SegmentNumber(0), offset: 0 };
        Self::from_position(directory, position)
    }

    /// From a place that [`position`](Self::position) gave.
    #[must_use]
    pub fn from_position(directory: impl Into<PathBuf>, position: LogPosition) -> Self {
        Self { directory: directory.into(), position, open: None, buffer: Vec::new() }
    }

    /// Where the next record will be.
    #[must_use]
    pub fn position(&self) -> LogPosition {
        self.position
    }

    /// Gives the records that are there now to `take`, 256 KiB of them at most; says whether there were any. None
    /// means that all that was written has been read.
    ///
    /// # Errors
    ///
    /// The directory or a segment cannot be read.
    pub fn read(&mut self, mut take: impl FnMut(LogRecord<'_>)) -> Result<bool, ReadLogError> {
        loop {
            if !self.ensure_open()? {
                return Ok(false);
            }
            let given = self.read_open(&mut take)?;
            if given {
                return Ok(true);
            }
            // A segment's end is final once there is a later one.
            let Some(next) = self.next_segment()? else { return Ok(false) };
            // Something may have been written between the last read and the new segment's beginning.
            if self.read_open(&mut take)? {
                return Ok(true);
            }
            self.position = LogPosition { segment: next, offset: 0 };
            self.open = None;
        }
    }

    /// Makes sure that the segment of the position is open; `false` when the log has none from there on.
    fn ensure_open(&mut self) -> Result<bool, ReadLogError> {
        while self.open.as_ref().is_none_or(|(number, _)| *number != self.position.segment) {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let path = self.directory.join(self.position.segment.file_name());
            match rustix::fs::open(&path, flags, Mode::empty()) {
                Ok(file) => self.open = Some((self.position.segment, file)),
                Err(Errno::NOENT) => {
                    let Some(next) = self.next_segment()? else { return Ok(false) };
                    self.position = LogPosition { segment: next, offset: 0 };
                }
                Err(errno) => return Err(ReadLogError { path, errno }),
            }
        }
        Ok(true)
    }

    fn read_open(&mut self, take: &mut impl FnMut(LogRecord<'_>)) -> Result<bool, ReadLogError> {
        let Some((_, file)) = &self.open else { return Ok(false) };
        self.buffer.resize(READ_BYTES, 0);
        let length = rustix::io::pread(file.as_fd(), &mut self.buffer, self.position.offset)
            .map_err(|errno| ReadLogError { path: self.directory.clone(), errno })?;
        let mut bytes = self.buffer.get(..length).unwrap_or_default();
        let mut used = 0;
        if self.position.offset == 0 {
            // A header that is wrong or not written yet: there is nothing to read here now.
            let Ok((_, _, header)) = read_segment_header(bytes) else { return Ok(false) };
            bytes = bytes.get(header..).unwrap_or_default();
            used = header;
        }
        let mut given = false;
        while let Some((record, length)) = read_record(bytes) {
            take(record);
            given = true;
            bytes = bytes.get(length..).unwrap_or_default();
            used += length;
        }
        self.position.offset += u64::try_from(used).unwrap_or(0);
        Ok(given)
    }

    fn next_segment(&self) -> Result<Option<SegmentNumber>, ReadLogError> {
        let later = |number: &SegmentNumber| *number > self.position.segment;
        Ok(segments(&self.directory)?.into_iter().find(later))
    }
}

/// The segments of a log in order; none if the directory does not exist.
///
/// # Errors
///
/// The directory cannot be read.
pub fn segments(directory: &Path) -> Result<Vec<SegmentNumber>, ReadLogError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let wrap = |errno| ReadLogError { path: directory.to_owned(), errno };
    match rustix::fs::open(directory, flags, Mode::empty()) {
        Ok(directory) => segments_in(&directory).map_err(wrap),
        Err(Errno::NOENT) => Ok(Vec::new()),
        Err(errno) => Err(wrap(errno)),
    }
}

/// The segments of an open log directory, in order.
///
/// # Errors
///
/// The directory cannot be read.
pub fn segments_in(directory: &OwnedFd) -> Result<Vec<SegmentNumber>, Errno> {
    let mut numbers = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)?.take(SEGMENTS_MAX) {
        numbers.extend(entry?.file_name().to_str().ok().and_then(SegmentNumber::from_file_name));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Length of the whole records of a segment, header included; what follows is damaged or cut off. `None` if the header
/// is.
///
/// # Errors
///
/// The file cannot be read.
pub fn whole_length(segment: impl AsFd) -> Result<Option<u64>, Errno> {
    let mut buffer = vec![0; READ_BYTES];
    let mut offset = 0;
    loop {
        let length = rustix::io::pread(segment.as_fd(), &mut buffer, offset)?;
        let mut bytes = buffer.get(..length).unwrap_or_default();
        let mut used = 0;
        if offset == 0 {
            let Ok((_, _, header)) = read_segment_header(bytes) else { return Ok(None) };
            bytes = bytes.get(header.max(SEGMENT_HEADER_BYTES)..).unwrap_or_default();
            used = header;
        }
        while let Some((_, length)) = read_record(bytes) {
            bytes = bytes.get(length..).unwrap_or_default();
            used += length;
        }
        if used == 0 {
            return Ok(Some(offset));
        }
        offset += u64::try_from(used).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::keeper::LogStream;
    use super::super::log::{LogContent, append_written, segment_header};
    use super::super::status::WallTime;
    use super::*;
    use std::io::Write;

    fn text(reader: &mut LogReader) -> String {
        let mut text = String::new();
        let take = |record: LogRecord<'_>| {
            if let LogContent::Written { bytes, .. } = record.content {
                text.push_str(std::str::from_utf8(bytes).unwrap());
            }
        };
        reader.read(take).unwrap();
        text
    }

    fn append(directory: &Path, number: u64, line: &str) {
        let path = directory.join(SegmentNumber(number).file_name());
        let new = !path.exists();
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        let mut bytes = if new { segment_header(SegmentNumber(number), WallTime(0)).to_vec() } else { Vec::new() };
        append_written(&mut bytes, WallTime(0), LogStream::Output, line.as_bytes());
        file.write_all(&bytes).unwrap();
    }

    #[test]
    fn a_log_is_followed_over_segments_and_over_one_that_is_gone() {
        let scratch = tempfile::tempdir().unwrap();
        let log = scratch.path().join("log");
        let mut reader = LogReader::from_start(&log);
        assert_eq!(text(&mut reader), "");
        std::fs::create_dir(&log).unwrap();
        append(&log, 3, "a\n");
        assert_eq!(text(&mut reader), "a\n");
        assert_eq!(text(&mut reader), "");
        append(&log, 3, "b\n");
        append(&log, 4, "c\n");
        assert_eq!(text(&mut reader), "b\n");
        assert_eq!(text(&mut reader), "c\n");
        append(&log, 5, "lost to rotation\n");
        append(&log, 6, "d\n");
        std::fs::remove_file(log.join(SegmentNumber(5).file_name())).unwrap();
        let position = reader.position();
        assert_eq!(text(&mut reader), "d\n");
        let mut again = LogReader::from_position(&log, position);
        assert_eq!(text(&mut again), "d\n");
    }

    #[test]
    fn a_torn_tail_is_not_part_of_the_whole_length() {
        let scratch = tempfile::tempdir().unwrap();
        append(scratch.path(), 1, "first\nsecond\n");
        let path = scratch.path().join(SegmentNumber(1).file_name());
        let whole = std::fs::read(&path).unwrap();
        let file = || std::fs::File::open(&path).unwrap();
        assert_eq!(whole_length(file()).unwrap(), Some(whole.len() as u64));
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(whole_length(file()).unwrap(), Some(32 + 16 + 6));
        std::fs::write(&path, &whole[..20]).unwrap();
        assert_eq!(whole_length(file()).unwrap(), None);
    }
}
