//! The data region of an image in the making: contents stream in, blocks and their sum come out.
//!
//! ```text
//!  reader ──▶ buffer of 2 MiB: files at block boundaries ──▶ past the cache (thread)
//!                    ▲                                             │
//!                    └────────────── emptied buffers ──────────────┘
//! ```
//!
//! Reading and waiting for the disk take about as long, so each has a thread. The number of buffers bounds both the
//! memory and how far the disk lags behind the reader. The bytes go straight to the disk: in the page cache they
//! would take as many fresh pages as the image is large, wait there for the flush, and be dropped unread.
//!
//! Nothing is hashed here but for the sum that tells whether the disk gives back the same: the digests are made of
//! what it gives back, when the image is published.

use std::fs::File;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::contents_sum::{ContentsSum, ContentsSummer};
use super::{BLOCK_BITS, BLOCK_BYTES, blocks_of};
use crate::direct::{PageBuffer, UncachedWriter};
use crate::tree::{ChunkMap, ChunkRun, Placement};

/// Bytes of a buffer.
const BUFFER_BYTES: usize = 2 << 20;
/// Buffers in use.
const BUFFERS: usize = 4;
/// Contents are read in pieces of this many bytes, which is also the smallest chunk of a file with holes. A divisor
/// of every chunk and of the buffer.
const PIECE_BYTES: usize = 1 << CHUNK_BITS_MIN;
/// Smallest chunk: 64 KiB. With smaller ones most ELF files would have holes and lose their single extent.
const CHUNK_BITS_MIN: u8 = 16;
/// A chunk map has at most this many entries, so larger files get larger chunks.
const CHUNKS_MAX: u64 = 4096;
/// Blocks have addresses of 32 bits, the highest one means a hole.
const BLOCKS_MAX: u64 = 0xFFFF_FFF0;

/// What went wrong with a content; the caller knows whose.
#[derive(Debug)]
pub(super) enum ContentError {
    /// The reader ended early.
    Short {
        /// Bytes that came.
        got: u64,
    },
    /// The reader failed.
    Read(io::Error),
    /// The image file could not be written.
    Write(io::Error),
    /// The image has no more block addresses.
    Full,
}

struct Buffer {
    bytes: PageBuffer,
    filled: usize,
    /// Where in the image it begins: a multiple of the block size.
    offset: u64,
    /// Whether it could be written.
    written: io::Result<()>,
}

/// The data region while it grows.
pub(super) struct DataWriter {
    buffer: Buffer,
    free_buffers: Receiver<Buffer>,
    full_buffers: SyncSender<Buffer>,
    writer: JoinHandle<UncachedWriter>,
    summer: ContentsSummer,
}

impl std::fmt::Debug for DataWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataWriter").field("position", &self.position()).finish_non_exhaustive()
    }
}

impl DataWriter {
    /// Starts the region after the superblock's block of an empty file.
    pub(super) fn new(image: File) -> io::Result<Self> {
        let (full_buffers, to_write) = sync_channel(BUFFERS);
        let (written, free_buffers) = sync_channel(BUFFERS);
        for _ in 1..BUFFERS {
            written.send(Buffer::new()?).expect("there is room for all, and its receiver is here");
        }
        let image = UncachedWriter::new(image);
        let work = move || write_buffers(image, &to_write, &written);
        let writer = std::thread::Builder::new().name("image-writer".to_owned()).spawn(work)?;
        let buffer = Buffer { offset: BLOCK_BYTES, ..Buffer::new()? };
        Ok(Self { buffer, free_buffers, full_buffers, writer, summer: ContentsSummer::default() })
    }

    /// Appends a content of `size` bytes.
    pub(super) fn append(&mut self, size: u64, content: &mut dyn Read) -> Result<Placement, ContentError> {
        let first = self.position() / BLOCK_BYTES;
        if first + blocks_of(size) > BLOCKS_MAX {
            return Err(ContentError::Full);
        }
        let mut file = FileInProgress::new(size);
        let piece_max = u64::try_from(PIECE_BYTES).expect("64 KiB");
        while file.read < size {
            let wanted = usize::try_from(piece_max.min(size - file.read)).expect("at most 64 KiB");
            if BUFFER_BYTES - self.buffer.filled < wanted {
                self.flush().map_err(ContentError::Write)?;
            }
            let start = self.buffer.filled;
            let got = read_full(content, &mut self.buffer.bytes[start..start + wanted]).map_err(ContentError::Read)?;
            file.read += u64::try_from(got).expect("at most 64 KiB");
            if got < wanted {
                return Err(ContentError::Short { got: file.read });
            }
            if file.may_have_holes && is_zero(&self.buffer.bytes[start..start + wanted]) {
                file.zeros_pending += wanted;
            } else {
                if file.zeros_pending > 0 {
                    self.insert_zeros(file.zeros_pending, wanted)?;
                }
                self.buffer.filled += wanted;
                file.chunk_stored = true;
                file.zeros_pending = 0;
            }
            if file.end_of_chunk() {
                let pending = file.zeros_pending;
                if file.close_chunk() && pending > 0 {
                    self.insert_zeros(pending, 0)?;
                }
            }
        }
        self.pad().map_err(ContentError::Write)?;
        Ok(file.into_placement(u32::try_from(first).map_err(|_| ContentError::Full)?))
    }

    /// Zeros of a stored chunk become bytes of the image. `piece` bytes at the buffer's
    /// end, read but not yet filled in, move behind them.
    fn insert_zeros(&mut self, zeros: usize, piece: usize) -> Result<(), ContentError> {
        let held = self.buffer.bytes[self.buffer.filled..self.buffer.filled + piece].to_vec();
        let mut rest = zeros;
        while rest > 0 {
            if self.buffer.filled == BUFFER_BYTES {
                self.flush().map_err(ContentError::Write)?;
            }
            let length = rest.min(BUFFER_BYTES - self.buffer.filled);
            let start = self.buffer.filled;
            self.buffer.bytes[start..start + length].fill(0);
            self.buffer.filled += length;
            rest -= length;
        }
        if BUFFER_BYTES - self.buffer.filled < piece {
            self.flush().map_err(ContentError::Write)?;
        }
        let start = self.buffer.filled;
        self.buffer.bytes[start..start + piece].copy_from_slice(&held);
        Ok(())
    }

    fn position(&self) -> u64 {
        self.buffer.offset + u64::try_from(self.buffer.filled).expect("at most 2 MiB")
    }

    /// Fills the last block with zeros.
    fn pad(&mut self) -> io::Result<()> {
        let block = usize::try_from(BLOCK_BYTES).expect("4096");
        let filled = self.buffer.filled;
        let padded = filled.next_multiple_of(block);
        self.buffer.bytes[filled..padded].fill(0);
        self.buffer.filled = padded;
        if padded == BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Has the buffer written, and goes on with an empty one. The error may be that of a buffer before it.
    fn flush(&mut self) -> io::Result<()> {
        self.summer.update(&self.buffer.bytes[..self.buffer.filled]);
        let mut next = self.free_buffers.recv().expect("its thread gives every buffer back");
        std::mem::replace(&mut next.written, Ok(()))?;
        (next.offset, next.filled) = (self.position(), 0);
        let full = std::mem::replace(&mut self.buffer, next);
        self.full_buffers.send(full).expect("the writer ends when this sender is dropped, not before");
        Ok(())
    }

    /// Ends the region. Gives the image, the region's end, and the sum of its bytes.
    pub(super) fn finish(mut self) -> io::Result<(File, u64, ContentsSum)> {
        self.flush()?;
        let end = self.position();
        let Self { full_buffers, free_buffers, writer, summer, .. } = self;
        drop(full_buffers);
        while let Ok(buffer) = free_buffers.recv() {
            buffer.written?;
        }
        match writer.join() {
            Ok(image) => Ok((image.into_file()?, end, summer.sum())),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Buffer {
    fn new() -> io::Result<Self> {
        Ok(Self { bytes: PageBuffer::new(BUFFER_BYTES)?, filled: 0, offset: 0, written: Ok(()) })
    }
}

/// What is known of a file while it streams by.
struct FileInProgress {
    size: u64,
    read: u64,
    chunk_bits: u8,
    may_have_holes: bool,
    /// Zeros of the current chunk that were read and not stored.
    zeros_pending: usize,
    /// The current chunk has bytes that are stored.
    chunk_stored: bool,
    chunk: u32,
    runs: Vec<ChunkRun>,
}

impl FileInProgress {
    fn new(size: u64) -> Self {
        let chunk_bits = chunk_bits(size);
        Self {
            size,
            read: 0,
            chunk_bits,
            may_have_holes: size > 1 << CHUNK_BITS_MIN,
            zeros_pending: 0,
            chunk_stored: false,
            chunk: 0,
            runs: Vec::new(),
        }
    }

    fn end_of_chunk(&self) -> bool {
        self.read == self.size || self.read.trailing_zeros() >= u32::from(self.chunk_bits)
    }

    /// Ends the current chunk; whether it is stored.
    fn close_chunk(&mut self) -> bool {
        let stored = self.chunk_stored || !self.may_have_holes;
        if stored {
            match self.runs.last_mut() {
                Some(run) if run.start + run.count == self.chunk => run.count += 1,
                _ => self.runs.push(ChunkRun { start: self.chunk, count: 1 }),
            }
        }
        self.chunk += 1;
        self.chunk_stored = false;
        self.zeros_pending = 0;
        stored
    }

    fn into_placement(self, first: u32) -> Placement {
        if self.size == 0 {
            return Placement::EMPTY;
        }
        match self.runs.as_slice() {
            [ChunkRun { start: 0, count }] if *count == self.chunk => Placement::Blocks { first },
            runs => {
                let first = if runs.is_empty() { 0 } else { first };
                Placement::Chunks(Box::new(ChunkMap { first, chunk_bits: self.chunk_bits, stored: self.runs }))
            }
        }
    }
}

/// Size of a file's chunks, a function of the file's size alone, so that equal contents have equal maps.
pub(super) fn chunk_bits(size: u64) -> u8 {
    let mut bits = CHUNK_BITS_MIN;
    while size.div_ceil(1 << bits) > CHUNKS_MAX {
        bits += 1;
    }
    bits.max(BLOCK_BITS)
}

fn is_zero(bytes: &[u8]) -> bool {
    // The first bytes tell nearly always; the rest is compared as fast as memory is read.
    bytes.first() == Some(&0) && bytes.chunks(4096).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

/// Fills `buffer` as far as the reader reaches; how many bytes came.
fn read_full(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match reader.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

/// The writer's thread: ends when whoever fills buffers drops its sender. After one that could not be written the others
/// are tried all the same; who gets it back stops filling them.
fn write_buffers(mut image: UncachedWriter, full: &Receiver<Buffer>, written: &SyncSender<Buffer>) -> UncachedWriter {
    for mut buffer in full {
        buffer.written = image.write_at(&buffer.bytes, buffer.filled, buffer.offset);
        if written.send(buffer).is_err() {
            break;
        }
    }
    image
}
