//! Performing [`FileStep`]s: files, directories, links and nodes below a slot.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use crate::beneath;
use crate::failure::StepFailure;
use crate::host_step::{DeviceKind, FileStep, Owner};
use crate::slot::Slots;

/// Does one step.
pub(crate) fn perform(step: &FileStep, slots: &Slots) -> Result<(), StepFailure> {
    match step {
        FileStep::Dir { at, mode, owner } => make_dir(slots.get(at.base)?, &at.path, *mode, *owner),
        FileStep::File { at, mode, owner, content } => {
            write_file(slots.get(at.base)?, &at.path, (*mode, *owner), content)
        }
        FileStep::Link { at, target, owner } => make_link(slots.get(at.base)?, &at.path, target, *owner),
        FileStep::Device { at, device, mode, owner } => {
            let (folder, name) = beneath::parent(slots.get(at.base)?, &at.path)?;
            let kind = match device.kind {
                DeviceKind::Character => FileType::CharacterDevice,
                DeviceKind::Block => FileType::BlockDevice,
            };
            let number = rustix::fs::makedev(device.major, device.minor);
            let wrong = |errno| StepFailure::kernel(format!("mknodat({})", at.path.display()), errno);
            rustix::fs::mknodat(&folder, name, kind, Mode::from_raw_mode(*mode), number).map_err(wrong)?;
            rustix::fs::chmodat(&folder, name, Mode::from_raw_mode(*mode), AtFlags::empty()).map_err(wrong)?;
            own(folder.as_fd(), name, *owner).map_err(wrong)
        }
        FileStep::Like { model, at } => {
            let model = beneath::open(slots.get(model.base)?, &model.path, OFlags::PATH | OFlags::DIRECTORY)?;
            let changed = beneath::open(slots.get(at.base)?, &at.path, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let wrong = |errno| StepFailure::kernel(format!("fchown({})", at.path.display()), errno);
            let found = rustix::fs::fstat(&model).map_err(wrong)?;
            let (uid, gid) = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
            rustix::fs::fchown(&changed, Some(uid), Some(gid)).map_err(wrong)?;
            rustix::fs::fchmod(&changed, Mode::from_raw_mode(found.st_mode & 0o7777)).map_err(wrong)
        }
    }
}

fn own(folder: BorrowedFd<'_>, name: &std::ffi::OsStr, owner: Owner) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

fn make_dir(base: BorrowedFd<'_>, path: &Path, mode: u32, owner: Owner) -> Result<(), StepFailure> {
    let (folder, name) = beneath::parent(base, path)?;
    let wrong = |errno| StepFailure::kernel(format!("mkdirat({})", path.display()), errno);
    match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(mode)) {
        // What is there may be anything; only a directory serves.
        Err(Errno::EXIST) => {
            return beneath::open(folder.as_fd(), Path::new(name), OFlags::PATH | OFlags::DIRECTORY).map(drop);
        }
        made => made.map_err(wrong)?,
    }
    rustix::fs::chmodat(&folder, name, Mode::from_raw_mode(mode), AtFlags::empty()).map_err(wrong)?;
    own(folder.as_fd(), name, owner).map_err(wrong)
}

fn write_file(
    base: BorrowedFd<'_>,
    path: &Path,
    (mode, owner): (u32, Owner),
    content: &[u8],
) -> Result<(), StepFailure> {
    let (folder, name) = beneath::parent(base, path)?;
    let wrong = |errno| StepFailure::kernel(format!("write({})", path.display()), errno);
    clear(folder.as_fd(), name).map_err(wrong)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(&folder, name, flags, Mode::from_raw_mode(mode)).map_err(wrong)?;
    let mut left = content;
    while !left.is_empty() {
        let written = rustix::io::write(&file, left).map_err(wrong)?;
        left = left.get(written..).unwrap_or_default();
    }
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(wrong)?;
    rustix::fs::fchown(&file, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid))).map_err(wrong)
}

fn make_link(base: BorrowedFd<'_>, path: &Path, target: &Path, owner: Owner) -> Result<(), StepFailure> {
    let (folder, name) = beneath::parent(base, path)?;
    let wrong = |errno| StepFailure::kernel(format!("symlinkat({})", path.display()), errno);
    clear(folder.as_fd(), name).map_err(wrong)?;
    rustix::fs::symlinkat(target, &folder, name).map_err(wrong)?;
    own(folder.as_fd(), name, owner).map_err(wrong)
}

/// Makes room for a new file. A directory in the way stays, and the caller's own call then names it.
fn clear(folder: BorrowedFd<'_>, name: &std::ffi::OsStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => Ok(()),
        Err(errno) => Err(errno),
    }
}
