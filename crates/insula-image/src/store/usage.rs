//! What versions cost: disk, and memory of the page cache.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use insula_model::{Bytes, ImageId};

use super::{IMAGE_FILE, Store, UnknownImageError};

/// What one version costs. Containers add nothing to it: they share its one mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionUsage {
    /// The version.
    pub id: ImageId,
    /// Bytes of all files in it.
    pub content: Bytes,
    /// Bytes of disk of its directory.
    pub disk: Bytes,
    /// Bytes of its file in the page cache; none where the kernel cannot tell (before Linux 6.5). The pages of its
    /// mount come on top and are known to whoever mounted it.
    pub cached: Option<Bytes>,
}

impl Store {
    /// What a version costs.
    ///
    /// # Errors
    ///
    /// When it is not there.
    pub fn usage(&self, id: &ImageId) -> Result<VersionUsage, UnknownImageError> {
        let hold = self.hold(id)?;
        let dir = self.layout.version(id);
        let file = File::open(dir.join(IMAGE_FILE)).ok();
        let cached = file.and_then(|file| insula_kernel::page_cache::cached_bytes(&file).ok());
        Ok(VersionUsage {
            id: id.clone(),
            content: Bytes(hold.info().content_bytes),
            disk: disk_bytes(&dir),
            cached: cached.map(Bytes),
        })
    }
}

/// Bytes of disk of the files in a version's directory, which has no directories in it. What cannot be read counts
/// nothing.
pub(super) fn disk_bytes(dir: &Path) -> Bytes {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    Bytes(files.filter_map(|file| file.metadata().ok()).map(|stat| stat.blocks() * 512).sum())
}
