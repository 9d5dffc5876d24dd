//! Performing [`InsideStep`]s: what the container's first process does to itself and to its mount namespace.
//!
//! Until [`InsideStep::LeaveHost`] the process's own root is still the host's; the container's root is a directory
//! handle, and every target is resolved below it without following links.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use insula_kernel::mount_attributes::set_attributes;
use insula_kernel::namespace::unshare;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, unmount,
};
use rustix::thread::UnshareFlags;

use crate::beneath;
use crate::failure::{StepFailure, TargetProblem};
use crate::host_step::{Depth, MountAttributes, Owner, Tmpfs};
use crate::inside_step::{Filesystem, InsideStep, Missing};
use crate::mounts;
use crate::protocol::channel::{Channel, Wait};
use crate::slot::{FdSlot, Slots};

/// Directories of the host that the root may be attached to for the moment before it becomes the root itself; it is
/// seen by nobody else, this mount namespace being new.
const STAGES: [&str; 3] = ["/tmp", "/run", "/var"];

/// `PROC_SUPER_MAGIC` (include/uapi/linux/magic.h).
const PROC_MAGIC: u64 = 0x9fa0;

/// Device number of `/dev/null`.
const NULL_DEVICE: (u32, u32) = (1, 3);

/// The first process on its way.
#[derive(Debug)]
pub(crate) struct Inside<'world> {
    /// Descriptors by slot.
    pub(crate) slots: Slots,
    /// Where a console's other end goes.
    pub(crate) worker: &'world Channel,
    /// The container's root, once it was entered.
    pub(crate) root: Option<OwnedFd>,
    /// The empty directory behind which others are hidden, once one is: one file system in memory serves them all.
    pub(crate) empty: Option<OwnedFd>,
}

impl Inside<'_> {
    /// Does one step.
    pub(crate) fn perform(&mut self, step: &InsideStep) -> Result<(), StepFailure> {
        match step {
            InsideStep::EnterRoot { mount } => self.enter_root(*mount),
            InsideStep::Attach { mount, target, missing } => self.attach_slot(*mount, target, *missing),
            InsideStep::Mount { filesystem, options, attributes, target } => {
                let mount = new_mount(*filesystem, options, *attributes)?;
                let place = beneath::open_target(self.root()?, target, OFlags::PATH | OFlags::DIRECTORY)?;
                attach(mount.as_fd(), place.as_fd(), target)
            }
            InsideStep::Mask { target } => self.mask(target),
            InsideStep::ReadOnly { target } => self.protect(target),
            InsideStep::HostName { name } => rustix::system::sethostname(name.as_bytes())
                .map_err(|errno| StepFailure::kernel(format!("sethostname({name})"), errno)),
            InsideStep::Setting { path, value, missing } => self.set(path, value, *missing),
            InsideStep::Link(step) => step.perform(None).map_err(|error| StepFailure::from_error(&error)),
            InsideStep::Privilege(step) => step.perform().map_err(|error| StepFailure::from_error(&error)),
            InsideStep::UnshareCgroup => {
                unshare(UnshareFlags::NEWCGROUP).map_err(|errno| StepFailure::kernel("unshare(CLONE_NEWCGROUP)", errno))
            }
            InsideStep::Console { target, into } => self.console(target, *into),
            InsideStep::LeaveHost => self.leave_host(),
        }
    }

    fn root(&self) -> Result<BorrowedFd<'_>, StepFailure> {
        let reason = || StepFailure::BadPlan { reason: "a target is named before the root was entered".to_owned() };
        self.root.as_ref().map(AsFd::as_fd).ok_or_else(reason)
    }

    fn enter_root(&mut self, mount: FdSlot) -> Result<(), StepFailure> {
        let wrong = |call: &'static str| move |errno| StepFailure::kernel(call, errno);
        let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
        mount_change("/", private).map_err(wrong("mount(/, MS_REC|MS_PRIVATE)"))?;
        let mount = self.slots.get(mount)?;
        let mut last = Errno::NOENT;
        for stage in STAGES {
            match move_mount(mount, "", CWD, stage, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH) {
                Ok(()) => {
                    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    let root = rustix::fs::open(stage, flags, Mode::empty()).map_err(wrong("open(root)"))?;
                    self.root = Some(root);
                    return Ok(());
                }
                Err(errno) => last = errno,
            }
        }
        Err(StepFailure::kernel("move_mount(root)", last))
    }

    fn attach_slot(&self, mount: FdSlot, target: &str, missing: Missing) -> Result<(), StepFailure> {
        let mount = self.slots.get(mount)?;
        let place = match (beneath::open_target(self.root()?, target, OFlags::PATH), missing) {
            (Err(failure), Missing::Skip) if beneath::is_missing(&failure) => return Ok(()),
            (Err(failure), Missing::Make) if beneath::is_missing(&failure) => {
                beneath::make_target(self.root()?, target, is_directory(mount)?)?;
                beneath::open_target(self.root()?, target, OFlags::PATH)?
            }
            (place, _) => place?,
        };
        match (is_directory(mount)?, is_directory(place.as_fd())?) {
            (true, false) => {
                Err(StepFailure::Target { target: target.to_owned(), problem: TargetProblem::NotDirectory })
            }
            (false, true) => {
                Err(StepFailure::Target { target: target.to_owned(), problem: TargetProblem::IsDirectory })
            }
            _ => attach(mount, place.as_fd(), target),
        }
    }

    fn mask(&mut self, target: &str) -> Result<(), StepFailure> {
        let place = match beneath::open_target(self.root()?, target, OFlags::PATH) {
            Err(failure) if beneath::is_missing(&failure) => return Ok(()),
            place => place?,
        };
        if !is_directory(place.as_fd())? {
            return attach(self.null_mount()?.as_fd(), place.as_fd(), target);
        }
        if let Some(empty) = &self.empty {
            let mask = mounts::clone_tree(empty.as_fd(), Path::new(""), Depth::One)?;
            return attach(mask.as_fd(), place.as_fd(), target);
        }
        let read_only = MountAttributes::READ_ONLY.and(MountAttributes::NO_SUID).and(MountAttributes::NO_EXEC);
        let owner = Owner { uid: 0, gid: 0 };
        let mask = mounts::memory(&Tmpfs { size: 4096, inodes: 2, mode: 0o755, owner, attributes: read_only })?;
        attach(mask.as_fd(), place.as_fd(), target)?;
        // Attached by now, as older kernels want of what they clone.
        self.empty = Some(mask);
        Ok(())
    }

    /// The null device of the container's `/dev`, which the worker made: whatever stands there by now must be it.
    fn null_mount(&self) -> Result<OwnedFd, StepFailure> {
        let null = beneath::open_target(self.root()?, "/dev/null", OFlags::PATH)?;
        let found = rustix::fs::fstat(&null).map_err(|errno| StepFailure::kernel("fstat(/dev/null)", errno))?;
        let device = (rustix::fs::major(found.st_rdev), rustix::fs::minor(found.st_rdev));
        if FileType::from_raw_mode(found.st_mode) != FileType::CharacterDevice || device != NULL_DEVICE {
            return Err(StepFailure::Impostor {
                target: "/dev/null".to_owned(),
                expected: "the null device".to_owned(),
            });
        }
        mounts::clone_tree(null.as_fd(), Path::new(""), Depth::One)
    }

    fn protect(&self, target: &str) -> Result<(), StepFailure> {
        let place = match beneath::open_target(self.root()?, target, OFlags::PATH) {
            Err(failure) if beneath::is_missing(&failure) => return Ok(()),
            place => place?,
        };
        let copy = mounts::clone_tree(place.as_fd(), Path::new(""), Depth::Tree)?;
        set_attributes(copy.as_fd(), MountAttributes::READ_ONLY.0, None)
            .map_err(|errno| StepFailure::kernel(format!("mount_setattr({target})"), errno))?;
        attach(copy.as_fd(), place.as_fd(), target)
    }

    fn set(&self, path: &str, value: &str, missing: Missing) -> Result<(), StepFailure> {
        let target = format!("/proc/sys/{path}");
        let impostor = || StepFailure::Impostor { target: target.clone(), expected: "a file of procfs".to_owned() };
        let wrong = |errno| StepFailure::kernel(format!("write({target})"), errno);
        let proc = beneath::open_target(self.root()?, "/proc", OFlags::PATH | OFlags::DIRECTORY)?;
        let found = rustix::fs::fstatfs(&proc).map_err(wrong)?;
        if u64::try_from(found.f_type).ok() != Some(PROC_MAGIC) {
            return Err(impostor());
        }
        // A file of procfs that was mounted over this one would be another setting.
        match beneath::open_on_one_mount(proc.as_fd(), &Path::new("sys").join(path), OFlags::WRONLY) {
            Ok(file) => rustix::io::write(&file, value.as_bytes()).map(drop).map_err(wrong),
            Err(Errno::XDEV) => Err(impostor()),
            Err(Errno::NOENT) if missing == Missing::Skip => Ok(()),
            // Of the kernel, not of the image.
            Err(errno) => Err(StepFailure::kernel(format!("open({target})"), errno)),
        }
    }

    fn console(&mut self, target: &str, into: FdSlot) -> Result<(), StepFailure> {
        use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, ptsname, unlockpt};
        let wrong = |call: &'static str| move |errno| StepFailure::kernel(call, errno);
        let terminal = OFlags::RDWR | OFlags::NOCTTY;
        let master = beneath::open_target(self.root()?, "/dev/pts/ptmx", terminal)?;
        unlockpt(&master).map_err(wrong("ioctl(TIOCSPTLCK)"))?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags).map_err(wrong("ioctl(TIOCGPTPEER)"))?;
        let name = ptsname(&master, Vec::new()).map_err(wrong("ioctl(TIOCGPTN)"))?;
        let node = beneath::open_target(self.root()?, &name.to_string_lossy(), OFlags::PATH)?;
        let number = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|found| found.st_rdev).map_err(wrong("fstat(pty)"));
        if number(node.as_fd())? != number(slave.as_fd())? {
            let target = name.to_string_lossy().into_owned();
            return Err(StepFailure::Impostor { target, expected: "the terminal that was just made".to_owned() });
        }
        beneath::make_target(self.root()?, target, false)?;
        let place = beneath::open_target(self.root()?, target, OFlags::PATH)?;
        let mount = mounts::clone_tree(node.as_fd(), Path::new(""), Depth::One)?;
        attach(mount.as_fd(), place.as_fd(), target)?;
        let told = self.worker.send(&crate::execute::FromChild::Console, &[master.as_fd()], Wait::Forever);
        told.map_err(|error| StepFailure::from_error(&error))?;
        Ok(self.slots.put(into, slave)?)
    }

    fn leave_host(&mut self) -> Result<(), StepFailure> {
        let wrong = |call: &'static str| move |errno| StepFailure::kernel(call, errno);
        rustix::process::fchdir(self.root()?).map_err(wrong("fchdir(root)"))?;
        // The old root ends up on top of the new one at the same place, from where it is then taken away.
        rustix::process::pivot_root(".", ".").map_err(wrong("pivot_root"))?;
        unmount(".", UnmountFlags::DETACH).map_err(wrong("umount2(old root, MNT_DETACH)"))?;
        rustix::process::chdir("/").map_err(wrong("chdir(/)"))
    }
}

fn is_directory(fd: BorrowedFd<'_>) -> Result<bool, StepFailure> {
    let found = rustix::fs::fstat(fd).map_err(|errno| StepFailure::kernel("fstat(mount)", errno))?;
    Ok(FileType::from_raw_mode(found.st_mode) == FileType::Directory)
}

fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>, target: &str) -> Result<(), StepFailure> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", place, "", flags).map_err(|errno| StepFailure::kernel(format!("move_mount({target})"), errno))
}

fn new_mount(filesystem: Filesystem, options: &[String], attributes: MountAttributes) -> Result<OwnedFd, StepFailure> {
    let name = filesystem.kernel_name();
    let wrong = |call: &'static str| move |errno| StepFailure::kernel(format!("{call}({name})"), errno);
    let context = fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC).map_err(wrong("fsopen"))?;
    for option in options {
        let set = match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&context, key, value),
            None => fsconfig_set_flag(&context, option.as_str()),
        };
        set.map_err(|errno| StepFailure::kernel(format!("fsconfig({name}, {option})"), errno))?;
    }
    fsconfig_create(&context).map_err(wrong("fsconfig(create)"))?;
    let attributes = MountAttrFlags::from_bits_retain(attributes.0);
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(wrong("fsmount"))
}
