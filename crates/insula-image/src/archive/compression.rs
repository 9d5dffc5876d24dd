//! The bytes of an archive before anything is parsed: compression told apart by magic, input hashed, expansion
//! bounded.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use insula_model::Sha256Digest;
use sha2::Digest;

use super::read_ahead::{ReadAhead, SharedHash, feed};
use super::tar_reader::{ReadArchiveCause, ReadArchiveError};
use crate::draft::TreeLimits;
use crate::progress::{Phase, Watch, WatchedReader};

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, any number of members.
    Gzip,
    /// zstd, any number of frames.
    Zstd,
}

/// Input is read in pieces of this many bytes.
const INPUT_BUFFER_BYTES: usize = 128 << 10;
/// Largest zstd window we take, as a binary logarithm: 32 MiB, which covers every level but the `--ultra` ones. The
/// frame chooses how much memory its reader needs.
const ZSTD_WINDOW_LOG_MAX: u32 = 25;
/// Expansion counts from here on: sparse files make small archives expand honestly.
const EXPANSION_FREE_BYTES: u64 = 1 << 30;
/// Most bytes that come of one byte of input, in the mean. Real root file systems are below 10; zeros under gzip, a
/// bomb or a disk image, are at 1,000.
const EXPANSION_MAX: u64 = 200;
/// Bytes beside content that an entry can account for: its header and padding, and some for long names.
const ENTRY_OVERHEAD_BYTES: u64 = 4096;

/// First bytes of formats that are refused by their names.
const FOREIGN_FORMATS: [(&[u8], &str); 5] = [
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"PK\x03\x04", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
];
const MAGIC_BYTES: usize = 6;

/// The decompressed bytes of an archive. Fails as soon as they expand beyond what an honest archive does.
pub struct DecodedStream<'input> {
    decoder: Box<dyn Read + 'input>,
    compression: Compression,
    totals: InputTotals,
    output_bytes: u64,
    output_bytes_max: u64,
}

impl fmt::Debug for DecodedStream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecodedStream").field("compression", &self.compression).finish_non_exhaustive()
    }
}

/// What was read of an archive's own bytes, shared with the stream that reads them.
#[derive(Debug, Clone)]
pub struct InputTotals {
    bytes: Arc<AtomicU64>,
    hash: SharedHash,
}

impl InputTotals {
    /// Bytes read so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Digest of the whole archive, once the stream has ended.
    #[must_use]
    pub fn sha256(&self) -> Sha256Digest {
        Sha256Digest(self.hash.lock().unwrap_or_else(PoisonError::into_inner).clone().finalize().into())
    }
}

/// Input that is counted as it goes by.
struct Counted<R> {
    input: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.bytes.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(count)
    }
}

/// Input that is hashed as it goes by.
struct Hashed<R> {
    input: R,
    hash: SharedHash,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        feed(&self.hash, &buffer[..count]);
        Ok(count)
    }
}

impl<'input> DecodedStream<'input> {
    /// Looks at the first bytes and begins to decompress.
    ///
    /// # Errors
    ///
    /// The archive is empty, unreadable, or of a format that is not taken.
    pub fn open(input: impl Read + 'input, limits: &TreeLimits) -> Result<Self, ReadArchiveError> {
        let hash = SharedHash::default();
        Self::open_hashed(Hashed { input, hash: hash.clone() }, hash, limits)
    }

    /// The same for a file, which is read from its cursor on and hashed by a thread of its own, and watched; `total` are
    /// its bytes.
    ///
    /// # Errors
    ///
    /// As [`Self::open`]; or the thread cannot be started.
    pub(crate) fn open_ahead(
        file: File,
        total: Option<u64>,
        limits: &TreeLimits,
        watch: Watch<'input>,
    ) -> Result<Self, ReadArchiveError> {
        let refuse = |error| ReadArchiveError { entry: None, offset: 0, cause: ReadArchiveCause::Read(error) };
        let ahead = ReadAhead::start(file, watch).map_err(refuse)?;
        let hash = ahead.hash();
        Self::open_hashed(WatchedReader::new(ahead, watch, Phase::Import, total), hash, limits)
    }

    /// `hash` is of what comes out of `input`.
    fn open_hashed(input: impl Read + 'input, hash: SharedHash, limits: &TreeLimits) -> Result<Self, ReadArchiveError> {
        let refuse = |cause| ReadArchiveError { entry: None, offset: 0, cause };
        let totals = InputTotals { bytes: Arc::default(), hash };
        let mut input = Counted { input, bytes: totals.bytes.clone() };
        let mut magic = Vec::with_capacity(MAGIC_BYTES);
        input
            .by_ref()
            .take(u64::try_from(MAGIC_BYTES).expect("6"))
            .read_to_end(&mut magic)
            .map_err(|error| refuse(ReadArchiveCause::Read(error)))?;
        if magic.is_empty() {
            return Err(refuse(ReadArchiveCause::Empty));
        }
        if let Some((_, name)) = FOREIGN_FORMATS.iter().find(|(first, _)| magic.starts_with(first)) {
            return Err(refuse(ReadArchiveCause::ForeignFormat { name }));
        }
        let compression = match magic.as_slice() {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            _ => Compression::None,
        };
        let input = BufReader::with_capacity(INPUT_BUFFER_BYTES, Cursor::new(magic).chain(input));
        let decoder: Box<dyn Read + 'input> = match compression {
            Compression::None => Box::new(input),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
            Compression::Zstd => Box::new(zstd_decoder(input).map_err(|error| refuse(ReadArchiveCause::Read(error)))?),
        };
        let overhead = u64::from(limits.entries_max).saturating_mul(ENTRY_OVERHEAD_BYTES);
        let output_bytes_max =
            limits.content_bytes_max.saturating_add(overhead).saturating_add(limits.metadata_bytes_max);
        Ok(Self { decoder, compression, totals, output_bytes: 0, output_bytes_max })
    }

    /// How the archive is compressed.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// What was read of the archive's own bytes; stays up to date.
    #[must_use]
    pub fn totals(&self) -> InputTotals {
        self.totals.clone()
    }
}

fn zstd_decoder<'input, R: io::BufRead + 'input>(input: R) -> io::Result<zstd::stream::read::Decoder<'input, R>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(decoder)
}

impl Read for DecodedStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.decoder.read(buffer).map_err(|error| match self.compression {
            Compression::None => error,
            Compression::Gzip | Compression::Zstd => {
                io::Error::new(error.kind(), ReadArchiveCause::Decompress { compression: self.compression, error })
            }
        })?;
        self.output_bytes += u64::try_from(count).unwrap_or(u64::MAX);
        if self.output_bytes > self.output_bytes_max {
            return Err(io::Error::other(ReadArchiveCause::TooLong { max: self.output_bytes_max }));
        }
        let honest = EXPANSION_FREE_BYTES.saturating_add(self.totals.bytes().saturating_mul(EXPANSION_MAX));
        if self.compression != Compression::None && self.output_bytes > honest {
            return Err(io::Error::other(ReadArchiveCause::Expands { times: EXPANSION_MAX }));
        }
        Ok(count)
    }
}
