//! Facts: what happened to a container since the machine was started.
//!
//! ```text
//! <run-dir>/facts/<id>/facts.json    written at each start and end
//! <run-dir>/facts/<id>/record.json   intent of containers that are deleted when they end; before the first start
//! ```
//!
//! What the launcher and process 1 know lies in `<run-dir>/containers/<id>` and is gone after a sweep; this stays until
//! the container is deleted. Of a run that ended the record in the store has what `list` shows, for after a reboot.
//!
//! The run directory is a tmpfs, so these writes neither wait for a disk nor block; they are replaced by rename, so
//! a reader sees the old or the new one.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use insula_model::{ContainerId, ImageId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::record::ContainerRecord;
use super::words::Unfinished;
use crate::machine::Traces;

/// Largest facts or record file that is read back, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What happened last.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// The version that runs or ran last.
    pub(crate) image: Option<ImageId>,
    /// Host process id of process 1, while it runs.
    pub(crate) pid: Option<u32>,
    /// Control group.
    pub(crate) cgroup: String,
    /// When it was started last.
    pub(crate) started: Option<Timestamp>,
    /// When it ended last.
    pub(crate) finished: Option<Timestamp>,
    /// Exit code of the last run.
    pub(crate) exit_code: Option<i32>,
    /// Why it failed, or why the exit code is unknown.
    pub(crate) reason: Option<String>,
    /// What the last start left on the host's network.
    #[serde(default)]
    pub(crate) traces: Traces,
    /// Whether the last start failed.
    #[serde(default)]
    pub(crate) start_failed: bool,
    /// Starts in a row by the restart policy.
    #[serde(default)]
    pub(crate) restarts: u32,
    /// What a daemon that ends now leaves to the next one.
    #[serde(default)]
    pub(crate) unfinished: Option<Unfinished>,
}

/// The folder of facts of all containers of a node.
#[derive(Debug, Clone)]
pub(crate) struct FactsDir(PathBuf);

impl FactsDir {
    /// The folder in `run_dir`.
    pub(crate) fn new(run_dir: &Path) -> Self {
        Self(run_dir.join("facts"))
    }

    fn file(&self, id: ContainerId, name: &str) -> PathBuf {
        self.0.join(id.to_string()).join(name)
    }

    /// Writes the facts of `id`.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn write_facts(&self, id: ContainerId, facts: &Facts) -> io::Result<()> {
        self.replace(id, "facts.json", &serde_json::to_vec(facts)?)
    }

    /// Writes the record of a container that is not in the store.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn write_record(&self, record: &ContainerRecord) -> io::Result<()> {
        self.replace(record.id, "record.json", &serde_json::to_vec(record)?)
    }

    fn replace(&self, id: ContainerId, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.file(id, name);
        let new = path.with_extension("new");
        match std::fs::write(&new, bytes) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A record has the container's environment in it, which is nobody else's to read.
                DirBuilder::new().recursive(true).mode(0o700).create(self.0.join(id.to_string()))?;
                std::fs::write(&new, bytes)?;
            }
            result => result?,
        }
        std::fs::rename(&new, &path)
    }

    /// Facts of `id`; `None` when there are none that can be read.
    pub(crate) fn facts(&self, id: ContainerId) -> Option<Facts> {
        read(&self.file(id, "facts.json"))
    }

    /// Records of the containers that are not in the store.
    pub(crate) fn records(&self) -> Vec<ContainerRecord> {
        let Ok(entries) = std::fs::read_dir(&self.0) else { return Vec::new() };
        entries.flatten().filter_map(|entry| read(&entry.path().join("record.json"))).collect()
    }

    /// Ids of all containers that have a folder.
    pub(crate) fn ids(&self) -> Vec<ContainerId> {
        let Ok(entries) = std::fs::read_dir(&self.0) else { return Vec::new() };
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// Forgets `id`; nothing there is no error.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn forget(&self, id: ContainerId) -> io::Result<()> {
        match std::fs::remove_dir_all(self.0.join(id.to_string())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    let size = std::fs::metadata(path).ok()?.len();
    (size <= FILE_BYTES_MAX)
        .then(|| std::fs::read(path).ok())
        .flatten()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn facts_read_back_and_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let facts_dir = FactsDir::new(dir.path());
        let id = ContainerId::from_uuid(uuid::Uuid::from_u128(7));
        let facts = Facts { pid: Some(4711), exit_code: Some(137), ..Facts::default() };
        assert_eq!(facts_dir.facts(id), None);
        facts_dir.write_facts(id, &facts).unwrap();
        assert_eq!(facts_dir.facts(id), Some(facts));
        assert_eq!(facts_dir.ids(), [id]);
        for made in [dir.path().join("facts"), dir.path().join("facts").join(id.to_string())] {
            assert_eq!(std::fs::metadata(made).unwrap().permissions().mode() & 0o777, 0o700);
        }
        facts_dir.forget(id).unwrap();
        facts_dir.forget(id).unwrap();
        assert_eq!(facts_dir.facts(id), None);
    }
}
