//! Reads an image back without its manifest: the tree, with every digest taken from the bytes.
//!
//! It reads what [`super::ImageWriter`] writes, and refuses other EROFS images: no compression, no 32-byte inodes,
//! no shared attributes. Every number is checked before it is used, though images are verified before they get here.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use insula_model::Sha256Digest;
use sha2::{Digest, Sha256};

use super::checksum::crc32c;
use super::data::chunk_bits;
use super::layout::chunk_count;
use super::{
    BLOCK_BITS, BLOCK_BYTES, ContentReader, DIRENT_BYTES, FEATURE_CHUNKED_FILE, HOLE, INODE_BYTES, LAYOUT_CHUNKS,
    LAYOUT_INLINE, LAYOUT_PLAIN, MAGIC, SLOT_BYTES, SUPERBLOCK_OFFSET,
};
use crate::attributes::{Attributes, Device, Mtime, XATTR_NAME_SPACES, Xattrs};
use crate::path::ImagePath;
use crate::tree::{
    ChunkMap, ChunkRun, FileContent, ImageTree, Inode, InodeIndex, InodeKind, Placement, TreeEntry, TreeError, UNREAD,
};

/// An image open for reading.
#[derive(Debug)]
pub struct ErofsReader {
    image: File,
    metadata_offset: u64,
    bytes: u64,
    root_slot: u64,
}

/// An image could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadImageError {
    /// No EROFS superblock.
    #[error("it is not an EROFS image")]
    NotErofs,
    /// The superblock's checksum is wrong.
    #[error("the superblock is damaged: its checksum is wrong")]
    Checksum,
    /// EROFS, but not as we write it.
    #[error("{path} uses {feature}, which images do not")]
    Foreign {
        /// Where.
        path: ImagePath,
        /// What.
        feature: &'static str,
    },
    /// Something that cannot be.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// Where.
        path: ImagePath,
        /// What.
        what: &'static str,
    },
    /// More entries than the limit.
    #[error("more than {max} entries")]
    TooManyEntries {
        /// The limit.
        max: u32,
    },
    /// The entries are not those of a tree.
    #[error("the directories are damaged")]
    Tree(#[from] TreeError),
    /// The file could not be read, or ends too early.
    #[error("read the image file")]
    Read(#[from] io::Error),
}

/// An inode's fixed part, checked.
struct RawInode {
    /// Where it begins in the file.
    offset: u64,
    layout: u16,
    xattr_bytes: u64,
    format: u16,
    size: u64,
    /// Block, device number or chunk format.
    union: u32,
    attributes: Attributes,
}

const FORMAT_DIRECTORY: u16 = 0o040_000;

impl ErofsReader {
    /// Reads and checks the superblock.
    ///
    /// # Errors
    ///
    /// It is no EROFS image, or none of ours.
    pub fn open(image: File) -> Result<Self, ReadImageError> {
        let mut block = vec![0; usize::try_from(BLOCK_BYTES).expect("4096")];
        image.read_exact_at(&mut block, 0).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ReadImageError::NotErofs,
            _ => ReadImageError::Read(error),
        })?;
        let superblock = &mut block[SUPERBLOCK_OFFSET..];
        if u32_at(superblock, 0) != MAGIC {
            return Err(ReadImageError::NotErofs);
        }
        let checksum = u32_at(superblock, 4);
        superblock[4..8].fill(0);
        if crc32c(superblock) != checksum {
            return Err(ReadImageError::Checksum);
        }
        if superblock[12] != BLOCK_BITS || u32_at(superblock, 80) & !FEATURE_CHUNKED_FILE != 0 {
            return Err(foreign(&ImagePath::root(), "compression or another block size"));
        }
        let metadata_offset = u64::from(u32_at(superblock, 40)) * BLOCK_BYTES;
        let bytes = u64::from(u32_at(superblock, 36)) * BLOCK_BYTES;
        let root_slot = u64::from(u16_at(superblock, 14));
        Ok(Self { metadata_offset, bytes, root_slot, image })
    }

    /// The image's file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.image
    }

    /// Bytes of the image, by its superblock.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where the metadata region begins.
    #[must_use]
    pub fn metadata_offset(&self) -> u64 {
        self.metadata_offset
    }

    /// Reads all directories and inodes, and all contents for their digests.
    ///
    /// # Errors
    ///
    /// See [`ReadImageError`].
    pub fn tree(&self, entries_max: u32) -> Result<ImageTree, ReadImageError> {
        let slots = self.walk(entries_max)?;
        let mut entries = Vec::with_capacity(slots.len());
        let mut inodes = Vec::new();
        let mut by_slot: HashMap<u64, InodeIndex> = HashMap::new();
        for (path, slot) in slots {
            let next = InodeIndex(u32::try_from(inodes.len()).map_err(|_| damaged(&path, "too many inodes"))?);
            let index = *by_slot.entry(slot).or_insert(next);
            if index == next {
                inodes.push(self.inode(&path, slot)?);
            }
            entries.push(TreeEntry { path, inode: index });
        }
        Ok(ImageTree::from_parts(entries, inodes)?)
    }

    /// Every path with its inode's slot, sorted by path.
    fn walk(&self, entries_max: u32) -> Result<Vec<(ImagePath, u64)>, ReadImageError> {
        let max = usize::try_from(entries_max).expect("usize has at least 32 bits");
        let mut found = vec![(ImagePath::root(), self.root_slot)];
        let mut next = 0;
        while next < found.len() {
            let (path, slot) = found[next].clone();
            next += 1;
            let raw = self.raw_inode(&path, slot)?;
            if raw.format != FORMAT_DIRECTORY {
                continue;
            }
            self.read_directory(&path, &raw, |name, slot| {
                if found.len() >= max {
                    return Err(ReadImageError::TooManyEntries { max: entries_max });
                }
                let below = path.join(name).map_err(|_| damaged(&path, "a name that cannot be"))?;
                if below.parent().as_ref() != Some(&path) || below.name() != name {
                    return Err(damaged(&path, "a name that cannot be"));
                }
                found.push((below, slot));
                Ok(())
            })?;
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Calls back with every entry but `.` and `..`.
    fn read_directory(
        &self,
        path: &ImagePath,
        raw: &RawInode,
        mut entry: impl FnMut(&[u8], u64) -> Result<(), ReadImageError>,
    ) -> Result<(), ReadImageError> {
        let mut offset = 0;
        while offset < raw.size {
            let length = (raw.size - offset).min(BLOCK_BYTES);
            let block = self.read_body(path, raw, offset, length)?;
            offset += length;
            if block.len() < DIRENT_BYTES {
                return Err(damaged(path, "a directory block too short for an entry"));
            }
            let count = usize::from(u16_at(&block, 8)) / DIRENT_BYTES;
            if count == 0 || count * DIRENT_BYTES > block.len() {
                return Err(damaged(path, "a directory block with a wrong number of entries"));
            }
            for index in 0..count {
                let start = usize::from(u16_at(&block, index * DIRENT_BYTES + 8));
                let end = if index + 1 < count {
                    usize::from(u16_at(&block, (index + 1) * DIRENT_BYTES + 8))
                } else {
                    block.len()
                };
                let name = block.get(start..end).ok_or_else(|| damaged(path, "a name outside its block"))?;
                let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                if !matches!(name, b"." | b"..") {
                    entry(name, u64_at(&block, index * DIRENT_BYTES))?;
                }
            }
        }
        Ok(())
    }

    /// Bytes of a directory or link target.
    fn read_body(&self, path: &ImagePath, raw: &RawInode, offset: u64, length: u64) -> Result<Vec<u8>, ReadImageError> {
        let whole = raw.size / BLOCK_BYTES * BLOCK_BYTES;
        let start = match raw.layout {
            LAYOUT_INLINE if offset >= whole => raw.offset + INODE_BYTES + raw.xattr_bytes + (offset - whole),
            LAYOUT_INLINE | LAYOUT_PLAIN => u64::from(raw.union) * BLOCK_BYTES + offset,
            _ => return Err(foreign(path, "chunks for a directory or link")),
        };
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| damaged(path, "a body too long"))?];
        self.image.read_exact_at(&mut bytes, start)?;
        Ok(bytes)
    }

    fn raw_inode(&self, path: &ImagePath, slot: u64) -> Result<RawInode, ReadImageError> {
        let offset = slot.checked_mul(SLOT_BYTES).and_then(|bytes| bytes.checked_add(self.metadata_offset));
        let offset = offset.filter(|offset| *offset < self.bytes).ok_or_else(|| damaged(path, "an inode outside"))?;
        let mut bytes = [0; 64];
        self.image.read_exact_at(&mut bytes, offset)?;
        let format = u16_at(&bytes, 0);
        if format & 1 == 0 {
            return Err(foreign(path, "a short inode"));
        }
        let xattr_bytes = match u16_at(&bytes, 2) {
            0 => 0,
            words => 12 + 4 * (u64::from(words) - 1),
        };
        let mode = u16_at(&bytes, 4);
        let seconds = i64::from_le_bytes(u64_at(&bytes, 32).to_le_bytes());
        let xattrs = self.read_xattrs(path, offset + INODE_BYTES, xattr_bytes)?;
        Ok(RawInode {
            offset,
            layout: (format >> 1) & 7,
            xattr_bytes,
            format: mode & !Attributes::MODE_BITS,
            size: u64_at(&bytes, 8),
            union: u32_at(&bytes, 16),
            attributes: Attributes {
                mode: mode & Attributes::MODE_BITS,
                uid: u32_at(&bytes, 24),
                gid: u32_at(&bytes, 28),
                mtime: Mtime { seconds, nanoseconds: u32_at(&bytes, 40) },
                xattrs,
            },
        })
    }

    fn read_xattrs(&self, path: &ImagePath, offset: u64, length: u64) -> Result<Xattrs, ReadImageError> {
        let mut xattrs = Xattrs::default();
        if length == 0 {
            return Ok(xattrs);
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| damaged(path, "attributes too long"))?];
        self.image.read_exact_at(&mut bytes, offset)?;
        if bytes[4] != 0 {
            return Err(foreign(path, "shared attributes"));
        }
        let mut rest = &bytes[12..];
        while rest.len() >= 4 {
            let (name_length, index) = (usize::from(rest[0]), rest[1]);
            let value_length = usize::from(u16_at(rest, 2));
            let outside = || damaged(path, "an attribute outside its inode");
            let suffix = rest.get(4..4 + name_length).ok_or_else(outside)?;
            let value = rest.get(4 + name_length..4 + name_length + value_length).ok_or_else(outside)?;
            let (prefix, _) = XATTR_NAME_SPACES
                .iter()
                .find(|(_, known)| *known == index)
                .ok_or_else(|| foreign(path, "an unknown attribute name space"))?;
            xattrs
                .insert(&[prefix, suffix].concat(), value)
                .map_err(|_| damaged(path, "an attribute that cannot be"))?;
            rest = rest.get((4 + name_length + value_length).next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(xattrs)
    }

    fn inode(&self, path: &ImagePath, slot: u64) -> Result<Inode, ReadImageError> {
        let raw = self.raw_inode(path, slot)?;
        let kind = match raw.format {
            FORMAT_DIRECTORY => InodeKind::Directory,
            0o100_000 => InodeKind::File(self.content(path, &raw)?),
            0o120_000 if (1..=4095).contains(&raw.size) => {
                InodeKind::Symlink(self.read_body(path, &raw, 0, raw.size)?.into())
            }
            0o020_000 => InodeKind::CharDevice(Device::decode(raw.union)),
            0o060_000 => InodeKind::BlockDevice(Device::decode(raw.union)),
            0o010_000 => InodeKind::Fifo,
            0o140_000 => InodeKind::Socket,
            _ => return Err(damaged(path, "an inode of no kind")),
        };
        Ok(Inode { attributes: raw.attributes, kind })
    }

    fn content(&self, path: &ImagePath, raw: &RawInode) -> Result<FileContent, ReadImageError> {
        let placement = match raw.layout {
            LAYOUT_PLAIN if raw.size == 0 => Placement::EMPTY,
            LAYOUT_PLAIN => Placement::Blocks { first: raw.union },
            LAYOUT_CHUNKS => Placement::Chunks(Box::new(self.chunk_map(path, raw)?)),
            _ => return Err(foreign(path, "inline or compressed content")),
        };
        let mut content = FileContent { size: raw.size, sha256: UNREAD, placement };
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        let mut reader = ContentReader::new(&self.image, &content);
        loop {
            match reader.read(&mut buffer)? {
                0 => break,
                count => hash.update(&buffer[..count]),
            }
        }
        content.sha256 = Sha256Digest(hash.finalize().into());
        Ok(content)
    }

    fn chunk_map(&self, path: &ImagePath, raw: &RawInode) -> Result<ChunkMap, ReadImageError> {
        let bits = chunk_bits(raw.size);
        if raw.union != u32::from(bits - BLOCK_BITS) {
            return Err(foreign(path, "chunks of another size"));
        }
        let count = u32::try_from(chunk_count(raw.size, bits)).map_err(|_| damaged(path, "too many chunks"))?;
        let mut bytes = vec![0; 4 * usize::try_from(count).expect("usize has at least 32 bits")];
        self.image.read_exact_at(&mut bytes, raw.offset + INODE_BYTES + raw.xattr_bytes)?;
        let mut map = ChunkMap { first: 0, chunk_bits: bits, stored: Vec::new() };
        let mut next = None;
        for (chunk, address) in (0..count).zip(bytes.chunks_exact(4).map(|bytes| u32_at(bytes, 0))) {
            if address == HOLE {
                continue;
            }
            if *next.get_or_insert(u64::from(address)) != u64::from(address) {
                return Err(foreign(path, "chunks that are not one after another"));
            }
            if map.stored.is_empty() {
                map.first = address;
            }
            next = Some(u64::from(address) + (1 << (bits - BLOCK_BITS)));
            match map.stored.last_mut() {
                Some(run) if run.start + run.count == chunk => run.count += 1,
                _ => map.stored.push(ChunkRun { start: chunk, count: 1 }),
            }
        }
        Ok(map)
    }
}

fn damaged(path: &ImagePath, what: &'static str) -> ReadImageError {
    ReadImageError::Damaged { path: path.clone(), what }
}

fn foreign(path: &ImagePath, feature: &'static str) -> ReadImageError {
    ReadImageError::Foreign { path: path.clone(), feature }
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from(u16_at(bytes, offset)) | u32::from(u16_at(bytes, offset + 2)) << 16
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from(u32_at(bytes, offset)) | u64::from(u32_at(bytes, offset + 4)) << 32
}
