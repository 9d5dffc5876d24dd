//! The bytes of an archive before anything is parsed: compression told apart by magic, input hashed, expansion
//! bounded.

use std::fmt;
use std::io::{self, BufReader, Cursor, Read};
use std::sync::{Arc, Mutex, PoisonError};

use insula_model::Sha256Digest;
use sha2::{Digest, Sha256};

use super::tar_reader::{ReadArchiveCause, ReadArchiveError};
use crate::draft::TreeLimits;

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
pub struct InputTotals(Arc<Mutex<Totals>>);

#[derive(Debug)]
struct Totals {
    bytes: u64,
    hash: Sha256,
}

impl InputTotals {
    fn with<T>(&self, act: impl FnOnce(&mut Totals) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Bytes read so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.with(|totals| totals.bytes)
    }

    /// Digest of the bytes read so far: of the whole archive once the stream has ended.
    #[must_use]
    pub fn sha256(&self) -> Sha256Digest {
        self.with(|totals| Sha256Digest(totals.hash.clone().finalize().into()))
    }
}

/// Input that is counted and hashed as it goes by.
struct Counted<R> {
    input: R,
    totals: InputTotals,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.totals.with(|totals| {
            totals.bytes += u64::try_from(count).unwrap_or(u64::MAX);
            totals.hash.update(&buffer[..count]);
        });
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
        let refuse = |cause| ReadArchiveError { entry: None, offset: 0, cause };
        let totals = InputTotals(Arc::new(Mutex::new(Totals { bytes: 0, hash: Sha256::new() })));
        let mut input = Counted { input, totals: totals.clone() };
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
