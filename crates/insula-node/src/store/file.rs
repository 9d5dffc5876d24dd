//! The open database, which a full disk must not take away for longer than the disk is full.
//!
//! redb refuses everything after a write failed, until its file is opened again; so that is done. And its file has
//! holes, which a full disk cannot fill; so they are filled while there is room, and what needs no longer file (a
//! change of a record, a delete) is stored on a full disk, too.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use redb::Database;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// A database that is closed after a failure of its disk, and opened again when it is next used.
#[derive(Debug)]
pub(super) struct StoreFile {
    path: PathBuf,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    /// None after a failure.
    database: Option<Database>,
    /// Bytes of the file that have their place on the disk.
    placed: u64,
}

impl StoreFile {
    /// `database`, which was opened from `path`.
    pub(super) fn new(path: PathBuf, database: Database) -> Self {
        let file = Self { path, open: Mutex::new(Open { database: Some(database), placed: 0 }) };
        file.use_open(|_| Ok(())).ok();
        file
    }

    /// Does something with the open database. Blocks, also for what others do with it.
    ///
    /// # Errors
    ///
    /// The work's, or the file cannot be opened again.
    pub(super) fn use_open<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, redb::Error> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let database = match open.database.take() {
            Some(database) => database,
            None => Database::open(&self.path)?,
        };
        let result = work(&database);
        match &result {
            Err(redb::Error::Io(_) | redb::Error::PreviousIo) => drop(database),
            _ => open.database = Some(database),
        }
        self.place(&mut open);
        result
    }

    /// Fills the file's holes. Where that cannot be done the next commit finds out what it means.
    fn place(&self, open: &mut Open) {
        let placed = || -> io::Result<u64> {
            let file = File::options().write(true).open(&self.path)?;
            let length = file.metadata()?.len();
            if length > open.placed {
                match fallocate(&file, FallocateFlags::KEEP_SIZE, 0, length) {
                    // A file system that writes elsewhere each time has no places to keep.
                    Ok(()) | Err(Errno::OPNOTSUPP) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            Ok(length)
        };
        if let Ok(length) = placed() {
            open.placed = length;
        }
    }
}
