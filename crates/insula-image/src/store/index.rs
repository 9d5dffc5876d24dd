//! What the store knows without reading a disk: every version's configuration, mount plan and stage, and who needs it.
//!
//! Readers take a lock for the time of a look-up, never while anything is read, written or hashed; so no long import
//! keeps a start of a container waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use insula_model::{ImageConfig, ImageId, ImageName, ImageVersion, MountPlan, Sha256Digest};
use jiff::Timestamp;

use super::incoming::BeginError;
use super::medium::FileState;
use super::stage::StageRecord;
use crate::manifest::{ImageFile, Manifest};
use crate::signature::SignatureStatus;

/// What an image version is; never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// Its name and version.
    pub id: ImageId,
    /// SHA-256 of its manifest: the image's digest.
    pub digest: Sha256Digest,
    /// Digest of its content, whatever order it was written in.
    pub tree_digest: Sha256Digest,
    /// Its file.
    pub file: ImageFile,
    /// Bytes of all files in it, holes counted.
    pub content_bytes: u64,
    /// Number of entries in it.
    pub entries: usize,
    /// How to run it.
    pub config: ImageConfig,
    /// Which of its places are writable.
    pub mount_plan: MountPlan,
}

impl ImageInfo {
    pub(super) fn of(manifest: &Manifest, digest: Sha256Digest) -> Self {
        Self {
            id: manifest.id.clone(),
            digest,
            tree_digest: manifest.tree.digest(),
            file: manifest.file,
            content_bytes: manifest.tree.content_bytes(),
            entries: manifest.tree.entries().len(),
            config: manifest.config.clone(),
            mount_plan: manifest.mount_plan.clone(),
        }
    }
}

/// An image version as people see it in lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// What it is.
    pub info: Arc<ImageInfo>,
    /// Where it stands on its way to production.
    pub stage: StageRecord,
    /// What its signatures for that stage come to.
    pub signature: SignatureStatus,
    /// Whether it is what its bare name means.
    pub is_default: bool,
    /// Set when its bytes are known to be wrong: nothing starts on it any more.
    pub damage: Option<DamageMark>,
}

/// That a version's bytes were found to be wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamageMark {
    /// When it was found.
    pub found: Option<Timestamp>,
    /// What was found.
    pub what: String,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) info: Arc<ImageInfo>,
    pub(super) stage: StageRecord,
    pub(super) signature: SignatureStatus,
    pub(super) damage: Option<DamageMark>,
    /// State of the file when all its bytes were last found right, in this boot.
    pub(super) checked: Option<FileState>,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) versions: BTreeMap<ImageId, Entry>,
    pub(super) defaults: BTreeMap<ImageName, ImageVersion>,
    /// Versions whose manifest or stage record cannot be read, with the reason.
    pub(super) unreadable: BTreeMap<ImageId, String>,
    /// Versions that operations are making.
    reserved: BTreeSet<ImageId>,
    holds: BTreeMap<ImageId, usize>,
}

impl Index {
    pub(super) fn is_default(&self, id: &ImageId) -> bool {
        self.defaults.get(&id.name) == Some(&id.version)
    }

    pub(super) fn default_of(&self, name: &ImageName) -> Option<ImageId> {
        let version = self.defaults.get(name)?.clone();
        Some(ImageId { name: name.clone(), version })
    }

    pub(super) fn is_held(&self, id: &ImageId) -> bool {
        self.holds.contains_key(id)
    }

    pub(super) fn held(&self) -> BTreeSet<ImageId> {
        self.holds.keys().cloned().collect()
    }

    pub(super) fn default_ids(&self) -> BTreeSet<ImageId> {
        let id =
            |(name, version): (&ImageName, &ImageVersion)| ImageId { name: name.clone(), version: version.clone() };
        self.defaults.iter().map(id).collect()
    }

    pub(super) fn versions_of(&self, name: &ImageName) -> Vec<ImageVersion> {
        self.versions.keys().filter(|id| id.name == *name).map(|id| id.version.clone()).collect()
    }

    pub(super) fn summary(&self, entry: &Entry) -> ImageSummary {
        ImageSummary {
            info: entry.info.clone(),
            stage: entry.stage.clone(),
            signature: entry.signature,
            is_default: self.is_default(&entry.info.id),
            damage: entry.damage.clone(),
        }
    }
}

/// The index, shared with the holds and operations that must give back what they took.
#[derive(Debug, Clone, Default)]
pub(super) struct SharedIndex(Arc<RwLock<Index>>);

impl SharedIndex {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Index> {
        // Nothing is half done between two statements under this lock, so a panic elsewhere leaves it usable.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the name of a version that is to be made.
    pub(super) fn reserve(&self, id: &ImageId) -> Result<(), BeginError> {
        let mut index = self.write();
        if index.versions.contains_key(id) || index.unreadable.contains_key(id) {
            return Err(BeginError::Exists { id: id.clone() });
        }
        if !index.reserved.insert(id.clone()) {
            return Err(BeginError::InFlight { id: id.clone() });
        }
        Ok(())
    }

    pub(super) fn release(&self, id: &ImageId) {
        self.write().reserved.remove(id);
    }

    /// Adds a published version, which becomes its name's default when it is the first.
    pub(super) fn insert(&self, entry: Entry) {
        let mut index = self.write();
        let id = entry.info.id.clone();
        index.versions.insert(id.clone(), entry);
        index.defaults.entry(id.name).or_insert(id.version);
    }

    /// Keeps a version from being removed, if it is there.
    pub(super) fn hold(&self, id: &ImageId) -> Option<Hold> {
        let mut index = self.write();
        let info = index.versions.get(id)?.info.clone();
        *index.holds.entry(id.clone()).or_default() += 1;
        Some(Hold { info, index: self.clone() })
    }
}

/// A version that is not removed as long as this lives. Whoever is about to record a reference to a version takes
/// one first, so that the collection of garbage in between cannot take the version away.
#[derive(Debug)]
pub struct Hold {
    info: Arc<ImageInfo>,
    index: SharedIndex,
}

impl Hold {
    /// What is held.
    #[must_use]
    pub fn info(&self) -> &Arc<ImageInfo> {
        &self.info
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut index = self.index.write();
        if let Some(count) = index.holds.get_mut(&self.info.id) {
            *count -= 1;
            if *count == 0 {
                index.holds.remove(&self.info.id);
            }
        }
    }
}
