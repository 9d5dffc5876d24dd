//! Intent on disk: one redb file, owned by one thread.
//!
//! ```text
//! drivers, handlers ── Put, Delete ──> channel ──> store thread ── one commit for all that wait ──> node.redb
//! ```
//!
//! Every answer comes after the commit that holds the change reached the disk. Facts (what runs, since when, how it
//! ended) are not in here: they are files in the run directory, written by whoever knows them.
//!
//! Tables: `meta` (`schema` -> number, `node` -> name) and `containers` (id as 128 bits -> record as JSON).

mod backup;
mod file;

use std::fs::{File, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use insula_model::ContainerId;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::{mpsc, oneshot};

use crate::container::record::ContainerRecord;

pub use backup::{RestoreError, restore};
use file::StoreFile;

/// Version of the tables; a file with a greater one is refused.
/// 2: templates and memory guarantees.
pub(crate) const SCHEMA: u64 = 2;

/// Changes that may wait for the thread; more are refused.
const QUEUE_MAX: usize = 8_192;
/// Changes that one commit takes at most.
const BATCH_MAX: usize = 256;
/// A file that a dead daemon's child holds is waited for this long, looking this often.
const STALE_HOLD_MAX: Duration = Duration::from_secs(2);
const STALE_HOLD_LOOK: Duration = Duration::from_millis(2);

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const CONTAINERS: TableDefinition<u128, &[u8]> = TableDefinition::new("containers");

/// The store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// Written by a newer Insula.
    #[error("store {path} has schema {found}, this program knows {SCHEMA}; run the newer program, or restore a backup")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u64,
    },
    /// Damaged.
    #[error(
        "store {path} is damaged; nothing was changed. Restore a backup: move the file away, then \
         `insula node restore FILE`. Without a backup, what is not in the run directory is lost"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What redb says.
        #[source]
        source: Box<redb::Error>,
    },
    /// A record that cannot be read.
    #[error("store {path}: record of container {id} is damaged")]
    Record {
        /// The file.
        path: PathBuf,
        /// Whose record.
        id: ContainerId,
        /// Where.
        #[source]
        source: serde_json::Error,
    },
}

/// A change was not stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommitError {
    /// The disk or redb refused; nothing of the batch is stored. A delete is tried again with the next batch.
    #[error("store intent: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// Too many changes wait.
    #[error("store intent: {QUEUE_MAX} changes wait already")]
    Full,
    /// The thread is gone: the daemon is ending.
    #[error("store intent: the store is closed")]
    Closed,
}

#[derive(Debug)]
enum Change {
    Put(Box<ContainerRecord>),
    Delete(ContainerId),
}

impl Change {
    /// Whose record goes.
    fn deleted(&self) -> Option<ContainerId> {
        match self {
            Self::Put(_) => None,
            Self::Delete(id) => Some(*id),
        }
    }
}

type Job = (Change, oneshot::Sender<Result<(), CommitError>>);

/// Sends changes to the store's thread.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    jobs: mpsc::Sender<Job>,
    /// For reading what was committed.
    file: Arc<StoreFile>,
}

impl Store {
    /// Opens or makes the file at `path`, reads every record, starts the thread.
    ///
    /// # Errors
    ///
    /// A newer schema or a damaged file; the file stays as it is.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<ContainerRecord>), OpenStoreError> {
        let damaged = |source: redb::Error| OpenStoreError::Damaged { path: path.to_owned(), source: Box::new(source) };
        let (database, records) = open_database(path)?;
        let file = Arc::new(StoreFile::new(path.to_owned(), database));
        let written = file.clone();
        let (jobs, waiting) = mpsc::channel(QUEUE_MAX);
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || serve(&written, waiting))
            .map_err(|error| damaged(redb::Error::Io(error)))?;
        Ok((Self { jobs, file }, records))
    }

    /// Stores `record`; when the future is done it is on the disk. Its place in the order is that of the call.
    pub(crate) fn put(&self, record: ContainerRecord) -> impl Future<Output = Result<(), CommitError>> + use<> {
        self.submit(Change::Put(Box::new(record)))
    }

    /// Forgets the record of `id`, as [`Store::put`] does; no record is no error.
    pub(crate) fn delete(&self, id: ContainerId) -> impl Future<Output = Result<(), CommitError>> + use<> {
        self.submit(Change::Delete(id))
    }

    fn submit(&self, change: Change) -> impl Future<Output = Result<(), CommitError>> + use<> {
        let (answer, answered) = oneshot::channel();
        let sent = self.jobs.try_send((change, answer)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CommitError::Full,
            mpsc::error::TrySendError::Closed(_) => CommitError::Closed,
        });
        async move {
            sent?;
            answered.await.map_err(|_| CommitError::Closed)?
        }
    }
}

/// Opens or makes the file at `path` and reads every record.
fn open_database(path: &Path) -> Result<(Database, Vec<ContainerRecord>), OpenStoreError> {
    let damaged = |source: redb::Error| OpenStoreError::Damaged { path: path.to_owned(), source: Box::new(source) };
    let database = create(path).map_err(|error| damaged(error.into()))?;
    if let Some(found) = schema_of(&database).map_err(damaged)?
        && found > SCHEMA
    {
        return Err(OpenStoreError::Newer { path: path.to_owned(), found });
    }
    make_tables(&database).map_err(damaged)?;
    let records = read_all(&database, path)?;
    Ok((database, records))
}

/// Opens or makes the file, readable by root alone: environments of containers are in it. Whoever calls has the state
/// directory's lock; a file that is open all the same is held by a child of a daemon that was killed, for the moment
/// until it is another program.
fn create(path: &Path) -> Result<Database, DatabaseError> {
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    // One that an earlier version made, too.
    file.set_permissions(Permissions::from_mode(0o600))?;
    drop(file);
    let end = Instant::now() + STALE_HOLD_MAX;
    loop {
        match Database::create(path) {
            Err(DatabaseError::DatabaseAlreadyOpen) if Instant::now() < end => std::thread::sleep(STALE_HOLD_LOOK),
            opened => return opened,
        }
    }
}

fn schema_of(database: &Database) -> Result<Option<u64>, redb::Error> {
    let read = database.begin_read()?;
    match read.open_table(META) {
        Ok(meta) => Ok(meta.get("schema")?.map(|value| value.value())),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn make_tables(database: &Database) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    write.open_table(META)?.insert("schema", SCHEMA)?;
    write.open_table(CONTAINERS)?;
    write.commit()?;
    Ok(())
}

fn read_all(database: &Database, path: &Path) -> Result<Vec<ContainerRecord>, OpenStoreError> {
    let damaged = |source: redb::Error| OpenStoreError::Damaged { path: path.to_owned(), source: Box::new(source) };
    let read = database.begin_read().map_err(|error| damaged(error.into()))?;
    let table = read.open_table(CONTAINERS).map_err(|error| damaged(error.into()))?;
    let mut records = Vec::new();
    for entry in table.iter().map_err(|error| damaged(error.into()))? {
        let (key, value) = entry.map_err(|error| damaged(error.into()))?;
        let id = ContainerId::from_uuid(uuid::Uuid::from_u128(key.value()));
        let record = serde_json::from_slice(value.value()).map_err(|source| OpenStoreError::Record {
            path: path.to_owned(),
            id,
            source,
        })?;
        records.push(record);
    }
    Ok(records)
}

fn serve(file: &StoreFile, mut waiting: mpsc::Receiver<Job>) {
    let mut batch = Vec::new();
    let mut owed = Vec::new();
    while waiting.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
        let result = file.use_open(|database| commit(database, &owed, batch.iter().map(|(change, _)| change)));
        match &result {
            Ok(()) => owed.clear(),
            Err(_) => owed.extend(batch.iter().filter_map(|(change, _)| change.deleted())),
        }
        for (_, answer) in batch.drain(..) {
            let result = match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(CommitError::Refused { reason: error.to_string() }),
            };
            // Who asked may have gone away; the change stands.
            answer.send(result).ok();
        }
    }
    if !owed.is_empty() {
        file.use_open(|database| commit(database, &owed, std::iter::empty())).ok();
    }
}

/// One commit of `changes`, and of the deletes that are `owed` because their own commit failed: what they name is gone
/// and would come back with the next daemon.
fn commit<'a>(
    database: &Database,
    owed: &[ContainerId],
    changes: impl Iterator<Item = &'a Change>,
) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut table = write.open_table(CONTAINERS)?;
        for id in owed {
            table.remove(id.as_uuid().as_u128())?;
        }
        for change in changes {
            match change {
                Change::Put(record) => {
                    let bytes = serde_json::to_vec(record).map_err(|error| redb::Error::Io(error.into()))?;
                    table.insert(record.id.as_uuid().as_u128(), bytes.as_slice())?;
                }
                Change::Delete(id) => {
                    table.remove(id.as_uuid().as_u128())?;
                }
            }
        }
    }
    write.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests;
