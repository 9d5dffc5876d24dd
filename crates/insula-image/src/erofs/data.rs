//! The data region of an image in the making: contents stream in, blocks and digests come out.
//!
//! ```text
//!  reader ──▶ buffer of 1 MiB: files at block boundaries ──▶ written past the cache ──▶ hasher (thread)
//!                    ▲                                                                     │
//!                    └──────────── emptied buffers, digests of the files in them ──────────┘
//! ```
//!
//! Hashing takes about as long as reading and writing together, so it has a thread of its own. The number of buffers
//! bounds both the memory and how far the hasher lags behind. The bytes go straight to the disk: in the page cache they
//! would take as many fresh pages as the image is large, wait there for the flush, and be dropped unread.

use std::fs::File;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use insula_model::Sha256Digest;
use sha2::{Digest, Sha256};

use super::{BLOCK_BITS, BLOCK_BYTES, blocks_of};
use crate::direct::{AlignedBuffer, UncachedWriter};
use crate::tree::{ChunkMap, ChunkRun, InodeIndex, Placement};

/// Bytes of a buffer.
const BUFFER_BYTES: usize = 1 << 20;
/// Buffers in use.
const BUFFERS: usize = 4;
/// Contents are read in pieces of this many bytes, which is also the smallest chunk of a file with holes. A divisor
/// of every chunk and of the buffer.
const PIECE_BYTES: usize = 1 << CHUNK_BITS_MIN;
/// Smallest chunk: 64 KiB. With smaller ones most ELF files would have holes and lose their single extent.
const CHUNK_BITS_MIN: u8 = 16;
/// A chunk map has at most this many entries, so larger files get larger chunks.
const CHUNKS_MAX: u64 = 4096;
/// A buffer with more zeros than this goes to the hasher though it is not full.
const ZEROS_MAX: usize = 16 << 20;
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

/// Digest of a file, for the inode that the writer named.
pub(super) type FileDigest = (InodeIndex, Sha256Digest);

enum Segment {
    /// The next `usize` bytes at this offset of the buffer belong to the current file.
    Bytes { offset: usize, length: usize },
    /// So many zeros of the current file are not in the buffer.
    Zeros(usize),
    /// The current file ends.
    End(InodeIndex),
}

struct Buffer {
    bytes: AlignedBuffer,
    filled: usize,
    segments: Vec<Segment>,
    digests: Vec<FileDigest>,
}

/// The data region while it grows.
pub(super) struct DataWriter {
    image: UncachedWriter,
    /// Offset in the image of the buffer's beginning: always a multiple of the block size.
    offset: u64,
    buffer: Buffer,
    free_buffers: Receiver<Buffer>,
    hasher: Option<(SyncSender<Buffer>, JoinHandle<()>)>,
    digests: Vec<FileDigest>,
}

impl std::fmt::Debug for DataWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataWriter").field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl DataWriter {
    /// Starts the region after the superblock's block of an empty file.
    pub(super) fn new(image: File) -> io::Result<Self> {
        let (to_hasher, full_buffers) = sync_channel::<Buffer>(BUFFERS);
        let (to_writer, free_buffers) = sync_channel::<Buffer>(BUFFERS);
        let thread = std::thread::Builder::new()
            .name("image-hasher".to_owned())
            .spawn(move || hash_buffers(&full_buffers, &to_writer))?;
        let mut writer = Self {
            image: UncachedWriter::new(image),
            offset: BLOCK_BYTES,
            buffer: Buffer::new(),
            free_buffers,
            hasher: Some((to_hasher, thread)),
            digests: Vec::new(),
        };
        // The first of the others are hashed at once, empty, and come back as free ones.
        for _ in 1..BUFFERS {
            writer.send(Buffer::new());
        }
        Ok(writer)
    }

    fn send(&mut self, buffer: Buffer) {
        if let Some((to_hasher, _)) = &self.hasher {
            to_hasher.send(buffer).expect("the hasher ends when this sender is dropped, not before");
        }
    }

    /// Digests that are ready.
    pub(super) fn take_digests(&mut self) -> std::vec::Drain<'_, FileDigest> {
        self.digests.drain(..)
    }

    /// Appends a content of `size` bytes; its digest comes later, for `inode`.
    pub(super) fn append(
        &mut self,
        inode: InodeIndex,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<Placement, ContentError> {
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
                if self.buffer.push_zeros(wanted) > ZEROS_MAX {
                    self.flush().map_err(ContentError::Write)?;
                }
            } else {
                if file.zeros_pending > 0 {
                    self.insert_zeros(file.zeros_pending, wanted)?;
                }
                let start = self.buffer.filled;
                self.buffer.filled += wanted;
                self.buffer.push_bytes(start, wanted);
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
        self.buffer.segments.push(Segment::End(inode));
        Ok(file.into_placement(u32::try_from(first).map_err(|_| ContentError::Full)?))
    }

    /// Zeros of a stored chunk, already told to the hasher, become bytes of the image. `piece` bytes at the buffer's
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
        self.offset + u64::try_from(self.buffer.filled).expect("at most 1 MiB")
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

    fn flush(&mut self) -> io::Result<()> {
        let filled = self.buffer.filled;
        self.image.write_at(&self.buffer.bytes, filled, self.offset)?;
        self.offset += u64::try_from(filled).expect("at most 1 MiB");
        let mut next = self.free_buffers.recv().expect("the hasher gives every buffer back");
        self.digests.append(&mut next.digests);
        std::mem::swap(&mut self.buffer, &mut next);
        self.send(next);
        Ok(())
    }

    /// Ends the region. Gives the image, the region's end, and the digests not taken yet.
    pub(super) fn finish(mut self) -> io::Result<(File, u64, Vec<FileDigest>)> {
        self.flush()?;
        let (to_hasher, thread) = self.hasher.take().expect("taken only here");
        drop(to_hasher);
        while let Ok(mut buffer) = self.free_buffers.recv() {
            self.digests.append(&mut buffer.digests);
        }
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
        Ok((self.image.into_file()?, self.offset, self.digests))
    }
}

impl Buffer {
    fn new() -> Self {
        Self { bytes: AlignedBuffer::new(BUFFER_BYTES), filled: 0, segments: Vec::new(), digests: Vec::new() }
    }

    /// Tells the hasher of bytes; those next to the ones before are one segment with them.
    fn push_bytes(&mut self, offset: usize, length: usize) {
        match self.segments.last_mut() {
            Some(Segment::Bytes { offset: before, length: so_far }) if *before + *so_far == offset => *so_far += length,
            _ => self.segments.push(Segment::Bytes { offset, length }),
        }
    }

    /// Tells the hasher of zeros that are not stored here; how many there are now in a row.
    fn push_zeros(&mut self, count: usize) -> usize {
        if let Some(Segment::Zeros(so_far)) = self.segments.last_mut() {
            *so_far += count;
            return *so_far;
        }
        self.segments.push(Segment::Zeros(count));
        count
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

/// The hasher's thread: ends when the writer drops its sender.
fn hash_buffers(full_buffers: &Receiver<Buffer>, to_writer: &SyncSender<Buffer>) {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut hash = Sha256::new();
    for mut buffer in full_buffers {
        for segment in buffer.segments.drain(..) {
            match segment {
                Segment::Bytes { offset, length } => hash.update(&buffer.bytes[offset..offset + length]),
                Segment::Zeros(mut count) => {
                    while count > 0 {
                        let piece = count.min(ZEROS.len());
                        hash.update(&ZEROS[..piece]);
                        count -= piece;
                    }
                }
                Segment::End(inode) => {
                    buffer.digests.push((inode, Sha256Digest(hash.finalize_reset().into())));
                }
            }
        }
        buffer.filled = 0;
        if to_writer.send(buffer).is_err() {
            return;
        }
    }
}
