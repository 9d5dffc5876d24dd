//! Removing versions, one by name or all that nobody needs.
//!
//! A version leaves by one rename into `.incoming`, so after a crash it is whole or it is rubbish that the next
//! opening removes. Only then is its file made mutable and removed; a kernel mount that still uses the file keeps
//! its bytes until it goes.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering;

use insula_model::{Bytes, ImageId};

use super::medium::{StoreFileError, remove_tree, sync_dir};
use super::usage::disk_bytes;
use super::{Store, UnknownImageError};
use crate::collect::{StoreRoots, garbage};

/// A version could not be removed.
#[derive(Debug, thiserror::Error)]
#[error("remove image {id}")]
pub struct RemoveError {
    /// The version.
    pub id: ImageId,
    /// Why not.
    #[source]
    pub cause: RemoveCause,
}

/// Why a version could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveCause {
    /// It is not there.
    #[error(transparent)]
    Unknown(#[from] UnknownImageError),
    /// An operation uses it just now.
    #[error("an operation is using it; wait for that one")]
    InUse,
    /// Its bare name means this version, and other versions are there.
    #[error("it is the default version of its name; choose another with `insula image default` first")]
    Default,
    /// A file could not be removed.
    #[error(transparent)]
    File(#[from] StoreFileError),
}

/// Garbage could not be collected; what was removed before stays removed.
#[derive(Debug, thiserror::Error)]
#[error("collect garbage of the image store")]
pub struct CollectError {
    /// What was removed before.
    pub collected: Collected,
    /// What stopped it.
    #[source]
    pub source: Box<RemoveError>,
}

/// What collecting garbage removed and what it found to be needed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Removed versions and the bytes of disk each took.
    pub removed: Vec<(ImageId, Bytes)>,
    /// Versions that are there now.
    pub kept: BTreeSet<ImageId>,
}

impl Collected {
    /// Bytes of disk that came free.
    #[must_use]
    pub fn freed(&self) -> Bytes {
        Bytes(self.removed.iter().map(|(_, bytes)| bytes.0).sum())
    }
}

impl Store {
    /// Removes one version. Whether containers need it is the caller's to know.
    ///
    /// # Errors
    ///
    /// When it is not there, in use by an operation, or the default beside other versions.
    pub fn remove(&self, id: &ImageId) -> Result<Bytes, RemoveError> {
        let _changing = self.changing();
        let failed = |cause| RemoveError { id: id.clone(), cause };
        {
            let index = self.index.read();
            let known = index.versions.contains_key(id) || index.unreadable.contains_key(id);
            if !known {
                return Err(failed(UnknownImageError { id: id.clone() }.into()));
            }
            if index.is_default(id) && index.versions_of(&id.name).len() > 1 {
                return Err(failed(RemoveCause::Default));
            }
        }
        self.take_away(id).map_err(failed)
    }

    /// Removes every version that is neither in `live`, nor a default, nor held by an operation.
    ///
    /// # Errors
    ///
    /// When a version could not be removed; the error says what was removed before.
    pub fn gc(&self, live: &BTreeSet<ImageId>) -> Result<Collected, CollectError> {
        let _changing = self.changing();
        let (present, roots) = {
            let index = self.index.read();
            let present: BTreeSet<_> = index.versions.keys().chain(index.unreadable.keys()).cloned().collect();
            (present, StoreRoots { defaults: index.default_ids(), held: index.held() })
        };
        let mut collected = Collected { removed: Vec::new(), kept: present.clone() };
        for id in garbage(&present, live, &roots) {
            match self.take_away(&id) {
                Ok(bytes) => {
                    collected.kept.remove(&id);
                    collected.removed.push((id, bytes));
                }
                // Somebody took a hold since the roots were read: then it is not garbage.
                Err(RemoveCause::InUse) => {}
                Err(cause) => {
                    let source = Box::new(RemoveError { id, cause });
                    return Err(CollectError { collected, source });
                }
            }
        }
        Ok(collected)
    }

    /// Takes a version out of the index, if nothing holds it, then off the disk. `changing` is held.
    fn take_away(&self, id: &ImageId) -> Result<Bytes, RemoveCause> {
        let (entry, unreadable, was_default) = {
            let mut index = self.index.write();
            if index.is_held(id) {
                return Err(RemoveCause::InUse);
            }
            let was_default = index.is_default(id);
            if was_default {
                index.defaults.remove(&id.name);
            }
            (index.versions.remove(id), index.unreadable.remove(id), was_default)
        };
        let dir = self.layout.version(id);
        let bytes = disk_bytes(&dir);
        let number = self.next_operation.fetch_add(1, Ordering::Relaxed);
        let trash = self.layout.incoming().join(format!("trash-{number}"));
        match std::fs::rename(&dir, &trash) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let mut index = self.index.write();
                index.versions.extend(entry.map(|entry| (id.clone(), entry)));
                index.unreadable.extend(unreadable.map(|why| (id.clone(), why)));
                if was_default {
                    index.defaults.insert(id.name.clone(), id.version.clone());
                }
                return Err(StoreFileError::on("rename", &dir)(error).into());
            }
            _ => {}
        }
        sync_dir(&self.layout.image(&id.name))?;
        remove_tree(&trash)?;
        self.remove_empty_name(&id.name);
        Ok(bytes)
    }
}
