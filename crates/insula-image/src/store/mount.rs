//! Giving an image's file to whoever mounts it: cheap when it was checked since the last boot, checked when not.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use insula_model::{Bytes, ImageId};
use jiff::Timestamp;
use minicbor::{Decoder, Encoder};

use super::medium::{
    FileState, StoreFileError, digest_from_medium, if_readable, read_bounded, replace_file, write_unflushed,
};
use super::{CHECKED_FILE, DAMAGED_FILE, DamageMark, IMAGE_FILE, Store, UnknownImageError};
use crate::progress::{Cancelled, Watch};
use crate::signature::SignatureRefusal;

/// An image's file, ready to be mounted.
#[derive(Debug)]
pub struct MountSource {
    /// Open for reading.
    pub fd: OwnedFd,
    /// Where it is, for kernels and messages that want a path.
    pub path: PathBuf,
    /// Its size.
    pub size: Bytes,
}

/// An image's file must not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum OpenForMountError {
    /// The version is not there.
    #[error(transparent)]
    Unknown(#[from] UnknownImageError),
    /// Its bytes are wrong.
    #[error("image {id} is damaged: {what}; remove and import it again")]
    Damaged {
        /// The version.
        id: ImageId,
        /// What was found.
        what: String,
    },
    /// Its signature does not do.
    #[error(transparent)]
    Signature(#[from] SignatureRefusal),
    /// A file of it could not be used.
    #[error("open image {id}")]
    File {
        /// The version.
        id: ImageId,
        /// Why not.
        #[source]
        source: StoreFileError,
    },
    /// It was asked to stop while all bytes were read.
    #[error("check image {id}")]
    Cancelled {
        /// The version.
        id: ImageId,
        /// That it was.
        #[source]
        source: Cancelled,
    },
}

impl Store {
    /// Opens an image's file to mount it, if its signature does.
    ///
    /// The first time after a boot, and whenever the file looks touched, all its bytes are read and compared (about
    /// a second per gigabyte); else size, inode, change time and immutable flag are, which takes microseconds.
    ///
    /// # Errors
    ///
    /// See the variants of [`OpenForMountError`]. A file found wrong is marked: nothing starts on it any more.
    pub fn open_for_mount(
        &self,
        id: &ImageId,
        now: Timestamp,
        watch: Watch<'_>,
    ) -> Result<MountSource, OpenForMountError> {
        let (known, info) = {
            let index = self.index.read();
            let entry = index.versions.get(id).ok_or_else(|| UnknownImageError { id: id.clone() })?;
            if let Some(damage) = &entry.damage {
                return Err(OpenForMountError::Damaged { id: id.clone(), what: damage.what.clone() });
            }
            (entry.checked.clone(), entry.info.clone())
        };
        let signature = self.signature_on_disk(&info);
        let signature = signature.map_err(|source| OpenForMountError::File { id: id.clone(), source })?;
        self.accept_signature(id, signature)?;
        let path = self.layout.version(id).join(IMAGE_FILE);
        let failed = |action| {
            let on = StoreFileError::on(action, &path);
            move |source| OpenForMountError::File { id: id.clone(), source: on(source) }
        };
        let file = File::open(&path).map_err(failed("open"))?;
        let state = FileState::of(&file).map_err(failed("stat"))?;
        let size = Bytes(state.bytes);
        if known.as_ref() != Some(&state) {
            if self.recorded_check(&self.layout.version(id)).as_ref() != Some(&state) {
                self.check_all_bytes(id, &file, now, watch)?;
            } else if let Some(entry) = self.index.write().versions.get_mut(id) {
                entry.checked = Some(state);
            }
        }
        Ok(MountSource { fd: file.into(), path, size })
    }

    fn check_all_bytes(
        &self,
        id: &ImageId,
        file: &File,
        now: Timestamp,
        watch: Watch<'_>,
    ) -> Result<(), OpenForMountError> {
        let expected = self.show(id)?.info.file;
        let dir = self.layout.version(id);
        let path = dir.join(IMAGE_FILE);
        // Before the bytes are read: whoever writes meanwhile makes the record one of another state.
        let state = FileState::of(file).map_err(|source| OpenForMountError::File {
            id: id.clone(),
            source: StoreFileError::on("stat", &path)(source),
        })?;
        let digest = if state.bytes == expected.bytes {
            let read = if_readable(digest_from_medium(file, state.bytes, watch));
            let read = read.map_err(|source| match source.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(&source @ Cancelled) => OpenForMountError::Cancelled { id: id.clone(), source },
                None => OpenForMountError::File { id: id.clone(), source: StoreFileError::on("read", &path)(source) },
            });
            read?
        } else {
            None
        };
        let failed = |source| OpenForMountError::File { id: id.clone(), source };
        if digest != Some(expected.sha256) {
            let what = format!("{IMAGE_FILE} has other bytes than were published");
            self.mark_damaged(id, &what, now).map_err(failed)?;
            return Err(OpenForMountError::Damaged { id: id.clone(), what });
        }
        let state = self.record_check(&dir, state).map_err(failed)?;
        if let Some(entry) = self.index.write().versions.get_mut(id) {
            entry.checked = Some(state);
        }
        Ok(())
    }

    /// Marks a version: nothing starts on it any more, and people see why.
    pub(super) fn mark_damaged(&self, id: &ImageId, what: &str, now: Timestamp) -> Result<(), StoreFileError> {
        replace_file(&self.layout.version(id), DAMAGED_FILE, format!("{now}: {what}\n").as_bytes())?;
        if let Some(entry) = self.index.write().versions.get_mut(id) {
            entry.damage = Some(DamageMark { found: Some(now), what: what.to_owned() });
            entry.checked = None;
        }
        Ok(())
    }

    /// Records the state of a file whose bytes were all found right. CBOR: `[boot, bytes, inode, ctime seconds,
    /// nanoseconds, immutable]`. It only spares work, and counts for one boot, so it is not flushed.
    pub(super) fn record_check(&self, dir: &Path, state: FileState) -> Result<FileState, StoreFileError> {
        let mut encoder = Encoder::new(Vec::new());
        let encoded = encoder
            .array(6)
            .and_then(|e| e.str(&self.boot))
            .and_then(|e| e.u64(state.bytes)?.u64(state.inode))
            .and_then(|e| e.i64(state.changed_s)?.i64(state.changed_ns)?.bool(state.immutable));
        encoded.expect("a vector takes every byte");
        let path = dir.join(CHECKED_FILE);
        write_unflushed(&path, encoder.writer()).map_err(StoreFileError::on("write", &path))?;
        Ok(state)
    }

    /// The record of a check, if there is one of this boot.
    fn recorded_check(&self, dir: &Path) -> Option<FileState> {
        let bytes = read_bounded(&dir.join(CHECKED_FILE), 256).ok()?;
        let mut decoder = Decoder::new(&bytes);
        if decoder.array().ok()? != Some(6) || decoder.str().ok()? != self.boot {
            return None;
        }
        Some(FileState {
            bytes: decoder.u64().ok()?,
            inode: decoder.u64().ok()?,
            changed_s: decoder.i64().ok()?,
            changed_ns: decoder.i64().ok()?,
            immutable: decoder.bool().ok()?,
        })
    }
}
