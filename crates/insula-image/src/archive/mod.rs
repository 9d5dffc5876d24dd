//! Trees from outside: tar archives, compressed or not, and directories; and tar archives out of images.
//!
//! Nothing is ever unpacked: every entry goes from the archive into an [`ImageWriter`], so its name, kind and mode
//! are data and never touch a file system of the host.
//!
//! ```text
//!  archive ─▶ DecodedStream ─▶ TarReader ─▶ EntryFilter ─▶ ImageWriter ─▶ WrittenImage
//!  bytes      gzip, zstd,      names, kinds,  leaves out,     rules of trees
//!             expansion bound  attributes     changes
//!  directory ───────────────▶ walk ────────▲
//! ```

mod acl;
mod compression;
mod directory;
mod numbers;
mod pax;
mod read_ahead;
mod sparse;
mod tar_reader;
mod tar_writer;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Read;

use insula_model::Sha256Digest;

use crate::draft::{NewEntry, NewKind, TreeLimits};
use crate::erofs::{AddEntryError, ImageWriter, WriteImageError, WrittenImage};
use crate::path::ImagePath;

pub use compression::{Compression, DecodedStream, InputTotals};
pub use directory::{WalkCause, WalkError, WalkReport, walk_directory};
pub use tar_reader::{EntryContent, ReadArchiveCause, ReadArchiveError, TarEntry, TarReader};
pub use tar_writer::{TarReport, WriteTarError, write_tar};

/// Decides on every entry that comes from outside, and may change its attributes.
///
/// Where a directory is left out of a walk, everything beneath it is; entries of archives are asked one by one.
pub trait EntryFilter {
    /// What becomes of the entry.
    fn decide(&mut self, path: &ImagePath, entry: &mut NewEntry) -> Verdict;
}

impl<F: FnMut(&ImagePath, &mut NewEntry) -> Verdict> EntryFilter for F {
    fn decide(&mut self, path: &ImagePath, entry: &mut NewEntry) -> Verdict {
        self(path, entry)
    }
}

/// What becomes of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes into the image.
    Keep,
    /// It does not.
    LeaveOut,
    /// It goes into the image as a regular file with this content instead of its own.
    Replace(Vec<u8>),
}

/// The filter that keeps everything as it is.
#[derive(Debug, Clone, Copy)]
pub struct KeepAll;

impl EntryFilter for KeepAll {
    fn decide(&mut self, _: &ImagePath, _: &mut NewEntry) -> Verdict {
        Verdict::Keep
    }
}

/// Puts an entry into an image as the filter decides; whether it is in.
///
/// # Errors
///
/// As [`ImageWriter::add`].
pub fn add_filtered(
    writer: &mut ImageWriter,
    filter: &mut dyn EntryFilter,
    path: ImagePath,
    mut entry: NewEntry,
    content: &mut dyn Read,
) -> Result<bool, AddEntryError> {
    match filter.decide(&path, &mut entry) {
        Verdict::LeaveOut => return Ok(false),
        Verdict::Keep => writer.add(path, entry, content)?,
        Verdict::Replace(bytes) => {
            entry.kind = NewKind::File { size: u64::try_from(bytes.len()).expect("usize has at most 64 bits") };
            writer.add(path, entry, &mut bytes.as_slice())?;
        }
    }
    Ok(true)
}

/// An image made of an archive.
#[derive(Debug)]
pub struct ImportedArchive {
    /// The image.
    pub image: WrittenImage,
    /// Digest of the archive as it was handed in, to its last byte.
    pub archive_sha256: Sha256Digest,
    /// How it was compressed.
    pub compression: Compression,
    /// Extended attributes of name spaces that an image cannot hold: they are not in it.
    pub dropped_attributes: u64,
}

/// An archive could not be made an image. What was written so far is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The archive is at fault.
    #[error(transparent)]
    Archive(#[from] ReadArchiveError),
    /// An entry cannot be part of an image, or the disk is full.
    #[error(transparent)]
    Entry(#[from] AddEntryError),
    /// The whole cannot be an image, or the disk is full.
    #[error(transparent)]
    Image(#[from] WriteImageError),
}

/// Makes an image of a tar archive: plain, gzip or zstd, told apart by their first bytes. `out` is an empty file open
/// for reading and writing.
///
/// # Errors
///
/// See [`ImportError`]; every refusal names the entry.
pub fn import_tar(
    archive: impl Read,
    out: File,
    limits: &TreeLimits,
    filter: &mut dyn EntryFilter,
) -> Result<ImportedArchive, ImportError> {
    let stream = DecodedStream::open(archive, limits)?;
    let compression = stream.compression();
    let totals = stream.totals();
    let mut tar = TarReader::new(stream);
    let mut writer = ImageWriter::new(out, limits.clone())?;
    while let Some(TarEntry { path, entry }) = tar.next_entry()? {
        add_filtered(&mut writer, filter, path, entry, &mut tar.content())?;
    }
    let dropped_attributes = tar.dropped_attributes();
    drop(tar);
    let archive_sha256 = totals.sha256();
    Ok(ImportedArchive { image: writer.finish()?, archive_sha256, compression, dropped_attributes })
}
