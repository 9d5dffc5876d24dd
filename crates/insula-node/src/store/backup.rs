//! Copies of intent: what `insula node backup` writes and `insula node restore` reads. The form is in
//! `docs/formats/backup.md`.
//!
//! A backup is of one commit, whatever happens meanwhile. A restore writes all records in one commit, into a store that
//! has none: it never mixes two nodes, and a failed one leaves nothing.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use insula_api::NodeBackup;
use insula_model::{ContainerId, Sha256Digest};
use redb::{Database, ReadableDatabase, ReadableTable};
use sha2::{Digest, Sha256};

use super::{CONTAINERS, OpenStoreError, SCHEMA, Store, open_database};
use crate::claims::{LockStateError, lock_directory};
use crate::config::Config;
use crate::container::record::ContainerRecord;

/// Version of the form of backups.
const FORMAT: u32 = 1;
/// Largest backup that is read, in bytes.
const BACKUP_BYTES_MAX: u64 = 1 << 30;

/// Nothing was restored; the store is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file cannot be read.
    #[error("backup {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no backup, or its end is missing.
    #[error("{path} is not a backup of a node, or only a part of one")]
    Form {
        /// The file.
        path: PathBuf,
        /// Where it is not.
        #[source]
        source: serde_json::Error,
    },
    /// It is not what was written.
    #[error("backup {path} is damaged: its records are not those that were written; use another one")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Written by a newer Insula.
    #[error("backup {path} has schema {found}, this program knows {SCHEMA}; use the newer program")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u64,
    },
    /// There is something that would be mixed with it.
    #[error(
        "store {path} has {containers} containers; a backup is restored into an empty one: move the file away first, or use another state directory"
    )]
    NotEmpty {
        /// The store.
        path: PathBuf,
        /// How many.
        containers: usize,
    },
    /// The state directory cannot be made.
    #[error("state directory {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A daemon runs.
    #[error(transparent)]
    Lock(#[from] LockStateError),
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenStoreError),
    /// The records cannot be written.
    #[error("write store {path}")]
    Write {
        /// The store.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
}

impl Store {
    /// Everything that was committed when it is called. Blocks for the reading.
    ///
    /// # Errors
    ///
    /// The disk, or a record that is damaged.
    pub(crate) fn back_up(&self, node: &str) -> Result<NodeBackup, Box<dyn std::error::Error + Send + Sync>> {
        let containers: Vec<serde_json::Value> = self
            .file
            .use_open(read_values)?
            .iter()
            .map(|bytes| serde_json::from_slice(bytes))
            .collect::<Result<_, _>>()?;
        let digest = digest_of(&containers);
        Ok(NodeBackup {
            format: FORMAT,
            schema: SCHEMA,
            node: node.to_owned(),
            created: jiff::Timestamp::now(),
            digest,
            containers,
        })
    }
}

fn read_values(database: &Database) -> Result<Vec<Vec<u8>>, redb::Error> {
    let table = database.begin_read()?.open_table(CONTAINERS)?;
    let mut values = Vec::new();
    for entry in table.iter()? {
        let (_, value) = entry?;
        values.push(value.value().to_vec());
    }
    Ok(values)
}

/// Objects are written with their keys in order, so equal records have equal bytes.
fn digest_of(containers: &[serde_json::Value]) -> Sha256Digest {
    let mut hash = Sha256::new();
    for container in containers {
        hash.update(container.to_string());
        hash.update(b"\n");
    }
    Sha256Digest(hash.finalize().into())
}

/// Writes the containers of the backup at `path` into the store of a node that does not run and has none. Their number.
///
/// # Errors
///
/// See [`RestoreError`].
pub fn restore(config: &Config, path: &Path) -> Result<usize, RestoreError> {
    let records = read_backup(path)?;
    let wrong = |source| RestoreError::Directory { path: config.state_dir.clone(), source };
    crate::daemon::make_private_directory(&config.state_dir).map_err(wrong)?;
    let _lock = lock_directory(&config.state_dir, config.name.as_str())?;
    let store = config.state_dir.join("node.redb");
    let (database, there) = open_database(&store)?;
    if !there.is_empty() {
        return Err(RestoreError::NotEmpty { path: store, containers: there.len() });
    }
    write_all(&database, &records).map_err(|source| RestoreError::Write { path: store, source: Box::new(source) })?;
    Ok(records.len())
}

fn read_backup(path: &Path) -> Result<Vec<ContainerRecord>, RestoreError> {
    let wrong = |source| RestoreError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(wrong)?;
    let mut text = String::new();
    file.take(BACKUP_BYTES_MAX).read_to_string(&mut text).map_err(wrong)?;
    let form = |source| RestoreError::Form { path: path.to_owned(), source };
    // The version is read first: what a newer one looks like is not known.
    let versions: Versions = serde_json::from_str(&text).map_err(form)?;
    if versions.schema > SCHEMA || versions.format > FORMAT {
        return Err(RestoreError::Newer { path: path.to_owned(), found: versions.schema });
    }
    let backup: NodeBackup = serde_json::from_str(&text).map_err(form)?;
    if digest_of(&backup.containers) != backup.digest {
        return Err(RestoreError::Damaged { path: path.to_owned() });
    }
    backup.containers.into_iter().map(|value| serde_json::from_value(value).map_err(form)).collect()
}

#[derive(Debug, serde::Deserialize)]
struct Versions {
    format: u32,
    schema: u64,
}

fn write_all(database: &Database, records: &[ContainerRecord]) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut table = write.open_table(CONTAINERS)?;
        for record in records {
            let id: ContainerId = record.id;
            let bytes = serde_json::to_vec(record).map_err(|error| redb::Error::Io(error.into()))?;
            table.insert(id.as_uuid().as_u128(), bytes.as_slice())?;
        }
    }
    write.commit()?;
    Ok(())
}
