//! Work in progress: a directory per operation, from which a finished image is published by one rename.
//!
//! ```text
//!  .incoming/<number>/image/     becomes <name>/<version>/
//!                     work/      whatever else the operation needs; gone with it
//! ```
//!
//! Whatever is left when an operation ends, by error, panic or power cut, is removed: by the operation's end, or
//! when the store is opened again.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use insula_model::{ImageId, Sha256Digest};
use jiff::Timestamp;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::index::{Entry, ImageInfo, SharedIndex};
use super::medium::{
    FileState, Immutability, StoreFileError, have_checked, make_immutable, remove_tree, replace_file, sync_dir,
    write_file,
};
use super::settle::{Settled, settle};
use super::stage::StageRecord;
use super::{DEFAULT_FILE, IMAGE_FILE, MANIFEST_FILE, MANIFEST_JSON_FILE, STAGE_FILE, Store};
use crate::manifest::{Manifest, UnpublishedImage, digest_of};
use crate::progress::{Cancelled, Watch};

/// Directory of an operation that is published.
pub(super) const IMAGE_DIR: &str = "image";
/// Directory of an operation for everything else.
const WORK_DIR: &str = "work";

/// A version in the making: its name is taken, its directory is there. Dropped, both are given back.
#[derive(Debug)]
pub struct Incoming {
    id: ImageId,
    dir: PathBuf,
    index: SharedIndex,
}

/// A version could not be begun.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// Versions never change.
    #[error("image {id} exists already; images never change, so choose another version")]
    Exists {
        /// The version.
        id: ImageId,
    },
    /// Another operation makes it just now.
    #[error("image {id} is being made by another operation; wait for that one")]
    InFlight {
        /// The version.
        id: ImageId,
    },
    /// Its directory could not be made.
    #[error("begin image {id}")]
    File {
        /// The version.
        id: ImageId,
        /// Why not.
        #[source]
        source: StoreFileError,
    },
}

/// A version could not be published; nothing of it is in the store.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Somebody else published it meanwhile.
    #[error("image {id} exists already; images never change, so choose another version")]
    Exists {
        /// The version.
        id: ImageId,
    },
    /// The disk gave back other bytes than were written.
    #[error("image {id}: {file} reads back with other bytes than were written; check the disk")]
    ReadBack {
        /// The version.
        id: ImageId,
        /// The file.
        file: &'static str,
    },
    /// A file could not be used: most often a full disk.
    #[error("publish image {id}")]
    File {
        /// The version.
        id: ImageId,
        /// Why not.
        #[source]
        source: StoreFileError,
    },
    /// It was asked to stop.
    #[error("publish image {id}")]
    Cancelled {
        /// The version.
        id: ImageId,
        /// That it was.
        #[source]
        source: Cancelled,
    },
}

/// A published version.
#[derive(Debug, Clone)]
pub struct Published {
    /// What it is.
    pub info: Arc<ImageInfo>,
    /// What is less than it should be, for people.
    pub warnings: Vec<PublishWarning>,
}

/// What is less than it should be about a published version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishWarning {
    /// Root can change the image file while it is mounted.
    #[error("the store's file system has no immutable flag, or it was denied: root could change the image file")]
    NotImmutable,
}

impl Incoming {
    /// The version in the making.
    #[must_use]
    pub fn id(&self) -> &ImageId {
        &self.id
    }

    /// Makes the empty image file, for [`crate::erofs::ImageWriter`].
    ///
    /// # Errors
    ///
    /// When the file cannot be made, or was made already.
    pub fn create_image_file(&self) -> Result<File, StoreFileError> {
        create_new(&self.image_dir().join(IMAGE_FILE))
    }

    /// Makes an empty file beside the image, removed when the operation ends.
    pub(crate) fn create_work_file(&self, name: &'static str) -> Result<File, StoreFileError> {
        create_new(&self.work_dir().join(name))
    }

    /// The directory for everything that is not the image.
    pub(crate) fn work_dir(&self) -> PathBuf {
        self.dir.join(WORK_DIR)
    }

    fn image_dir(&self) -> PathBuf {
        self.dir.join(IMAGE_DIR)
    }
}

fn create_new(path: &Path) -> Result<File, StoreFileError> {
    let options = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    options.map_err(StoreFileError::on("create", path))
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.index.release(&self.id);
        // What cannot be removed now is removed when the store is opened again, and nothing refers to it.
        let _ = remove_tree(&self.dir);
    }
}

pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().mode(0o700).create(path)
}

impl Store {
    /// Begins a version: takes its name and makes its directory.
    ///
    /// # Errors
    ///
    /// See the variants of [`BeginError`].
    pub fn begin(&self, id: &ImageId) -> Result<Incoming, BeginError> {
        self.index.reserve(id)?;
        let number = self.next_operation.fetch_add(1, Ordering::Relaxed);
        let incoming = Incoming {
            id: id.clone(),
            dir: self.layout.incoming().join(number.to_string()),
            index: self.index.clone(),
        };
        for dir in [incoming.dir.clone(), incoming.image_dir(), incoming.work_dir()] {
            let made = make_dir(&dir).map_err(StoreFileError::on("create directory", &dir));
            made.map_err(|source| BeginError::File { id: id.clone(), source })?;
        }
        Ok(incoming)
    }

    /// An empty file in a directory of its own, which the caller removes.
    pub(super) fn scratch_file(&self) -> Result<(PathBuf, File), StoreFileError> {
        let number = self.next_operation.fetch_add(1, Ordering::Relaxed);
        let dir = self.layout.incoming().join(format!("scratch-{number}"));
        make_dir(&dir).map_err(StoreFileError::on("create directory", &dir))?;
        let file = create_new(&dir.join("scratch"))?;
        Ok((dir, file))
    }

    /// Publishes a finished image, whose file is in `incoming`. The digests of the file and of its contents are found
    /// here; what the manifest says about them counts for nothing.
    ///
    /// Everything is flushed, read again from the disk and compared before the one rename that makes it visible.
    /// The first version of a name becomes its default.
    ///
    /// # Errors
    ///
    /// See the variants of [`PublishError`]. A version is in the store whole or not at all.
    pub fn publish(
        &self,
        incoming: Incoming,
        image: UnpublishedImage,
        now: Timestamp,
        watch: Watch<'_>,
    ) -> Result<Published, PublishError> {
        let id = incoming.id.clone();
        debug_assert_eq!(image.manifest.id, id, "the manifest names the version that was begun");
        let failed = |source| PublishError::File { id: id.clone(), source };
        let dir = incoming.image_dir();
        let sealed = seal_image_file(&dir, &image, watch)?;
        let mut manifest = image.manifest;
        manifest.file.sha256 = sealed.digests.sha256;
        for (inode, sha256) in sealed.digests.contents {
            manifest.tree.set_digest(inode, sha256);
        }
        let digest = write_manifest(&dir, &manifest).map_err(failed)?;
        let stage = self.signing.vouch(StageRecord::published(digest, now), &id);
        let path = dir.join(STAGE_FILE);
        write_file(&path, &stage.encode()).map_err(StoreFileError::on("write", &path)).map_err(failed)?;

        let path = dir.join(MANIFEST_FILE);
        let read_back = std::fs::read(&path).map_err(StoreFileError::on("read", &path)).map_err(failed)?;
        if digest_of(&read_back) != digest {
            return Err(PublishError::ReadBack { id, file: MANIFEST_FILE });
        }
        let checked = self.record_check(&dir, sealed.state).map_err(failed)?;
        sync_dir(&dir).map_err(failed)?;

        let _changing = self.changing();
        self.move_into_place(&dir, &id)?;
        let info = Arc::new(ImageInfo::of(&manifest, digest));
        let signature = self.signing.judge(&stage, &info);
        self.index.insert(Entry { info: info.clone(), stage, signature, damage: None, checked: Some(checked) });
        let warnings = match sealed.immutability {
            Immutability::Immutable => Vec::new(),
            Immutability::Unavailable => vec![PublishWarning::NotImmutable],
        };
        Ok(Published { info, warnings })
    }

    fn move_into_place(&self, dir: &Path, id: &ImageId) -> Result<(), PublishError> {
        let failed = |source| PublishError::File { id: id.clone(), source };
        let name_dir = self.layout.image(&id.name);
        match make_dir(&name_dir) {
            Ok(()) => sync_dir(self.layout.root()).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(StoreFileError::on("create directory", &name_dir)(error))),
        }
        // Before the rename: a default that names nothing is mended when the store is opened, and the other order
        // would leave a version that is there although its operation failed.
        if self.index.read().default_of(&id.name).is_none() {
            self.write_default(id).map_err(failed)?;
        }
        let target = self.layout.version(id);
        match renameat_with(CWD, dir, CWD, &target, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(PublishError::Exists { id: id.clone() }),
            Err(error) => return Err(failed(StoreFileError::on("publish as", &target)(error.into()))),
        }
        sync_dir(&name_dir).map_err(failed)
    }

    pub(super) fn write_default(&self, id: &ImageId) -> Result<(), StoreFileError> {
        let line = format!("{}\n", id.version);
        replace_file(&self.layout.image(&id.name), DEFAULT_FILE, line.as_bytes())
    }
}

fn write_manifest(dir: &Path, manifest: &Manifest) -> Result<Sha256Digest, StoreFileError> {
    let encoded = manifest.encode();
    let path = dir.join(MANIFEST_FILE);
    write_file(&path, &encoded).map_err(StoreFileError::on("write", &path))?;
    let path = dir.join(MANIFEST_JSON_FILE);
    let json = serde_json::to_vec_pretty(&manifest.to_json()).map_err(io::Error::other);
    json.and_then(|json| write_file(&path, &json)).map_err(StoreFileError::on("write", &path))?;
    Ok(digest_of(&encoded))
}

/// An image file that nobody writes to any more.
struct Sealed {
    digests: Settled,
    state: FileState,
    immutability: Immutability,
}

/// Flushes the image file, compares what the disk holds with what was written, and closes it for writing.
fn seal_image_file(dir: &Path, image: &UnpublishedImage, watch: Watch<'_>) -> Result<Sealed, PublishError> {
    let Manifest { id, file: expected, .. } = &image.manifest;
    let path = dir.join(IMAGE_FILE);
    let failed = |action: &'static str| {
        let path = path.clone();
        let id = id.clone();
        move |source: io::Error| match source.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(&source @ Cancelled) => PublishError::Cancelled { id, source },
            None => PublishError::File { id, source: StoreFileError { action, path, source } },
        }
    };
    let differs = || PublishError::ReadBack { id: id.clone(), file: IMAGE_FILE };
    let file = File::open(&path).map_err(failed("open"))?;
    if file.metadata().map_err(failed("stat"))?.len() != expected.bytes {
        return Err(differs());
    }
    let digests = settle(&path, &file, image, watch).map_err(failed("read back"))?.ok_or_else(differs)?;
    file.set_permissions(Permissions::from_mode(0o400)).map_err(failed("set the mode of"))?;
    have_checked(&file).map_err(failed("enable fs-verity of"))?;
    let immutability = make_immutable(&file).map_err(failed("set the immutable flag of"))?;
    let state = FileState::of(&file).map_err(failed("stat"))?;
    Ok(Sealed { digests, state, immutability })
}
