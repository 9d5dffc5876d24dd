//! A mount namespace of the worker's own, for what kernels before 6.15 do only with mounts that are attached: clone
//! them, and take them as layers of an overlay.
//!
//! ```text
//!   home (the launcher's)                 workshop (nobody else's; gone with the worker)
//!     images, volumes: cloned from here     /tmp  memory
//!                                           /tmp/0, /tmp/1 …  detached mounts, attached
//! ```
//!
//! The worker goes there for one call and comes back, because what it clones from the host is attached at home. The
//! kernel destroys the place with the last handle on it, however the worker ends: nothing is left to sweep.

use std::cell::{Cell, OnceCell};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use insula_kernel::namespace::unshare;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, mount_change, move_mount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::failure::StepFailure;
use crate::host_step::{MountAttributes, Owner, Tmpfs};
use crate::mounts;

/// Directory of the host that the workshop's memory is mounted over; every host has it.
const BENCH: &str = "/tmp";

/// Where the worker can go; made when it first goes.
#[derive(Debug, Default)]
pub(crate) struct Workshop {
    spaces: OnceCell<Spaces>,
    places: Cell<u32>,
}

#[derive(Debug)]
struct Spaces {
    home: OwnedFd,
    workshop: OwnedFd,
}

/// Being there; dropped, the worker is at home again.
#[derive(Debug)]
pub(crate) struct Visit<'shop> {
    shop: &'shop Workshop,
    home: BorrowedFd<'shop>,
}

fn kernel(call: &'static str) -> impl Fn(Errno) -> StepFailure {
    move |errno| StepFailure::kernel(call, errno)
}

impl Workshop {
    /// Goes there.
    pub(crate) fn enter(&self) -> Result<Visit<'_>, StepFailure> {
        let spaces = match self.spaces.get() {
            Some(spaces) => {
                go(spaces.workshop.as_fd())?;
                spaces
            }
            None => {
                let made = open_up()?;
                self.spaces.get_or_init(|| made)
            }
        };
        Ok(Visit { shop: self, home: spaces.home.as_fd() })
    }
}

impl Visit<'_> {
    /// Attaches a detached mount, or moves one that was attached here before: its path here.
    pub(crate) fn place(&self, mount: BorrowedFd<'_>) -> Result<PathBuf, StepFailure> {
        let number = self.shop.places.get();
        self.shop.places.set(number + 1);
        let path = PathBuf::from(format!("{BENCH}/{number}"));
        rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)).map_err(kernel("mkdir(workshop)"))?;
        move_mount(mount, "", CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(kernel("move_mount(workshop)"))?;
        Ok(path)
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        // One who may go may come back; if not, the next clone from home is refused by name.
        go(self.home).unwrap_or_default();
    }
}

fn go(space: BorrowedFd<'_>) -> Result<(), StepFailure> {
    move_into_link_name_space(space, Some(LinkNameSpaceType::Mount)).map_err(kernel("setns(mount)"))
}

/// Makes the namespace; the worker is in it afterwards.
fn open_up() -> Result<Spaces, StepFailure> {
    let here = || {
        rustix::fs::open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(kernel("open(/proc/self/ns/mnt)"))
    };
    let home = here()?;
    unshare(UnshareFlags::NEWNS).map_err(kernel("unshare(mount)"))?;
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    mount_change("/", private).map_err(kernel("mount(/, MS_REC|MS_PRIVATE)"))?;
    let root = Owner { uid: 0, gid: 0 };
    let attributes = MountAttributes::NO_SUID.and(MountAttributes::NO_DEV).and(MountAttributes::NO_EXEC);
    let memory = mounts::memory(&Tmpfs { size: 1 << 16, inodes: 256, mode: 0o755, owner: root, attributes })?;
    move_mount(&memory, "", CWD, BENCH, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(kernel("move_mount(workshop)"))?;
    Ok(Spaces { home, workshop: here()? })
}
