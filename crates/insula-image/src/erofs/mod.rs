//! Image files: EROFS, the read-only file system of Linux, uncompressed, as we write it.
//!
//! ```text
//!  block 0      1 ..............................  metadata offset ..................... end
//! ┌───────────┬─────────────────────────────────┬──────────────────────┬──────────────┐
//! │ superblock│ file contents, each from a block │ inodes, link targets, │ full blocks  │
//! │ (at 1024) │ boundary, padded, in the order   │ xattrs, chunk maps,   │ of dirs and  │
//! │           │ of arrival                       │ tails of directories  │ long links   │
//! └───────────┴─────────────────────────────────┴──────────────────────┴──────────────┘
//!                one pass: streamed                written last, then block 0
//! ```
//!
//! The superblock and the metadata are a pure function of the tree with its placements ([`write_metadata`]), so a
//! damaged one is made anew from the manifest. Only features of Linux 5.15 are used; `docs/formats/image.md` draws
//! the bytes.
//!
//! - [`ImageWriter`] writes an image in one pass over contents that stream by.
//! - [`ContentReader`] reads a file's bytes by the placement that its tree records.
//! - [`ErofsReader`] reads an image without its manifest: the oracle of tests, and what rescues a lost manifest.

mod checksum;
mod content;
mod contents_sum;
mod data;
mod layout;
mod metadata;
mod reader;
mod stream_digest;
#[cfg(test)]
mod tests;
mod writer;

pub use content::ContentReader;
pub(crate) use content::contents_in_order;
pub use contents_sum::ContentsSum;
pub use metadata::{MetadataDigests, WriteMetadataError, write_metadata};
pub use reader::{ErofsReader, ReadImageError};
pub(crate) use stream_digest::{ContentDigest, StreamDigests};
pub use writer::{AddEntryCause, AddEntryError, ImageWriter, WriteImageError, WrittenImage};

/// Bytes of a block.
pub const BLOCK_BYTES: u64 = 4096;
/// Binary logarithm of [`BLOCK_BYTES`].
const BLOCK_BITS: u8 = 12;
/// Where the superblock begins.
const SUPERBLOCK_OFFSET: usize = 1024;
/// First bytes of the superblock.
const MAGIC: u32 = 0xE0F5_E1E2;
/// `feature_compat`: the superblock has a checksum (1), inodes have modification times (2).
const FEATURE_COMPAT: u32 = 1 | 2;
/// `feature_incompat` when a file has holes: chunk-based files.
const FEATURE_CHUNKED_FILE: u32 = 4;
/// Bytes of an extended inode.
const INODE_BYTES: u64 = 64;
/// Inodes are numbered in slots of this size from the metadata's beginning.
const SLOT_BYTES: u64 = 32;
/// Bytes of a directory entry without its name.
const DIRENT_BYTES: usize = 12;
/// Block address of a hole in a chunk map.
const HOLE: u32 = u32::MAX;

/// Data layouts of an inode.
const LAYOUT_PLAIN: u16 = 0;
const LAYOUT_INLINE: u16 = 2;
const LAYOUT_CHUNKS: u16 = 4;

/// Blocks that hold `bytes` bytes.
const fn blocks_of(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES)
}
