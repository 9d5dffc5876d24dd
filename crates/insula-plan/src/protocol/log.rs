//! The format of a container's log: segments of records, binary-safe.
//!
//! ```text
//!   <log directory>/0000000000000001.log   the oldest
//!                   0000000000000002.log   being written
//!
//!   segment: header (32 bytes), then records to the end of the file; all numbers little-endian
//!     0  magic "INSULALG"   8  version u16   10  header length u16   12  zero u32
//!    16  segment number u64                  24  time of its beginning u64 (ns since 1970, UTC)
//!
//!   record: header (16 bytes), then the payload
//!     0  payload length u32, 65,536 at most   4  kind u8   5  flags u8   6  check u16
//!     8  time u64 (ns since 1970, UTC)       16  payload
//!
//!   kind 1 standard output, 2 standard error: the bytes as they were written, cut after each newline
//!        3 lost: payload is a u64, how many bytes are missing here
//!   flag 1 (partial): the payload does not end with a newline; the line goes on in the next record of its kind
//!   check: Fletcher-16 of the record's header with this field zero
//! ```
//!
//! The payloads of one kind, one after the other, are the stream as it was written, but for what `lost` counts. A
//! record that is cut off or whose check is wrong ends its segment: a writer that comes later cuts it away.
//! See docs/formats/log.md.

use std::fmt;

use super::keeper::LogStream;
use super::status::WallTime;

/// First bytes of a segment.
const MAGIC: [u8; 8] = *b"INSULALG";

/// Version of the format.
const VERSION: u16 = 1;

/// Length of a segment's header, in bytes.
pub const SEGMENT_HEADER_BYTES: usize = 32;

/// Length of a record's header, in bytes.
pub const RECORD_HEADER_BYTES: usize = 16;

/// Longest payload of a record, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 65_536;

const KIND_OUTPUT: u8 = 1;
const KIND_ERROR: u8 = 2;
const KIND_LOST: u8 = 3;
const FLAG_PARTIAL: u8 = 1;

/// Number of a segment: 1 and up, never used again within a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNumber(pub u64);

impl SegmentNumber {
    /// The segment's file name.
    #[must_use]
    pub fn file_name(self) -> String {
        format!("{:016}.log", self.0)
    }

    /// The segment that a file of this name is.
    #[must_use]
    pub fn from_file_name(name: &str) -> Option<Self> {
        let digits = name.strip_suffix(".log").filter(|digits| digits.len() >= 16)?;
        let number = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())??;
        (number > 0).then_some(Self(number)).filter(|number| number.file_name() == name)
    }
}

/// A record, its payload borrowed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LogRecord<'bytes> {
    /// When it was read from the container.
    pub at: WallTime,
    /// What it holds.
    pub content: LogContent<'bytes>,
}

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogContent<'bytes> {
    /// A line, or part of one.
    Written {
        /// By which stream.
        stream: LogStream,
        /// The bytes, with their newline if they end with one.
        bytes: &'bytes [u8],
    },
    /// Bytes are missing here: the rate limit, or the disk, had no room for them.
    Lost {
        /// How many.
        bytes: u64,
    },
}

impl LogContent<'_> {
    /// Whether the line goes on in a later record.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        matches!(self, Self::Written { bytes, .. } if bytes.last() != Some(&b'\n'))
    }
}

impl fmt::Debug for LogRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.content {
            LogContent::Written { stream, bytes } => write!(f, "{} {stream:?} \"{}\"", self.at.0, bytes.escape_ascii()),
            LogContent::Lost { bytes } => write!(f, "{} lost {bytes}", self.at.0),
        }
    }
}

/// The header of a new segment.
#[must_use]
pub fn segment_header(number: SegmentNumber, begun: WallTime) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut header = [0; SEGMENT_HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..10].copy_from_slice(&VERSION.to_le_bytes());
    header[10..12].copy_from_slice(&32u16.to_le_bytes());
    header[16..24].copy_from_slice(&number.0.to_le_bytes());
    header[24..].copy_from_slice(&begun.0.to_le_bytes());
    header
}

/// Appends to `out` the records of `bytes`, which `stream` wrote: one per line, or per 64 KiB of a longer one.
pub fn append_written(out: &mut Vec<u8>, at: WallTime, stream: LogStream, bytes: &[u8]) {
    let kind = match stream {
        LogStream::Output => KIND_OUTPUT,
        LogStream::Error => KIND_ERROR,
    };
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        for piece in line.chunks(PAYLOAD_BYTES_MAX) {
            let flags = if piece.last() == Some(&b'\n') { 0 } else { FLAG_PARTIAL };
            append_record(out, at, [kind, flags], piece);
        }
    }
}

/// Appends to `out` the record that says that bytes are missing.
pub fn append_lost(out: &mut Vec<u8>, at: WallTime, bytes: u64) {
    append_record(out, at, [KIND_LOST, 0], &bytes.to_le_bytes());
}

fn append_record(out: &mut Vec<u8>, at: WallTime, [kind, flags]: [u8; 2], payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(0);
    let mut header = [0; RECORD_HEADER_BYTES];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4] = kind;
    header[5] = flags;
    header[8..].copy_from_slice(&at.0.to_le_bytes());
    let check = fletcher16(&header);
    header[6..8].copy_from_slice(&check.to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(payload);
}

/// Fletcher-16: finds a header of zeros (its sums begin with 1) and every single wrong byte.
fn fletcher16(bytes: &[u8]) -> u16 {
    let (low, high) = bytes.iter().fold((1u16, 0u16), |(low, high), &byte| {
        let low = (low + u16::from(byte)) % 255;
        (low, (high + low) % 255)
    });
    high << 8 | low
}

/// A file that is no segment of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SegmentHeaderError {
    /// Fewer bytes than a header has; perhaps it is just being made.
    #[error("the log segment's header is cut off")]
    CutOff,
    /// Something else.
    #[error("the file is no log segment")]
    NoSegment,
    /// Written by a later Insula.
    #[error("the log segment has version {found}, not {VERSION}")]
    Version {
        /// Its version.
        found: u16,
    },
}

/// Reads a segment's header; gives its number, the time of its beginning and where its records begin.
///
/// # Errors
///
/// See [`SegmentHeaderError`].
pub fn read_segment_header(bytes: &[u8]) -> Result<(SegmentNumber, WallTime, usize), SegmentHeaderError> {
    let header: &[u8; SEGMENT_HEADER_BYTES] = bytes.first_chunk().ok_or(SegmentHeaderError::CutOff)?;
    if header[..8] != MAGIC {
        return Err(SegmentHeaderError::NoSegment);
    }
    let found = u16::from_le_bytes([header[8], header[9]]);
    if found != VERSION {
        return Err(SegmentHeaderError::Version { found });
    }
    let length = usize::from(u16::from_le_bytes([header[10], header[11]]));
    if length < SEGMENT_HEADER_BYTES {
        return Err(SegmentHeaderError::NoSegment);
    }
    Ok((SegmentNumber(number(&header[16..24])), WallTime(number(&header[24..])), length))
}

/// The first record of `bytes` and its length in them; `None` when it is cut off, damaged, or not there.
#[must_use]
pub fn read_record(bytes: &[u8]) -> Option<(LogRecord<'_>, usize)> {
    let (header, rest) = bytes.split_first_chunk::<RECORD_HEADER_BYTES>()?;
    let payload = rest.get(..payload_length(header)?)?;
    let at = WallTime(number(&header[8..]));
    let content = match header[4] {
        KIND_OUTPUT => LogContent::Written { stream: LogStream::Output, bytes: payload },
        KIND_ERROR => LogContent::Written { stream: LogStream::Error, bytes: payload },
        KIND_LOST => LogContent::Lost { bytes: number(payload.get(..8)?) },
        _ => return None,
    };
    Some((LogRecord { at, content }, RECORD_HEADER_BYTES + payload.len()))
}

/// Length of the payload behind a record's header; `None` for a header that is damaged.
#[must_use]
pub fn payload_length(header: &[u8; RECORD_HEADER_BYTES]) -> Option<usize> {
    let mut checked = *header;
    checked[6..8].fill(0);
    let good = fletcher16(&checked).to_le_bytes() == header[6..8];
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    usize::try_from(length).ok().filter(|&length| good && length <= PAYLOAD_BYTES_MAX)
}

/// A little-endian number of at most 8 bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn records(mut bytes: &[u8]) -> (Vec<LogRecord<'_>>, &[u8]) {
        let mut records = Vec::new();
        while let Some((record, length)) = read_record(bytes) {
            records.push(record);
            bytes = &bytes[length..];
        }
        (records, bytes)
    }

    #[test]
    fn file_names_read_back_and_others_are_not_segments() {
        for number in [1, 42, u64::MAX] {
            let number = SegmentNumber(number);
            assert_eq!(SegmentNumber::from_file_name(&number.file_name()), Some(number));
        }
        for other in ["1.log", "0000000000000000.log", "000000000000000a.log", "00000000000000001.log", "x", ".log"] {
            assert_eq!(SegmentNumber::from_file_name(other), None, "{other}");
        }
    }

    /// The format is read by later versions: these bytes never change.
    #[test]
    fn bytes_are_the_documented_ones() {
        let mut bytes = segment_header(SegmentNumber(7), WallTime(0x0102_0304_0506_0708)).to_vec();
        append_written(&mut bytes, WallTime(0x1112), LogStream::Output, b"one\ntw");
        append_written(&mut bytes, WallTime(0x1113), LogStream::Error, b"\0\xff\n");
        append_lost(&mut bytes, WallTime(0x1114), 0x2122);
        let golden: Vec<u8> = include_str!("../../tests/golden/log_segment.hex")
            .split_whitespace()
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect();
        assert_eq!(bytes, golden, "{}", bytes.iter().map(|byte| format!("{byte:02x} ")).collect::<String>());
    }

    #[test]
    fn damage_to_a_header_ends_the_segment() {
        let mut bytes = Vec::new();
        append_written(&mut bytes, WallTime(9), LogStream::Output, b"line\n");
        for at in 0..RECORD_HEADER_BYTES {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert_eq!(read_record(&damaged), None, "bit {bit} of byte {at}");
            }
        }
        assert_eq!(read_record(&[0; 64]), None);
        assert_eq!(read_record(&[0xff; 64]), None);
    }

    proptest! {
        #[test]
        fn a_stream_reads_back_whole_and_a_cut_costs_only_the_last_record(
            reads in proptest::collection::vec(proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200), 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = Vec::new();
            for read in &reads {
                append_written(&mut bytes, WallTime(1), LogStream::Error, read);
            }
            let (all, rest) = records(&bytes);
            prop_assert!(rest.is_empty());
            let joined: Vec<u8> = all.iter().flat_map(|record| match record.content {
                LogContent::Written { bytes, .. } => bytes.to_vec(),
                LogContent::Lost { .. } => Vec::new(),
            }).collect();
            prop_assert_eq!(joined, reads.concat());
            if !bytes.is_empty() {
                let (some, _) = records(&bytes[..cut.index(bytes.len())]);
                prop_assert_eq!(&all[..some.len()], &some[..]);
            }
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = records(&bytes);
            let _ = read_segment_header(&bytes);
        }
    }
}
