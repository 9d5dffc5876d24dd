//! Which containers there are: names and ids to drivers.
//!
//! Only map operations happen under its lock; nobody waits with it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use insula_api::{Problem, ProblemCode};
use insula_model::{ContainerId, ContainerName};

use crate::container::handle::{ContainerHandle, gone};
use crate::container::snapshot::Snapshot;

#[derive(Debug, Default)]
struct Maps {
    names: HashMap<ContainerName, ContainerId>,
    handles: BTreeMap<ContainerId, ContainerHandle>,
}

/// Names and ids to drivers.
#[derive(Debug, Default)]
pub(crate) struct Directory(Mutex<Maps>);

impl Directory {
    fn maps(&self) -> MutexGuard<'_, Maps> {
        // A panic under the lock would be between two map operations; both maps are whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `name` for `id`; at most `most` containers exist.
    ///
    /// # Errors
    ///
    /// Conflict when the name is taken, admission when there are too many.
    pub(crate) fn reserve(&self, name: &ContainerName, id: ContainerId, most: usize) -> Result<(), Problem> {
        let mut maps = self.maps();
        if maps.names.contains_key(name) {
            return Err(taken(name));
        }
        if maps.names.len() >= most {
            let detail = format!("containers: {most} of {most} exist on this node");
            return Err(
                Problem::new(ProblemCode::Admission, detail).with_remedy("delete some, or raise capacity.containers")
            );
        }
        maps.names.insert(name.clone(), id);
        Ok(())
    }

    /// Makes the driver of a reserved name known.
    pub(crate) fn insert(&self, handle: ContainerHandle) {
        self.maps().handles.insert(handle.id, handle);
    }

    /// Forgets a container and frees its name.
    pub(crate) fn remove(&self, name: &ContainerName, id: ContainerId) {
        let mut maps = self.maps();
        if maps.names.get(name) == Some(&id) {
            maps.names.remove(name);
        }
        maps.handles.remove(&id);
    }

    /// Gives `id` another name.
    ///
    /// # Errors
    ///
    /// Conflict when the name is taken.
    pub(crate) fn rename(&self, id: ContainerId, name: &ContainerName) -> Result<(), Problem> {
        let mut maps = self.maps();
        match maps.names.get(name) {
            Some(owner) if *owner == id => return Ok(()),
            Some(_) => return Err(taken(name)),
            None => {}
        }
        maps.names.retain(|_, owner| *owner != id);
        maps.names.insert(name.clone(), id);
        Ok(())
    }

    /// The container of this name, id, or beginning of an id that only one has (6 digits at least).
    ///
    /// # Errors
    ///
    /// Not found; the same words whether it never was or is not the caller's.
    pub(crate) fn find(&self, given: &str) -> Result<ContainerHandle, Problem> {
        let maps = self.maps();
        let by_name = ContainerName::new(given).ok().and_then(|name| maps.names.get(&name).copied());
        let by_id = || given.parse::<ContainerId>().ok();
        if let Some(handle) = by_name.or_else(by_id).and_then(|id| maps.handles.get(&id)) {
            return Ok(handle.clone());
        }
        if given.len() >= 6 && given.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
            let mut matching = maps
                .handles
                .values()
                .filter(|handle| handle.id.to_string().starts_with(given) || handle.id.short().starts_with(given));
            if let (Some(handle), None) = (matching.next(), matching.next()) {
                return Ok(handle.clone());
            }
        }
        Err(match ContainerName::new(given) {
            Ok(name) => gone(&name),
            Err(_) => {
                Problem::new(ProblemCode::NotFound, format!("container `{}` does not exist", given.escape_debug()))
            }
        })
    }

    /// Lets go of all drivers; they end, and their containers go on.
    pub(crate) fn close(&self) {
        let mut maps = self.maps();
        maps.names.clear();
        maps.handles.clear();
    }

    /// The driver of `id`.
    pub(crate) fn get(&self, id: ContainerId) -> Option<ContainerHandle> {
        self.maps().handles.get(&id).cloned()
    }

    /// What all drivers published last, in the order of their ids.
    pub(crate) fn snapshots(&self) -> Vec<Arc<Snapshot>> {
        self.maps().handles.values().map(ContainerHandle::snapshot).collect()
    }

    /// All drivers, in the order of their ids.
    pub(crate) fn all(&self) -> Vec<ContainerHandle> {
        self.maps().handles.values().cloned().collect()
    }
}

fn taken(name: &ContainerName) -> Problem {
    Problem::new(ProblemCode::Conflict, format!("container {name} exists already"))
        .with_remedy(format!("use another name, or `insula delete {name}` first"))
}
