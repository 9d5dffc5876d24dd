//! What versions cost: disk, and memory of the page cache.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use insula_model::{Bytes, ImageId};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::medium::{StoreFileError, drop_cache};
use super::{IMAGE_FILE, Store, UnknownImageError};
use crate::tree::InodeKind;

/// What one version costs. Containers add nothing to it: they share its one mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionUsage {
    /// The version.
    pub id: ImageId,
    /// Bytes of all files in it.
    pub content: Bytes,
    /// Bytes of disk of its directory.
    pub disk: Bytes,
    /// Bytes of its file in the page cache; none where the kernel cannot tell (before Linux 6.5).
    pub cached: Option<Bytes>,
    /// Bytes of its files in the page cache of its mount, which come on top; none when the kernel cannot tell, or
    /// nobody showed the mount.
    pub mount_cached: Option<Bytes>,
}

impl Store {
    /// What a version costs. `mount` is the root of its mount. Every file of it is looked up there, which takes some
    /// ten microseconds and a kilobyte of the kernel's memory each, for as long as nobody needs that memory.
    ///
    /// # Errors
    ///
    /// When it is not there.
    pub fn usage(&self, id: &ImageId, mount: Option<BorrowedFd<'_>>) -> Result<VersionUsage, UnknownImageError> {
        let hold = self.hold(id)?;
        let dir = self.layout.version(id);
        let file = File::open(dir.join(IMAGE_FILE)).ok();
        let cached = file.and_then(|file| insula_kernel::page_cache::cached_bytes(&file).ok());
        Ok(VersionUsage {
            id: id.clone(),
            content: Bytes(hold.info().content_bytes),
            disk: disk_bytes(&dir),
            cached: cached.map(Bytes),
            mount_cached: mount.and_then(|mount| self.mount_cached(id, mount)),
        })
    }

    fn mount_cached(&self, id: &ImageId, mount: BorrowedFd<'_>) -> Option<Bytes> {
        let manifest = self.manifest(id).ok()?;
        let mut total = 0;
        for item in manifest.tree.iter().filter(|item| item.linked_to.is_none()) {
            let InodeKind::File(_) = item.inode.kind else { continue };
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOATIME;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let file = openat2(mount, item.path.as_bytes(), flags, Mode::empty(), resolve).ok()?;
            total += insula_kernel::page_cache::cached_bytes(&file).ok()?;
        }
        Some(Bytes(total))
    }

    /// Gives back the memory that holds pages of a version's file. Those of its mount stay.
    ///
    /// # Errors
    ///
    /// The file cannot be opened.
    pub fn drop_cached(&self, id: &ImageId) -> Result<(), StoreFileError> {
        let path = self.layout.version(id).join(IMAGE_FILE);
        let dropped = File::open(&path).and_then(|file| drop_cache(&file));
        dropped.map_err(StoreFileError::on("drop from memory", &path))
    }
}

/// Bytes of disk of the files in a version's directory, which has no directories in it. What cannot be read counts
/// nothing.
pub(super) fn disk_bytes(dir: &Path) -> Bytes {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    Bytes(files.filter_map(|file| file.metadata().ok()).map(|stat| stat.blocks() * 512).sum())
}
