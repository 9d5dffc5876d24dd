//! The image store of a node: named, immutable versions, each whole or not there.
//!
//! ```text
//!  <state>/images/
//!    .lock                             one program at a time
//!    <name>/.default                   the version that the bare name means
//!    <name>/<version>/root.erofs       0400 and immutable: the image
//!                     manifest.cbor    what it is; its SHA-256 is the image's digest
//!                     manifest.json    the same for people
//!                     stage            testing or production, the last test, signatures
//!                     checked          state of root.erofs when its bytes were last found right
//!                     damaged          only there when they were found wrong
//!    .incoming/<number>/               work in progress and rubbish: emptied when the store is opened
//! ```
//!
//! Names of images and versions begin with a letter or digit, so nothing of the store's own can be mistaken for one.
//! The program that opens the store owns it until it drops it; all methods take `&self` and block, and reading never
//! waits for writing. Times are passed in. `docs/formats/store.md` has the files' bytes.
//!
//! Where the kernel mounts what, and which containers use it, is not known here.

mod export;
mod import;
mod incoming;
mod index;
mod lock;
mod medium;
mod mount;
mod open;
mod remove;
mod scrub;
mod settle;
mod signing;
mod stage;
mod usage;
mod verify;

#[cfg(test)]
mod signing_tests;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod verity_tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

use insula_model::{ImageId, ImageName, ImageRef, ImageVersion};
use jiff::Timestamp;

pub use export::{ExportCause, ExportError, ExportFormat};
pub use import::{ImportCause, ImportError, ImportRequest, Imported};
pub use incoming::{BeginError, Incoming, PublishError, PublishWarning, Published};
pub use index::{DamageMark, Hold, ImageInfo, ImageSummary};
pub use medium::StoreFileError;
pub use mount::{MountSource, OpenForMountError};
pub use open::{OpenStoreError, StoreWarning};
pub use remove::{CollectError, Collected, RemoveCause, RemoveError};
pub use scrub::Scrubbed;
pub use signing::{SigningConfig, TrustedKey};
pub use stage::{CheckResult, DecodeStageError, PromoteRefusal, StageRecord, TestOutcome, TestReport};
pub use usage::VersionUsage;
pub(crate) use verify::metadata_digest;
pub use verify::{Damage, VerifyError, VerifyReport};

use crate::manifest::{DecodeManifestError, Manifest};
use crate::progress::Watch;
use crate::signature::SignatureRefusal;
use index::SharedIndex;
use lock::StoreLock;
use medium::replace_file;
use signing::Signing;

/// Names of a version's files.
const IMAGE_FILE: &str = "root.erofs";
const MANIFEST_FILE: &str = "manifest.cbor";
const MANIFEST_JSON_FILE: &str = "manifest.json";
const STAGE_FILE: &str = "stage";
const CHECKED_FILE: &str = "checked";
const DAMAGED_FILE: &str = "damaged";
/// Name of the file beside a name's versions that says which one is its default.
const DEFAULT_FILE: &str = ".default";

/// Where the store's files are.
#[derive(Debug, Clone)]
struct Layout {
    root: PathBuf,
}

impl Layout {
    fn root(&self) -> &Path {
        &self.root
    }

    fn lock(&self) -> PathBuf {
        self.root.join(".lock")
    }

    fn incoming(&self) -> PathBuf {
        self.root.join(".incoming")
    }

    fn image(&self, name: &ImageName) -> PathBuf {
        self.root.join(name.as_str())
    }

    fn version(&self, id: &ImageId) -> PathBuf {
        self.image(&id.name).join(id.version.as_str())
    }
}

/// The opened store.
#[derive(Debug)]
pub struct Store {
    layout: Layout,
    index: SharedIndex,
    /// Held while names appear in, change in or vanish from the store's directories.
    changing: Mutex<()>,
    next_operation: AtomicU64,
    /// Operations with lower numbers are an earlier owner's.
    first_operation: u64,
    /// Identity of this boot of the kernel: what was checked in another one is checked again.
    boot: String,
    signing: Signing,
    _lock: StoreLock,
}

/// A version that is not in the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image {id} is not in the store; `insula image list` shows what is")]
pub struct UnknownImageError {
    /// What was asked for.
    pub id: ImageId,
}

/// What is done when a version is asked for that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// Nothing else will do.
    Strict,
    /// The default version will do.
    Fallback,
}

/// The version that a reference means.
#[derive(Debug)]
pub struct Resolved {
    /// The version.
    pub id: ImageId,
    /// The version that was asked for, when another had to do.
    pub fell_back_from: Option<ImageVersion>,
    /// Keeps it from being removed until a lasting reference to it is recorded.
    pub hold: Hold,
}

/// A reference that means no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// No version of that name is there.
    #[error("image {name} is not in the store; `insula image import` or `insula image build` brings it there")]
    UnknownName {
        /// The name.
        name: ImageName,
    },
    /// The name is there, the version is not.
    #[error("image {id} is not in the store; versions there: {}", list(versions))]
    UnknownVersion {
        /// What was asked for.
        id: ImageId,
        /// The versions that are there.
        versions: Vec<ImageVersion>,
    },
    /// The version is there and its bytes are wrong.
    #[error("image {id} is damaged; remove and import it again, or use another version")]
    Damaged {
        /// The version.
        id: ImageId,
    },
}

fn list(versions: &[ImageVersion]) -> String {
    versions.iter().map(ImageVersion::as_str).collect::<Vec<_>>().join(", ")
}

/// The default version or the stage record could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeImageError {
    /// It is not there.
    #[error(transparent)]
    Unknown(#[from] UnknownImageError),
    /// It cannot be promoted.
    #[error("promote image {id}")]
    Promote {
        /// The version.
        id: ImageId,
        /// Why not.
        #[source]
        refusal: PromoteRefusal,
    },
    /// Its signature does not do.
    #[error(transparent)]
    Signature(#[from] SignatureRefusal),
    /// It could not be verified before.
    #[error("vouch for image {id}")]
    Verify {
        /// The version.
        id: ImageId,
        /// Why not.
        #[source]
        source: Box<VerifyError>,
    },
    /// Its bytes are wrong.
    #[error("image {id} is damaged; remove and import it again")]
    Damaged {
        /// The version.
        id: ImageId,
    },
    /// The change could not be written.
    #[error("change image {id}")]
    File {
        /// The version.
        id: ImageId,
        /// Why not.
        #[source]
        source: StoreFileError,
    },
}

/// A version's manifest could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadManifestError {
    /// The version is not there.
    #[error(transparent)]
    Unknown(#[from] UnknownImageError),
    /// The file could not be read.
    #[error("image {id}")]
    File {
        /// The version.
        id: ImageId,
        /// Why not.
        #[source]
        source: StoreFileError,
    },
    /// It holds no manifest.
    #[error("image {id} is damaged; remove and import it again")]
    Decode {
        /// The version.
        id: ImageId,
        /// Why not.
        #[source]
        source: Box<DecodeManifestError>,
    },
    /// It holds the manifest of another image.
    #[error("image {id} is damaged: its manifest has another digest; remove and import it again")]
    OtherDigest {
        /// The version.
        id: ImageId,
    },
}

impl Store {
    /// All versions, by name and version.
    #[must_use]
    pub fn list(&self) -> Vec<ImageSummary> {
        let index = self.index.read();
        index.versions.values().map(|entry| index.summary(entry)).collect()
    }

    /// One version.
    ///
    /// # Errors
    ///
    /// When it is not there.
    pub fn show(&self, id: &ImageId) -> Result<ImageSummary, UnknownImageError> {
        let index = self.index.read();
        let entry = index.versions.get(id).ok_or_else(|| UnknownImageError { id: id.clone() })?;
        Ok(index.summary(entry))
    }

    /// Keeps a version from being removed, if it is there.
    ///
    /// # Errors
    ///
    /// When it is not there.
    pub fn hold(&self, id: &ImageId) -> Result<Hold, UnknownImageError> {
        self.index.hold(id).ok_or_else(|| UnknownImageError { id: id.clone() })
    }

    /// The version that a reference means, held.
    ///
    /// # Errors
    ///
    /// See the variants of [`ResolveError`].
    pub fn resolve(&self, reference: &ImageRef, strictness: Strictness) -> Result<Resolved, ResolveError> {
        let unknown_name = || ResolveError::UnknownName { name: reference.name.clone() };
        let default = self.index.read().default_of(&reference.name);
        let asked = match &reference.version {
            Some(version) => ImageId { name: reference.name.clone(), version: version.clone() },
            None => default.clone().ok_or_else(unknown_name)?,
        };
        let (hold, fell_back_from) = match (self.index.hold(&asked), strictness, default) {
            (Some(hold), _, _) => (hold, None),
            (None, Strictness::Fallback, Some(default)) => {
                (self.index.hold(&default).ok_or_else(unknown_name)?, reference.version.clone())
            }
            (None, _, _) => {
                let versions = self.index.read().versions_of(&asked.name);
                let unknown = ResolveError::UnknownVersion { id: asked, versions };
                return Err(if reference.version.is_some() { unknown } else { unknown_name() });
            }
        };
        let id = hold.info().id.clone();
        if self.index.read().versions.get(&id).is_some_and(|entry| entry.damage.is_some()) {
            return Err(ResolveError::Damaged { id });
        }
        Ok(Resolved { id, fell_back_from, hold })
    }

    /// A version's whole manifest, read from its file.
    ///
    /// # Errors
    ///
    /// See the variants of [`ReadManifestError`].
    pub fn manifest(&self, id: &ImageId) -> Result<Manifest, ReadManifestError> {
        let hold = self.hold(id)?;
        let path = self.layout.version(id).join(MANIFEST_FILE);
        let bytes = std::fs::read(&path).map_err(StoreFileError::on("read", &path));
        let bytes = bytes.map_err(|source| ReadManifestError::File { id: id.clone(), source })?;
        if crate::manifest::digest_of(&bytes) != hold.info().digest {
            return Err(ReadManifestError::OtherDigest { id: id.clone() });
        }
        let decoded = Manifest::decode(&bytes);
        decoded.map_err(|source| ReadManifestError::Decode { id: id.clone(), source: Box::new(source) })
    }

    /// Makes a version the one that its bare name means.
    ///
    /// # Errors
    ///
    /// When it is not there or damaged, or the change cannot be written.
    pub fn set_default(&self, id: &ImageId) -> Result<(), ChangeImageError> {
        let _changing = self.changing();
        if self.show(id)?.damage.is_some() {
            return Err(ChangeImageError::Damaged { id: id.clone() });
        }
        self.write_default(id).map_err(|source| ChangeImageError::File { id: id.clone(), source })?;
        self.index.write().defaults.insert(id.name.clone(), id.version.clone());
        Ok(())
    }

    /// Records what a test of a version found.
    ///
    /// # Errors
    ///
    /// When it is not there or the record cannot be written.
    pub fn record_test(&self, id: &ImageId, report: TestReport) -> Result<(), ChangeImageError> {
        let _changing = self.changing();
        let record = self.show(id)?.stage.tested(report);
        self.write_stage(id, record)
    }

    /// Moves a tested version into production, after all its bytes were compared with its manifest, and signs it
    /// for that stage. No byte of the image changes.
    ///
    /// # Errors
    ///
    /// When its last test did not pass, its signature does not do, or its bytes are wrong.
    pub fn promote(&self, id: &ImageId, now: Timestamp, watch: Watch<'_>) -> Result<(), ChangeImageError> {
        let summary = self.show(id)?;
        let signature = (summary.stage.stage, summary.signature);
        let promoted = summary.stage.promoted(summary.info.digest, now);
        let refused = |refusal| ChangeImageError::Promote { id: id.clone(), refusal };
        promoted.map_err(refused)?;
        self.accept_signature(id, signature)?;
        self.verify_whole(id, now, watch)?;
        let _changing = self.changing();
        // Again, for a test may have failed while all bytes were read.
        let record = self.show(id)?.stage.promoted(summary.info.digest, now).map_err(refused)?;
        self.write_stage(id, self.signing.vouch(record, id))
    }

    /// Compares all bytes of a version before the node vouches for it.
    fn verify_whole(&self, id: &ImageId, now: Timestamp, watch: Watch<'_>) -> Result<(), ChangeImageError> {
        let report = self.verify(id, now, watch);
        let report = report.map_err(|source| ChangeImageError::Verify { id: id.clone(), source: Box::new(source) })?;
        if report.damage.is_empty() { Ok(()) } else { Err(ChangeImageError::Damaged { id: id.clone() }) }
    }

    fn write_stage(&self, id: &ImageId, record: StageRecord) -> Result<(), ChangeImageError> {
        self.keep_stage(id, record).map_err(|source| ChangeImageError::File { id: id.clone(), source })
    }

    fn keep_stage(&self, id: &ImageId, record: StageRecord) -> Result<(), StoreFileError> {
        replace_file(&self.layout.version(id), STAGE_FILE, &record.encode())?;
        if let Some(entry) = self.index.write().versions.get_mut(id) {
            entry.signature = self.signing.judge(&record, &entry.info);
            entry.stage = record;
        }
        Ok(())
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        // It guards no data, so a panic elsewhere leaves nothing half done under it that a sweep would not find.
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
