//! What nodes of one machine claim from each other: state directories and blocks of host ids.
//!
//! ```text
//! <state-dir>/lock              record lock held as long as the daemon lives; holds its pid
//! <claims-dir>/ids/<base>       one file per claimed block of 65,536 ids; holds the claiming node's state directory
//! ```
//!
//! A claim is made with `O_EXCL`, so two nodes cannot have the same block; nothing is asked of who else is there.
//! A block stays claimed while its container exists, and a few more are kept ready while the daemon runs, so that a
//! start claims nothing.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use insula_api::{Problem, ProblemCode};
use insula_model::IdRange;
use rustix::fs::{FlockOperation, fcntl_lock};

use crate::config::IdsConfig;

/// Blocks kept claimed for containers to come.
const SPARE_MAX: usize = 16;

/// The state or run directory is not free.
#[derive(Debug, thiserror::Error)]
pub enum LockStateError {
    /// Another daemon has it.
    #[error(
        "node {name} runs already with directory {path}, as process {pid}; end it first, or name other directories"
    )]
    Taken {
        /// The node.
        name: String,
        /// The directory.
        path: PathBuf,
        /// Its daemon.
        pid: String,
    },
    /// It cannot be made or locked.
    #[error("lock {path}")]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Holds `directory` for this process until it is dropped.
///
/// # Errors
///
/// Another daemon holds it; its process id is named.
pub(crate) fn lock_directory(directory: &Path, name: &str) -> Result<File, LockStateError> {
    let path = directory.join("lock");
    let wrap = |source| LockStateError::Lock { path: path.clone(), source };
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(wrap)?;
    // A record lock is the process's own: a child that was on its way to another program when the daemon died does not
    // keep it, as it would keep an flock.
    if fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        Read::by_ref(&mut file).take(20).read_to_string(&mut pid).map_err(wrap)?;
        return Err(LockStateError::Taken {
            name: name.to_owned(),
            path: directory.to_owned(),
            pid: pid.trim().to_owned(),
        });
    }
    file.set_len(0).map_err(wrap)?;
    file.rewind().map_err(wrap)?;
    writeln!(file, "{}", std::process::id()).map_err(wrap)?;
    Ok(file)
}

#[derive(Debug, Default)]
struct Blocks {
    spare: BTreeSet<u32>,
    next: u32,
}

/// Blocks of host ids of this node.
#[derive(Debug)]
pub(crate) struct IdBlocks {
    directory: PathBuf,
    owner: String,
    config: IdsConfig,
    foreign: Vec<(u64, u64)>,
    blocks: Mutex<Blocks>,
}

impl IdBlocks {
    /// Blocks for the node whose state is in `state_dir`. Blocks in `held` belong to its containers; all others that
    /// it claimed earlier are ready for new ones. Ranges of /etc/subuid and /etc/subgid are left alone.
    ///
    /// # Errors
    ///
    /// The claims directory cannot be made or read.
    pub(crate) fn open(claims_dir: &Path, state_dir: &Path, config: &IdsConfig, held: &[IdRange]) -> io::Result<Self> {
        let directory = claims_dir.join("ids");
        std::fs::create_dir_all(&directory)?;
        let mut foreign = Vec::new();
        for file in ["/etc/subuid", "/etc/subgid"] {
            foreign.extend(parse_subordinate_ids(&std::fs::read_to_string(file).unwrap_or_default()));
        }
        let blocks = Self {
            directory,
            owner: state_dir.display().to_string(),
            config: config.clone(),
            foreign,
            blocks: Mutex::new(Blocks { spare: BTreeSet::new(), next: config.first }),
        };
        let held: BTreeSet<u32> = held.iter().map(|range| range.base).collect();
        let mut spare = BTreeSet::new();
        for entry in std::fs::read_dir(&blocks.directory)?.flatten() {
            let Some(base) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            if std::fs::read_to_string(entry.path()).is_ok_and(|owner| owner == blocks.owner) && !held.contains(&base) {
                spare.insert(base);
            }
        }
        while spare.len() > SPARE_MAX {
            if let Some(base) = spare.pop_last() {
                std::fs::remove_file(blocks.file(base))?;
            }
        }
        blocks.lock().spare = spare;
        Ok(blocks)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, base: u32) -> PathBuf {
        self.directory.join(base.to_string())
    }

    /// Claims blocks until [`SPARE_MAX`] are ready.
    pub(crate) fn fill(&self) {
        loop {
            if self.lock().spare.len() >= SPARE_MAX {
                return;
            }
            match self.claim_new() {
                Ok(base) => self.lock().spare.insert(base),
                // The next container that needs one says why there is none.
                Err(_) => return,
            };
        }
    }

    /// A block for a new container.
    ///
    /// # Errors
    ///
    /// Admission when none is left.
    pub(crate) fn take(&self) -> Result<IdRange, Problem> {
        let spare = self.lock().spare.pop_first();
        let base = match spare {
            Some(base) => base,
            None => self.claim_new()?,
        };
        Ok(IdRange { base, size: IdRange::SIZE })
    }

    /// Claims the block that a container had before the machine was restarted; another one when somebody has it now.
    ///
    /// # Errors
    ///
    /// Admission when none is left.
    pub(crate) fn take_again(&self, range: IdRange) -> Result<IdRange, Problem> {
        self.lock().spare.remove(&range.base);
        let is_ours = || std::fs::read_to_string(self.file(range.base)).is_ok_and(|owner| owner == self.owner);
        if range.size == IdRange::SIZE && (self.claim(range.base).is_ok() || is_ours()) {
            return Ok(range);
        }
        self.take()
    }

    /// Gives a block back.
    pub(crate) fn give_back(&self, range: IdRange) {
        {
            let mut blocks = self.lock();
            if blocks.spare.len() < SPARE_MAX {
                blocks.spare.insert(range.base);
                return;
            }
        }
        if let Err(error) = std::fs::remove_file(self.file(range.base)) {
            tracing::warn!(base = range.base, %error, "claim of ids");
        }
    }

    /// Gives back the blocks that no container has, for other nodes to claim.
    pub(crate) fn give_back_spare(&self) {
        for base in std::mem::take(&mut self.lock().spare) {
            if let Err(error) = std::fs::remove_file(self.file(base)) {
                tracing::warn!(base, %error, "claim of ids");
            }
        }
    }

    fn claim(&self, base: u32) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(self.file(base))?;
        file.write_all(self.owner.as_bytes())
    }

    fn claim_new(&self) -> Result<u32, Problem> {
        let first = self.config.first;
        let count = (self.config.last - first).saturating_add(1) / IdRange::SIZE;
        let start = (self.lock().next - first) / IdRange::SIZE;
        for step in 0..count {
            let base = first + (start + step) % count * IdRange::SIZE;
            let (from, to) = (u64::from(base), u64::from(base) + u64::from(IdRange::SIZE));
            if self.foreign.iter().any(|&(begin, end)| from < end && begin < to) {
                continue;
            }
            match self.claim(base) {
                Ok(()) => {
                    self.lock().next = first + (start + step + 1) % count * IdRange::SIZE;
                    return Ok(base);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    let detail = format!("claim of host ids {}: {error}", self.file(base).display());
                    return Err(Problem::new(ProblemCode::Internal, detail));
                }
            }
        }
        let detail = format!("ids: all {count} blocks of host ids from {first} to {} are taken", self.config.last);
        Err(Problem::new(ProblemCode::Admission, detail)
            .with_remedy("delete containers, or widen ids.first and ids.last"))
    }
}

/// Ranges `[begin, end)` of lines `name:begin:count`.
fn parse_subordinate_ids(text: &str) -> Vec<(u64, u64)> {
    let range = |line: &str| {
        let mut fields = line.split(':').skip(1);
        let begin: u64 = fields.next()?.parse().ok()?;
        let count: u64 = fields.next()?.parse().ok()?;
        Some((begin, begin.saturating_add(count)))
    };
    text.lines().filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(claims: &Path, state: &str, held: &[IdRange]) -> IdBlocks {
        let config = IdsConfig { first: 1 << 16, last: (5 << 16) - 1 };
        let mut blocks = IdBlocks::open(claims, Path::new(state), &config, held).unwrap();
        blocks.foreign = vec![(2 << 16, (2 << 16) + 5)];
        blocks
    }

    #[test]
    fn two_nodes_never_get_the_same_block_and_foreign_ranges_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (blocks(dir.path(), "/a", &[]), blocks(dir.path(), "/b", &[]));
        let taken = [one.take().unwrap(), other.take().unwrap(), one.take().unwrap()].map(|range| range.base >> 16);
        assert_eq!(taken, [1, 3, 4]);
        assert_eq!(other.take().unwrap_err().code, ProblemCode::Admission);
        one.give_back(IdRange { base: 1 << 16, size: IdRange::SIZE });
        assert_eq!(one.take().unwrap().base, 1 << 16);
    }

    #[test]
    fn a_restarted_node_finds_its_own_blocks_again() {
        let dir = tempfile::tempdir().unwrap();
        let held = blocks(dir.path(), "/a", &[]).take().unwrap();
        let again = blocks(dir.path(), "/a", &[held]);
        assert_eq!(again.take_again(held).unwrap(), held);
        let other = blocks(dir.path(), "/b", &[]);
        assert_ne!(other.take_again(held).unwrap(), held);
    }

    #[test]
    fn a_node_that_ends_keeps_only_what_its_containers_have() {
        let dir = tempfile::tempdir().unwrap();
        let blocks = blocks(dir.path(), "/a", &[]);
        blocks.fill();
        let held = blocks.take().unwrap();
        blocks.give_back_spare();
        let files: Vec<_> =
            std::fs::read_dir(dir.path().join("ids")).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(files, [std::ffi::OsString::from(held.base.to_string())]);
    }
}
