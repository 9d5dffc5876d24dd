//! Opening a store: one owner, rubbish removed, every version known.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use insula_model::{ImageId, ImageName, ImageVersion, Stage};
use rustix::mount::{UnmountFlags, unmount};

use super::incoming::make_dir;
use super::index::{DamageMark, Entry, ImageInfo, SharedIndex};
use super::lock::{LockError, StoreLock};
use super::medium::{StoreFileError, read_bounded, remove_tree};
use super::signing::{Signing, SigningConfig, open_keys};
use super::stage::{RECORD_BYTES_MAX, StageRecord};
use super::{DAMAGED_FILE, DEFAULT_FILE, Layout, MANIFEST_FILE, STAGE_FILE, Store};
use crate::manifest::{Manifest, digest_of};
use crate::signature::stage_name;

/// A store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// Another program has it open.
    #[error("image store {} is in use by {holder}; stop it, or use another state directory", path.display())]
    InUse {
        /// The store.
        path: PathBuf,
        /// Who has it.
        holder: String,
    },
    /// A file or directory of it could not be used.
    #[error("open image store {}", path.display())]
    File {
        /// The store.
        path: PathBuf,
        /// Why not.
        #[source]
        source: StoreFileError,
    },
}

/// Something that was not as it should be when the store was opened. The store works without it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreWarning {
    /// A version whose manifest or stage record cannot be read: it cannot be used.
    #[error("image {id} cannot be used: {why}; remove and import it again")]
    Unreadable {
        /// The version.
        id: ImageId,
        /// What was found.
        why: String,
    },
    /// Something in the store's directories that the store did not put there. It is left alone.
    #[error("{} is not the image store's; it is left alone", path.display())]
    Foreign {
        /// Where.
        path: PathBuf,
    },
    /// A version of the time before the node had a key for its stage.
    #[error("image {id} was here before this node had a key for stage {}; it is signed now", stage_name(*stage))]
    Signed {
        /// The version.
        id: ImageId,
        /// Its stage.
        stage: Stage,
    },
    /// Others than root may read a secret key.
    #[error("the signing key {} is open to others; close it with chmod 600", path.display())]
    KeyExposed {
        /// The key.
        path: PathBuf,
    },
    /// The default version of a name was not there; the oldest took its place.
    #[error("the default version of image {} was lost; it is now {id}", id.name)]
    DefaultMended {
        /// The new default.
        id: ImageId,
    },
}

impl Store {
    /// Opens the store in `root` (`<state>/images`), making it if need be, and removes what unfinished operations
    /// left.
    ///
    /// # Errors
    ///
    /// When another program has it open, or its directories or keys cannot be used.
    pub fn open(root: &Path, signing: &SigningConfig) -> Result<(Self, Vec<StoreWarning>), OpenStoreError> {
        let failed = |source| OpenStoreError::File { path: root.to_owned(), source };
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root);
        made.map_err(StoreFileError::on("create directory", root)).map_err(failed)?;
        let layout = Layout { root: root.to_owned() };
        let lock = StoreLock::take(&layout.lock()).map_err(|error| match error {
            LockError::Held { holder } => OpenStoreError::InUse { path: root.to_owned(), holder },
            LockError::Io(error) => failed(StoreFileError::on("lock", &layout.lock())(error)),
        })?;
        let incoming = layout.incoming();
        match make_dir(&incoming) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(StoreFileError::on("create directory", &incoming)(error)));
            }
            _ => {}
        }
        let next_operation = remove_operations(&incoming).map_err(failed)?;
        let boot_file = Path::new("/proc/sys/kernel/random/boot_id");
        let boot = std::fs::read_to_string(boot_file).map_err(StoreFileError::on("read", boot_file)).map_err(failed)?;
        let mut warnings = Vec::new();
        let (signing, new_keys) = open_keys(signing, &mut warnings).map_err(failed)?;
        let store = Self {
            layout,
            index: SharedIndex::default(),
            changing: Mutex::new(()),
            next_operation: AtomicU64::new(next_operation),
            first_operation: next_operation,
            boot: boot.trim_end().to_owned(),
            signing,
            _lock: lock,
        };
        store.read_names(&mut warnings).map_err(failed)?;
        store.adopt(&new_keys, &mut warnings).map_err(failed)?;
        Ok((store, warnings))
    }

    /// Removes what operations of an earlier owner of the store left, once nothing of theirs runs any more. `false` when
    /// something is still there.
    ///
    /// # Errors
    ///
    /// The directory of operations cannot be read.
    pub fn remove_leftovers(&self) -> Result<bool, StoreFileError> {
        let mut clean = true;
        for (name, operation) in entries(&self.layout.incoming())? {
            if number_of(&name).is_none_or(|number| number < self.first_operation) {
                clean &= remove_tree(&operation).is_ok();
            }
        }
        Ok(clean)
    }

    fn read_names(&self, warnings: &mut Vec<StoreWarning>) -> Result<(), StoreFileError> {
        for (name, path) in entries(self.layout.root())? {
            match ImageName::new(&name) {
                Ok(name) if path.is_dir() => self.read_name(&name, warnings)?,
                _ if name.starts_with('.') => {}
                _ => warnings.push(StoreWarning::Foreign { path }),
            }
        }
        Ok(())
    }

    fn read_name(&self, name: &ImageName, warnings: &mut Vec<StoreWarning>) -> Result<(), StoreFileError> {
        let dir = self.layout.image(name);
        let mut versions = BTreeMap::new();
        for (version, path) in entries(&dir)? {
            let id = match ImageVersion::new(&version) {
                Ok(version) if path.is_dir() => ImageId { name: name.clone(), version },
                _ if version.starts_with('.') => continue,
                _ => {
                    warnings.push(StoreWarning::Foreign { path });
                    continue;
                }
            };
            match read_version(&id, &path, &self.signing) {
                Ok(entry) => {
                    versions.insert(id.version.clone(), entry.stage.published);
                    self.index.write().versions.insert(id, entry);
                }
                Err(why) => {
                    self.index.write().unreadable.insert(id.clone(), why.clone());
                    warnings.push(StoreWarning::Unreadable { id, why });
                }
            }
        }
        let default = read_bounded(&dir.join(DEFAULT_FILE), 128).ok();
        let default = default.and_then(|line| ImageVersion::new(String::from_utf8(line).ok()?.trim_end()).ok());
        if let Some(default) = default.filter(|default| versions.contains_key(default)) {
            self.index.write().defaults.insert(name.clone(), default);
            return Ok(());
        }
        // Oldest first, and by name among those of one instant: the same answer each time.
        let oldest = versions.into_iter().min_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        if let Some((version, _)) = oldest {
            let id = ImageId { name: name.clone(), version };
            self.write_default(&id)?;
            self.index.write().defaults.insert(id.name.clone(), id.version.clone());
            warnings.push(StoreWarning::DefaultMended { id });
        } else {
            self.remove_empty_name(name);
        }
        Ok(())
    }

    /// Removes a name's directory when no version is in it.
    pub(super) fn remove_empty_name(&self, name: &ImageName) {
        let dir = self.layout.image(name);
        let others = entries(&dir).map_or(true, |found| found.iter().any(|(entry, _)| !entry.starts_with('.')));
        if !others {
            // What stays is a directory without versions, which means nothing and goes at the next chance.
            let _ = std::fs::remove_file(dir.join(DEFAULT_FILE));
            let _ = std::fs::remove_dir_all(&dir);
        }
    }
}

/// Empties the directory of operations, immutable files included, and makes it.
/// Removes what operations left, and gives the first number that new ones may have. What cannot be removed yet, since
/// a process of a killed program still writes there, is left for [`Store::remove_leftovers`].
fn remove_operations(dir: &Path) -> Result<u64, StoreFileError> {
    let mut next = 0;
    for (name, operation) in entries(dir)? {
        // A build that was killed in the moment in which it had its image attached; mostly there is nothing there.
        let _ = unmount(operation.join(ATTACHED), UnmountFlags::DETACH);
        if remove_tree(&operation).is_err() {
            next = next.max(number_of(&name).map_or(0, |number| number.saturating_add(1)));
        }
    }
    Ok(next)
}

/// Where a build attaches its unfinished image for a moment, in the directory of its operation.
const ATTACHED: &str = "work/layer/attached";

/// The number in the name of an operation's directory.
fn number_of(name: &str) -> Option<u64> {
    name.rsplit('-').next()?.parse().ok()
}

/// Names and paths of what is in a directory, sorted. Names that are no text are shown as well as they can be.
fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>, StoreFileError> {
    let list = || -> io::Result<Vec<(String, PathBuf)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
        found.sort();
        Ok(found)
    };
    list().map_err(StoreFileError::on("list", dir))
}

/// What the index needs of a version; else why it cannot be used.
fn read_version(id: &ImageId, dir: &Path, signing: &Signing) -> Result<Entry, String> {
    let stage = read_bounded(&dir.join(STAGE_FILE), RECORD_BYTES_MAX).map_err(|error| format!("stage: {error}"))?;
    let stage = StageRecord::decode(&stage).map_err(|error| format!("stage: {error}"))?;
    let bytes = std::fs::read(dir.join(MANIFEST_FILE)).map_err(|error| format!("{MANIFEST_FILE}: {error}"))?;
    let digest = digest_of(&bytes);
    if digest != stage.digest {
        return Err(format!("{MANIFEST_FILE} has another digest than was published"));
    }
    let manifest = Manifest::decode(&bytes).map_err(|error| format!("{MANIFEST_FILE}: {error}"))?;
    if manifest.id != *id {
        return Err(format!("{MANIFEST_FILE} is of image {}", manifest.id));
    }
    let damage = match read_bounded(&dir.join(DAMAGED_FILE), RECORD_BYTES_MAX) {
        Ok(what) => Some(DamageMark { found: None, what: String::from_utf8_lossy(&what).trim_end().to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(DamageMark { found: None, what: format!("{DAMAGED_FILE}: {error}") }),
    };
    let info = Arc::new(ImageInfo::of(&manifest, digest));
    let signature = signing.judge(&stage, &info);
    Ok(Entry { info, stage, signature, damage, checked: None })
}
