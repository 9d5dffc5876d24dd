//! Files between a container and its clients, as tar streams.
//!
//! A container's tree is its owner's to change at any moment, so no path of it is ever given to the host's resolver:
//! everything is opened beneath a descriptor of the container's root (`openat2` with `RESOLVE_IN_ROOT`), then step by
//! step from descriptor to descriptor without following a link. Only regular files, directories and links go either
//! way. What comes in is made as the container's root ([`FileIds`]), so that it can be made on every mount of the
//! container and belongs to nobody of the host.
//!
//! All of it blocks, and runs on threads for that.

mod read;
mod write;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use insula_kernel::file_ids::FileIds;
use insula_model::IdRange;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatVfsMountFlags, StatxFlags, fstatvfs, openat2, statx};
use rustix::io::Errno;
use tokio::sync::oneshot;

use crate::container::lend::LentFiles;

/// Directories within directories.
const DEPTH_MAX: usize = 256;

/// The files of a container.
#[derive(Debug)]
pub(crate) struct ContainerFiles {
    root: OwnedFd,
    ids: IdRange,
    lent: Option<Lent>,
}

/// What goes for a container that does not run.
#[derive(Debug)]
struct Lent {
    /// Mounts whose files are there at the next start.
    kept: Vec<u64>,
    /// Given back when dropped, after the root.
    _lease: oneshot::Sender<()>,
}

/// A copy could not be made; what was copied before stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    /// A path of the container.
    #[error("{path}")]
    Inside {
        /// The path.
        path: String,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// Neither file nor directory nor link.
    #[error("{path} is neither a file nor a directory nor a link")]
    Kind {
        /// The path.
        path: String,
    },
    /// Directories within directories without end.
    #[error("{path} lies deeper than {DEPTH_MAX} directories")]
    Depth {
        /// The path.
        path: String,
    },
    /// What is written there would not be seen again.
    #[error("{path} is made anew at each start, and the container does not run")]
    Passing {
        /// The path.
        path: String,
    },
    /// The image is nobody's to change.
    #[error("{path} belongs to the image, which is read-only")]
    Image {
        /// The path.
        path: String,
    },
    /// An entry of the archive that leads out, or has no name.
    #[error("the archive has the entry `{}`, which does not lie below one name", path.escape_debug())]
    Entry {
        /// The entry.
        path: String,
    },
    /// Several things for one name.
    #[error("the archive has more than one entry at its top, and {path} is no directory that could hold them")]
    Several {
        /// Where they were to go.
        path: String,
    },
    /// The archive could not be read or written.
    #[error("archive")]
    Archive(#[source] io::Error),
}

impl ContainerFiles {
    /// The files below `root`, an open directory, of a container with `ids`.
    pub(crate) fn new(root: OwnedFd, ids: IdRange) -> Self {
        Self { root, ids, lent: None }
    }

    /// The files of a container with `ids` that does not run.
    ///
    /// # Errors
    ///
    /// The kernel does not say in which mount the root is.
    pub(crate) fn lent(files: LentFiles, ids: IdRange) -> Result<Self, CopyError> {
        let mut own = Self::new(files.root, ids);
        let mut kept = Vec::new();
        if !is_read_only(own.root.as_fd()).map_err(inside("/"))? {
            kept.push(mount_of(own.root.as_fd()).map_err(inside("/"))?);
        }
        for path in &files.kept {
            // A single file cannot be written into, and what the container has hidden by a link is not there.
            if let Ok(directory) = own.open(path, OFlags::PATH | OFlags::DIRECTORY) {
                kept.push(mount_of(directory.as_fd()).map_err(inside(path))?);
            }
        }
        own.lent = Some(Lent { kept, _lease: files.lease });
        Ok(own)
    }

    /// Refuses a directory in which nothing would be kept.
    fn expect_kept(&self, directory: BorrowedFd<'_>, shown: &str) -> Result<(), CopyError> {
        let Some(lent) = &self.lent else { return Ok(()) };
        if lent.kept.contains(&mount_of(directory).map_err(inside(shown))?) {
            return Ok(());
        }
        let path = shown.to_owned();
        Err(if is_read_only(directory).map_err(inside(shown))? {
            CopyError::Image { path }
        } else {
            CopyError::Passing { path }
        })
    }

    /// Opens a path of the container as a process in it would, but without descriptors of the kernel's own making.
    fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd, CopyError> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        retried(|| openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)).map_err(inside(path))
    }
}

/// The kernel gives up with `EAGAIN` when somebody renames on the way; that is bounded here.
fn retried(open: impl Fn() -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    for _ in 0..64 {
        match open() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens one name in a directory, without following a link.
fn open_name(directory: BorrowedFd<'_>, name: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    retried(|| openat2(directory, name, flags, mode, resolve))
}

/// Opens one name as itself, also if it is a link.
fn open_as_itself(directory: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn inside(path: &str) -> impl FnOnce(Errno) -> CopyError {
    let path = path.to_owned();
    move |errno| CopyError::Inside { path, errno }
}

/// From now on, in this thread, files are made as the container's root; what root may on files stays.
fn as_root_of(ids: IdRange) -> Result<FileIds, Errno> {
    let before = insula_kernel::capability::thread_capabilities()?;
    let (uid, gid) = (rustix::process::Uid::from_raw(ids.base), rustix::process::Gid::from_raw(ids.base));
    let guard = FileIds::become_ids(uid, gid);
    // The kernel takes the file capabilities away with the ids; the thread may have them back.
    insula_kernel::capability::set_thread_capabilities(before)?;
    Ok(guard)
}

/// Number of the mount that an open file is in.
fn mount_of(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map(|found| found.stx_mnt_id)
}

fn is_read_only(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    fstatvfs(file).map(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Which kind of file an open one is.
fn stat(file: &impl AsFd, path: &str) -> Result<rustix::fs::Stat, CopyError> {
    rustix::fs::fstat(file).map_err(inside(path))
}

#[cfg(test)]
mod tests;
