//! Comparing every byte of a version with its manifest, and naming what differs.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use insula_model::{ImageId, Sha256Digest};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::medium::{FileState, StoreFileError, digest_from_medium, drop_cache, if_readable};
use super::{DAMAGED_FILE, IMAGE_FILE, MANIFEST_FILE, ReadManifestError, STAGE_FILE, Store, UnknownImageError};
use crate::erofs::{BLOCK_BYTES, ContentReader};
use crate::manifest::Manifest;
use crate::path::ImagePath;
use crate::progress::{Cancelled, Phase, Watch};
use crate::signature::SignatureStatus;
use crate::tree::InodeKind;

/// What comparing a version found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyReport {
    /// The version.
    pub id: ImageId,
    /// Digest of its manifest, as published.
    pub digest: Sha256Digest,
    /// Bytes of its file as its manifest says.
    pub bytes: u64,
    /// What is wrong; empty when all is well.
    pub damage: Vec<Damage>,
    /// What its signatures come to; no damage, for its bytes may be right all the same.
    pub signature: SignatureStatus,
}

/// A part of a version that differs from what was published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The manifest cannot be read or has another digest.
    #[error("manifest: {why}")]
    Manifest {
        /// What was found.
        why: String,
    },
    /// The stage record cannot be read.
    #[error("{STAGE_FILE}: {why}")]
    Stage {
        /// What was found.
        why: String,
    },
    /// The image file is missing or cannot be opened.
    #[error("{IMAGE_FILE}: {why}")]
    Unreadable {
        /// What was found.
        why: String,
    },
    /// The image file is shorter or longer.
    #[error("{IMAGE_FILE} has {found} bytes instead of {expected}")]
    Size {
        /// Bytes it has.
        found: u64,
        /// Bytes it should have.
        expected: u64,
    },
    /// The superblock or the metadata region: names, attributes, link targets.
    #[error("the metadata of {IMAGE_FILE}")]
    Metadata,
    /// The content of a file.
    #[error("file {path}")]
    File {
        /// The first of its paths.
        path: ImagePath,
    },
    /// Bytes that belong to no file: nothing reads them, but the file's digest is wrong.
    #[error("bytes of {IMAGE_FILE} between files")]
    Padding,
}

/// A version could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is not there.
    #[error(transparent)]
    Unknown(#[from] UnknownImageError),
    /// A file could not be read or a mark not written.
    #[error("verify image {id}")]
    File {
        /// The version.
        id: ImageId,
        /// Why not.
        #[source]
        source: StoreFileError,
    },
    /// It was asked to stop.
    #[error("verify image {id}")]
    Cancelled {
        /// The version.
        id: ImageId,
        /// That it was.
        #[source]
        source: Cancelled,
    },
}

impl Store {
    /// Reads every byte of a version from its disk and compares. When something differs, the files it is in are
    /// named and the version is marked; when nothing does, an earlier mark is taken away.
    ///
    /// # Errors
    ///
    /// When the version is not there, or the comparison could not be done. Damage is no error but the report.
    pub fn verify(&self, id: &ImageId, now: Timestamp, watch: Watch<'_>) -> Result<VerifyReport, VerifyError> {
        let hold = self.hold(id)?;
        let info = hold.info().clone();
        let failed = |source| VerifyError::File { id: id.clone(), source };
        let mut damage = Vec::new();
        let manifest = match self.manifest(id) {
            Ok(manifest) => Some(manifest),
            Err(ReadManifestError::Unknown(error)) => return Err(error.into()),
            Err(error) => {
                damage.push(Damage::Manifest { why: describe(&error) });
                None
            }
        };
        let signature = match self.signature_on_disk(&info) {
            Ok((_, status)) => status,
            Err(error) => {
                damage.push(Damage::Stage { why: error.source.to_string() });
                SignatureStatus::Missing
            }
        };
        let path = self.layout.version(id).join(IMAGE_FILE);
        match File::open(&path) {
            Err(error) => damage.push(Damage::Unreadable { why: error.to_string() }),
            Ok(file) => {
                let compared = compare_file(&file, &info.file, manifest.as_ref(), watch);
                damage.extend(compared.map_err(|source| match source.get_ref().and_then(|e| e.downcast_ref()) {
                    Some(&source @ Cancelled) => VerifyError::Cancelled { id: id.clone(), source },
                    None => failed(StoreFileError::on("read", &path)(source)),
                })?);
                if damage.is_empty() {
                    let state = FileState::of(&file).map_err(StoreFileError::on("stat", &path)).map_err(failed)?;
                    self.clear_mark(id, state).map_err(failed)?;
                }
            }
        }
        if let Some(first) = damage.first() {
            let rest = damage.len() - 1;
            let what = if rest == 0 { first.to_string() } else { format!("{first} and {rest} more") };
            self.mark_damaged(id, &what, now).map_err(failed)?;
        }
        Ok(VerifyReport { id: id.clone(), digest: info.digest, bytes: info.file.bytes, damage, signature })
    }

    fn clear_mark(&self, id: &ImageId, state: FileState) -> Result<(), StoreFileError> {
        let dir = self.layout.version(id);
        let mark = dir.join(DAMAGED_FILE);
        match std::fs::remove_file(&mark) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreFileError::on("remove", &mark)(error));
            }
            _ => {}
        }
        let state = self.record_check(&dir, state)?;
        if let Some(entry) = self.index.write().versions.get_mut(id) {
            entry.damage = None;
            entry.checked = Some(state);
        }
        Ok(())
    }
}

fn describe(error: &ReadManifestError) -> String {
    match error {
        ReadManifestError::Unknown(error) => error.to_string(),
        ReadManifestError::File { source, .. } => source.to_string(),
        ReadManifestError::Decode { source, .. } => source.to_string(),
        ReadManifestError::OtherDigest { .. } => format!("{MANIFEST_FILE} has another digest than was published"),
    }
}

/// One pass when all is well; a second one, file by file, names what is not.
fn compare_file(
    file: &File,
    expected: &crate::manifest::ImageFile,
    manifest: Option<&Manifest>,
    watch: Watch<'_>,
) -> io::Result<Vec<Damage>> {
    let found = file.metadata()?.len();
    let mut damage = Vec::new();
    if found == expected.bytes {
        if if_readable(digest_from_medium(file, found, watch))? == Some(expected.sha256) {
            return Ok(damage);
        }
    } else {
        damage.push(Damage::Size { found, expected: expected.bytes });
    }
    drop_cache(file)?;
    if if_readable(metadata_digest(file, expected))?.flatten() != Some(expected.metadata_sha256) {
        damage.push(Damage::Metadata);
    }
    let Some(manifest) = manifest else { return Ok(damage) };
    let mut done = 0;
    for item in manifest.tree.iter().filter(|item| item.linked_to.is_none()) {
        let InodeKind::File(content) = &item.inode.kind else { continue };
        watch.report(Phase::Verify, done, Some(manifest.tree.content_bytes())).map_err(io::Error::other)?;
        done += content.size;
        if if_readable(content_digest(file, content))?.flatten() != Some(content.sha256) {
            damage.push(Damage::File { path: item.path.clone() });
        }
    }
    if damage.is_empty() {
        damage.push(Damage::Padding);
    }
    Ok(damage)
}

/// Digest of the first block and the metadata region; none when the file ends before them.
pub(crate) fn metadata_digest(file: &File, expected: &crate::manifest::ImageFile) -> io::Result<Option<Sha256Digest>> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    for (start, end) in [(0, BLOCK_BYTES), (expected.metadata_offset, expected.bytes)] {
        let mut offset = start;
        while offset < end {
            let length = usize::try_from(end - offset).unwrap_or(usize::MAX).min(buffer.len());
            match file.read_exact_at(&mut buffer[..length], offset) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(error),
            }
            hash.update(&buffer[..length]);
            offset += u64::try_from(length).map_err(io::Error::other)?;
        }
    }
    Ok(Some(Sha256Digest(hash.finalize().into())))
}

/// Digest of a file of the image; none when the image ends before its bytes.
fn content_digest(file: &File, content: &crate::tree::FileContent) -> io::Result<Option<Sha256Digest>> {
    let mut reader = ContentReader::new(file, content);
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(Some(Sha256Digest(hash.finalize().into()))),
            Ok(length) => hash.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}
