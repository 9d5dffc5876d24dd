//! Writes an image in one pass over entries and contents that stream by.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use insula_model::Sha256Digest;

use super::contents_sum::ContentsSum;
use super::data::{ContentError, DataWriter};
use super::metadata::{WriteMetadataError, write_metadata};
use crate::draft::{Draft, DraftError, NewEntry, NewKind, PresentKind, TreeLimits};
use crate::manifest::ImageFile;
use crate::path::ImagePath;
use crate::tree::{ImageTree, UNREAD};

/// An image in the making. Entries come in any order; contents lie in the image in the order of arrival, so equal
/// images need equal order, and all our own sources give entries sorted by path bytes.
///
/// Dropped before [`ImageWriter::finish`], it leaves a file that is no image (its superblock is missing).
#[derive(Debug)]
pub struct ImageWriter {
    draft: Draft,
    data: DataWriter,
    /// A content broke off, in a block that the next one would share.
    is_broken: bool,
}

/// A finished image. Its disk may not have all of it yet, and nobody has read it as a whole: who publishes it does.
#[derive(Debug)]
pub struct WrittenImage {
    /// The image.
    pub file: File,
    /// What is in it, without the digests of the contents.
    pub tree: ImageTree,
    /// Bytes of the file.
    pub bytes: u64,
    /// Where the metadata region begins; it ends with the file.
    pub metadata_offset: u64,
    /// SHA-256 of the first block and, behind it, the metadata region.
    pub metadata_sha256: Sha256Digest,
    /// Sum of what lies between.
    pub contents: ContentsSum,
}

impl WrittenImage {
    /// The tree with the digests of its contents, which are read for it.
    #[cfg(test)]
    pub(crate) fn hashed_tree(&self) -> ImageTree {
        super::ErofsReader::open(self.file.try_clone().unwrap()).unwrap().tree(200_000).unwrap()
    }

    /// What a manifest says about the file.
    #[must_use]
    pub fn image_file(&self) -> ImageFile {
        ImageFile {
            bytes: self.bytes,
            sha256: UNREAD,
            metadata_offset: self.metadata_offset,
            metadata_sha256: self.metadata_sha256,
        }
    }
}

/// An entry could not be added. After [`AddEntryCause::Refused`] others can be; after all else the image is lost.
#[derive(Debug, thiserror::Error)]
#[error("entry {path}")]
pub struct AddEntryError {
    /// The entry.
    pub path: ImagePath,
    /// Why.
    #[source]
    pub cause: AddEntryCause,
}

/// Why an entry could not be added.
#[derive(Debug, thiserror::Error)]
pub enum AddEntryCause {
    /// It breaks a rule of trees or a limit.
    #[error(transparent)]
    Refused(#[from] DraftError),
    /// Its content ended early.
    #[error("content ends after {got} of {declared} bytes")]
    ShortContent {
        /// Bytes that came.
        got: u64,
        /// Bytes that were declared.
        declared: u64,
    },
    /// Its content could not be read.
    #[error("read content")]
    Read(#[source] io::Error),
    /// The image file could not be written: most often a full disk.
    #[error("write to the image file")]
    Write(#[source] io::Error),
    /// The image would be above 16 TiB.
    #[error("the image is above 16 TiB")]
    ImageFull,
}

/// An image could not be begun or finished.
#[derive(Debug, thiserror::Error)]
pub enum WriteImageError {
    /// An entry breaks a rule that only the whole tree shows, such as a hard link to nothing.
    #[error("entry {path}")]
    Tree {
        /// The entry.
        path: ImagePath,
        /// Why.
        #[source]
        cause: DraftError,
    },
    /// The content of an entry had broken off.
    #[error("the content of an entry broke off")]
    Broken,
    /// The metadata could not be written.
    #[error("finish the image file")]
    Metadata(#[from] WriteMetadataError),
    /// The image file could not be written: most often a full disk.
    #[error("write to the image file")]
    Write(#[source] io::Error),
}

impl ImageWriter {
    /// Begins an image in `out`, an empty file open for reading and writing. Starts a thread that writes.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started.
    pub fn new(out: File, limits: TreeLimits) -> Result<Self, WriteImageError> {
        let data = DataWriter::new(out).map_err(WriteImageError::Write)?;
        Ok(Self { draft: Draft::new(limits), data, is_broken: false })
    }

    /// What is at a path so far: for sources that let earlier entries win over later ones, as merged layers do.
    #[must_use]
    pub fn kind(&self, path: &ImagePath) -> Option<PresentKind> {
        self.draft.kind(path)
    }

    /// Adds an entry, or replaces the one of that path. For files exactly as many bytes as declared are read of
    /// `content`; for all others it is not touched. Missing directories above it are made, 0755 and of root.
    ///
    /// # Errors
    ///
    /// Names the entry; see the variants of [`AddEntryCause`].
    pub fn add(&mut self, path: ImagePath, entry: NewEntry, content: &mut dyn Read) -> Result<(), AddEntryError> {
        let named = path.clone();
        self.add_inner(path, entry, content).map_err(|cause| AddEntryError { path: named, cause })
    }

    fn add_inner(&mut self, path: ImagePath, entry: NewEntry, content: &mut dyn Read) -> Result<(), AddEntryCause> {
        let size = if let NewKind::File { size } = entry.kind { Some(size) } else { None };
        let inode = self.draft.add(path, entry)?;
        let Some(declared) = size else { return Ok(()) };
        let appended = self.data.append(declared, content);
        self.is_broken |= appended.is_err();
        let placement = appended.map_err(|error| match error {
            ContentError::Short { got } => AddEntryCause::ShortContent { got, declared },
            ContentError::Read(error) => AddEntryCause::Read(error),
            ContentError::Write(error) => AddEntryCause::Write(error),
            ContentError::Full => AddEntryCause::ImageFull,
        })?;
        self.draft.set_placement(inode, placement);
        Ok(())
    }

    /// Writes metadata and superblock.
    ///
    /// # Errors
    ///
    /// See the variants of [`WriteImageError`].
    pub fn finish(self) -> Result<WrittenImage, WriteImageError> {
        if self.is_broken {
            return Err(WriteImageError::Broken);
        }
        let (file, metadata_offset, contents) = self.data.finish().map_err(WriteImageError::Write)?;
        let tree = self.draft.into_tree().map_err(|(path, cause)| WriteImageError::Tree { path, cause })?;
        let mut region = AtOffset { file: &file, offset: metadata_offset };
        let metadata = write_metadata(&tree, metadata_offset, &mut region)?;
        file.write_all_at(&metadata.first_block, 0).map_err(WriteImageError::Write)?;
        let bytes = metadata_offset + metadata.region_bytes;
        Ok(WrittenImage { file, tree, bytes, metadata_offset, metadata_sha256: metadata.digest, contents })
    }
}

/// Writes to a file from an offset on, without moving its cursor.
struct AtOffset<'file> {
    file: &'file File,
    offset: u64,
}

impl Write for AtOffset<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write_at(bytes, self.offset)?;
        self.offset += u64::try_from(written).map_err(io::Error::other)?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
