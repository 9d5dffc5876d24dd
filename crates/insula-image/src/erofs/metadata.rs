//! The bytes of superblock, inodes and directories: a pure function of a tree with its placements.

use std::io::{self, Write};

use insula_model::Sha256Digest;
use sha2::{Digest, Sha256};

use super::checksum::crc32c;
use super::layout::{Dirent, Layout, chunk_count, for_each_block, xattr_bytes};
use super::{
    BLOCK_BITS, BLOCK_BYTES, DIRENT_BYTES, FEATURE_CHUNKED_FILE, FEATURE_COMPAT, HOLE, INODE_BYTES, LAYOUT_CHUNKS,
    LAYOUT_INLINE, LAYOUT_PLAIN, MAGIC, SLOT_BYTES, SUPERBLOCK_OFFSET,
};
use crate::attributes::{Xattrs, split_name};
use crate::tree::{ChunkMap, ImageTree, Inode, InodeKind, Placement};

/// What comes of writing the metadata.
#[derive(Debug, Clone)]
pub struct MetadataDigests {
    /// The image's first block, which holds the superblock: 4096 bytes, to be written by the caller.
    pub first_block: Vec<u8>,
    /// Digest of the first block and, behind it, the metadata region.
    pub digest: Sha256Digest,
    /// Bytes of the metadata region.
    pub region_bytes: u64,
}

/// Writing the metadata failed.
#[derive(Debug, thiserror::Error)]
pub enum WriteMetadataError {
    /// The metadata's offset is not a block of at least 1, or the image has more than 2^32 blocks.
    #[error("metadata at {offset} is outside the blocks that an image can have")]
    Offset {
        /// Where it was to begin.
        offset: u64,
    },
    /// The output failed.
    #[error("write metadata")]
    Write(#[source] io::Error),
}

/// Writes the metadata region of an image of `tree` to `out`, for the offset `metadata_offset` of the image.
///
/// # Errors
///
/// See the variants of [`WriteMetadataError`].
pub fn write_metadata(
    tree: &ImageTree,
    metadata_offset: u64,
    out: &mut dyn Write,
) -> Result<MetadataDigests, WriteMetadataError> {
    let layout = Layout::new(tree);
    let meta_block = u32::try_from(metadata_offset / BLOCK_BYTES)
        .ok()
        .filter(|block| *block > 0 && metadata_offset.is_multiple_of(BLOCK_BYTES));
    let end = u32::try_from(metadata_offset / BLOCK_BYTES + layout.blocks());
    let (Some(meta_block), Ok(end)) = (meta_block, end) else {
        return Err(WriteMetadataError::Offset { offset: metadata_offset });
    };
    let first_block = first_block(tree, &layout, meta_block, end);
    let mut hash = Sha256::new();
    hash.update(&first_block);
    let body_start = meta_block + u32::try_from(layout.inode_blocks).expect("less than `end`");
    let mut region = Region { out, hash, position: 0, buffer: Vec::with_capacity(REGION_BUFFER_BYTES * 2) };
    region.write_inodes(tree, &layout, body_start).map_err(WriteMetadataError::Write)?;
    region.write_bodies(tree, &layout).map_err(WriteMetadataError::Write)?;
    region.flush().map_err(WriteMetadataError::Write)?;
    let digest = Sha256Digest(region.hash.finalize().into());
    Ok(MetadataDigests { first_block, digest, region_bytes: layout.blocks() * BLOCK_BYTES })
}

fn first_block(tree: &ImageTree, layout: &Layout, meta_block: u32, end: u32) -> Vec<u8> {
    let has_chunks = tree.inodes().iter().any(
        |inode| matches!(&inode.kind, InodeKind::File(content) if matches!(content.placement, Placement::Chunks(_))),
    );
    let root_slot = u16::try_from(layout.places[0].slot).expect("the root is in the first or second block");
    let inodes = u64::try_from(tree.inodes().len()).expect("inodes are counted in 32 bits");
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&tree.shape_digest().0[..16]);
    // Version 8 of RFC 9562: an UUID by our own rule.
    uuid[6] = (uuid[6] & 0x0f) | 0x80;
    uuid[8] = (uuid[8] & 0x3f) | 0x80;

    let mut block = vec![0; usize::try_from(BLOCK_BYTES).expect("4096")];
    let mut put = |offset: usize, bytes: &[u8]| {
        let start = SUPERBLOCK_OFFSET + offset;
        block[start..start + bytes.len()].copy_from_slice(bytes);
    };
    put(0, &MAGIC.to_le_bytes());
    put(8, &FEATURE_COMPAT.to_le_bytes());
    put(12, &[BLOCK_BITS]);
    put(14, &root_slot.to_le_bytes());
    put(16, &inodes.to_le_bytes());
    put(36, &end.to_le_bytes());
    put(40, &meta_block.to_le_bytes());
    put(48, &uuid);
    put(80, &if has_chunks { FEATURE_CHUNKED_FILE } else { 0 }.to_le_bytes());
    let checksum = crc32c(&block[SUPERBLOCK_OFFSET..]);
    block[SUPERBLOCK_OFFSET + 4..SUPERBLOCK_OFFSET + 8].copy_from_slice(&checksum.to_le_bytes());
    block
}

const REGION_BUFFER_BYTES: usize = 256 << 10;

/// The metadata region on its way out, hashed as it goes.
struct Region<'out> {
    out: &'out mut dyn Write,
    hash: Sha256,
    /// Bytes before the buffer.
    position: u64,
    buffer: Vec<u8>,
}

impl Region<'_> {
    fn position(&self) -> u64 {
        self.position + u64::try_from(self.buffer.len()).expect("a buffer")
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hash.update(&self.buffer);
        self.out.write_all(&self.buffer)?;
        self.position = self.position();
        self.buffer.clear();
        Ok(())
    }

    fn flush_if_full(&mut self) -> io::Result<()> {
        if self.buffer.len() >= REGION_BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Zeros up to `position`, which is at most a block away.
    fn pad_to(&mut self, position: u64) {
        let gap = usize::try_from(position - self.position()).expect("at most a block");
        self.buffer.resize(self.buffer.len() + gap, 0);
    }

    fn write_inodes(&mut self, tree: &ImageTree, layout: &Layout, body_start: u32) -> io::Result<()> {
        for (index, inode) in tree.inodes().iter().enumerate() {
            let place = layout.places[index];
            self.pad_to(u64::from(place.slot) * SLOT_BYTES);
            self.push_inode(tree, layout, index, body_start);
            push_xattrs(&mut self.buffer, &inode.attributes.xattrs);
            match &inode.kind {
                InodeKind::Directory if place.is_inline => {
                    let dirents = layout.dirents(tree, index);
                    let mut tail: &[Dirent<'_>] = &[];
                    for_each_block(&dirents, |block, _| tail = block);
                    push_dirents(&mut self.buffer, tail, layout, tree);
                }
                InodeKind::Symlink(target) if place.is_inline => self.buffer.extend_from_slice(target),
                InodeKind::File(content) => {
                    if let Placement::Chunks(map) = &content.placement {
                        push_chunk_map(&mut self.buffer, content.size, map);
                    }
                }
                _ => {}
            }
            self.flush_if_full()?;
        }
        self.pad_to(layout.inode_blocks * BLOCK_BYTES);
        Ok(())
    }

    fn write_bodies(&mut self, tree: &ImageTree, layout: &Layout) -> io::Result<()> {
        for (index, inode) in tree.inodes().iter().enumerate() {
            let place = layout.places[index];
            if place.body_blocks == 0 {
                continue;
            }
            match &inode.kind {
                InodeKind::Directory => {
                    let dirents = layout.dirents(tree, index);
                    let mut blocks = Vec::new();
                    for_each_block(&dirents, |block, _| blocks.push(block));
                    for block in blocks.iter().take(usize::try_from(place.body_blocks).expect("fits")) {
                        push_dirents(&mut self.buffer, block, layout, tree);
                        self.pad_to(self.position().next_multiple_of(BLOCK_BYTES));
                        self.flush_if_full()?;
                    }
                }
                InodeKind::Symlink(target) => {
                    self.buffer.extend_from_slice(target);
                    self.pad_to(self.position().next_multiple_of(BLOCK_BYTES));
                    self.flush_if_full()?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn push_inode(&mut self, tree: &ImageTree, layout: &Layout, index: usize, body_start: u32) {
        let inode = &tree.inodes()[index];
        let place = layout.places[index];
        let body = || (layout.body_bytes(tree, index), body_start + place.body_block);
        let inline_layout = if place.is_inline { LAYOUT_INLINE } else { LAYOUT_PLAIN };
        let (data_layout, (size, union)) = match &inode.kind {
            InodeKind::Directory | InodeKind::Symlink(_) => (inline_layout, body()),
            InodeKind::File(content) => match &content.placement {
                Placement::Blocks { first } => (LAYOUT_PLAIN, (content.size, *first)),
                Placement::Chunks(map) => (LAYOUT_CHUNKS, (content.size, u32::from(map.chunk_bits - BLOCK_BITS))),
            },
            InodeKind::CharDevice(device) | InodeKind::BlockDevice(device) => (LAYOUT_PLAIN, (0, device.encode())),
            InodeKind::Fifo | InodeKind::Socket => (LAYOUT_PLAIN, (0, 0)),
        };
        let attributes = &inode.attributes;
        let xattr_words = match xattr_bytes(&attributes.xattrs) {
            0 => 0,
            bytes => u16::try_from((bytes - 12) / 4 + 1).expect("xattrs of an inode are at most 128 KiB"),
        };
        let number = u32::try_from(index + 1).expect("inodes are counted in 32 bits");
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&(1 | (data_layout << 1)).to_le_bytes());
        self.buffer.extend_from_slice(&xattr_words.to_le_bytes());
        self.buffer.extend_from_slice(&mode_of(inode).to_le_bytes());
        self.buffer.extend_from_slice(&[0; 2]);
        self.buffer.extend_from_slice(&size.to_le_bytes());
        self.buffer.extend_from_slice(&union.to_le_bytes());
        self.buffer.extend_from_slice(&number.to_le_bytes());
        self.buffer.extend_from_slice(&attributes.uid.to_le_bytes());
        self.buffer.extend_from_slice(&attributes.gid.to_le_bytes());
        self.buffer.extend_from_slice(&attributes.mtime.seconds.to_le_bytes());
        self.buffer.extend_from_slice(&attributes.mtime.nanoseconds.to_le_bytes());
        self.buffer.extend_from_slice(&layout.links[index].to_le_bytes());
        self.buffer.extend_from_slice(&[0; 16]);
        debug_assert_eq!(self.buffer.len() - start, usize::try_from(INODE_BYTES).expect("64"));
    }
}

/// `st_mode` of an inode.
fn mode_of(inode: &Inode) -> u16 {
    let format = match inode.kind {
        InodeKind::Directory => 0o040_000,
        InodeKind::File(_) => 0o100_000,
        InodeKind::Symlink(_) => 0o120_000,
        InodeKind::CharDevice(_) => 0o020_000,
        InodeKind::BlockDevice(_) => 0o060_000,
        InodeKind::Fifo => 0o010_000,
        InodeKind::Socket => 0o140_000,
    };
    format | inode.attributes.mode
}

/// Kind of an inode as directory entries have it: `FT_*` of the kernel.
fn file_type(inode: &Inode) -> u8 {
    match inode.kind {
        InodeKind::File(_) => 1,
        InodeKind::Directory => 2,
        InodeKind::CharDevice(_) => 3,
        InodeKind::BlockDevice(_) => 4,
        InodeKind::Fifo => 5,
        InodeKind::Socket => 6,
        InodeKind::Symlink(_) => 7,
    }
}

fn push_xattrs(buffer: &mut Vec<u8>, xattrs: &Xattrs) {
    if xattrs.is_empty() {
        return;
    }
    let start = buffer.len();
    buffer.extend_from_slice(&[0; 12]);
    for (name, value) in xattrs.iter() {
        let (index, suffix) = split_name(name).expect("attributes were checked when they were put in");
        buffer.push(u8::try_from(suffix.len()).expect("names have at most 255 bytes"));
        buffer.push(index);
        buffer.extend_from_slice(&u16::try_from(value.len()).expect("values have at most 65535 bytes").to_le_bytes());
        buffer.extend_from_slice(suffix);
        buffer.extend_from_slice(value);
        let length = (buffer.len() - start).next_multiple_of(4);
        buffer.resize(start + length, 0);
    }
}

fn push_chunk_map(buffer: &mut Vec<u8>, size: u64, map: &ChunkMap) {
    let count = u32::try_from(chunk_count(size, map.chunk_bits)).expect("a chunk map is short");
    let chunk_blocks = 1u64 << (map.chunk_bits - BLOCK_BITS);
    let mut block = u64::from(map.first);
    let mut runs = map.stored.iter().peekable();
    for chunk in 0..count {
        while runs.next_if(|run| run.start + run.count <= chunk).is_some() {}
        let is_stored = runs.peek().is_some_and(|run| run.start <= chunk);
        let address = if is_stored { u32::try_from(block).expect("the writer bounds blocks") } else { HOLE };
        buffer.extend_from_slice(&address.to_le_bytes());
        if is_stored {
            block += chunk_blocks;
        }
    }
}

/// One block's worth of directory entries: fixed parts, then names.
fn push_dirents(buffer: &mut Vec<u8>, dirents: &[Dirent<'_>], layout: &Layout, tree: &ImageTree) {
    let mut name_offset = DIRENT_BYTES * dirents.len();
    for dirent in dirents {
        let index = usize::try_from(dirent.inode).expect("usize has at least 32 bits");
        buffer.extend_from_slice(&u64::from(layout.places[index].slot).to_le_bytes());
        buffer.extend_from_slice(&u16::try_from(name_offset).expect("below 4096").to_le_bytes());
        buffer.push(file_type(&tree.inodes()[index]));
        buffer.push(0);
        name_offset += dirent.name.len();
    }
    for dirent in dirents {
        buffer.extend_from_slice(dirent.name);
    }
}
