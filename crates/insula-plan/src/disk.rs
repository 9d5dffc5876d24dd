//! Performing [`DiskStep`]: a container's data in a file system of its own.
//!
//! Two mounts of one file by two devices would destroy it. The lock on the file is held by the loop device itself (a lock
//! belongs to the open description, which the device keeps), so it is free exactly when the kernel has done with the
//! file, however the last container, worker or daemon ended.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use insula_kernel::loop_device::{DeviceAccess, LoopDevice};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};

use crate::failure::StepFailure;
use crate::host_step::{DiskStep, MountAttributes, Owner, Tmpfs};
use crate::mounts;
use crate::slot::Slots;

/// Longest wait for the kernel to write out and let go what the container's last run had mounted.
const RELEASE_WAIT_MAX: Duration = Duration::from_secs(20);
/// Pause between two looks at that.
const RELEASE_PAUSE: Duration = Duration::from_millis(2);

/// What the container's mount table and `df` call the device: the kernel shows the path as it was given, and looks it up
/// from the working directory. So it tells neither a device nor a path of the host.
const SOURCE: &str = "data";

fn kernel(call: &'static str) -> impl Fn(Errno) -> StepFailure {
    move |errno| StepFailure::kernel(call, errno)
}

/// Waits until the kernel has let go what the container's last run had mounted of `file`, and keeps others from it as
/// long as this open description is there.
///
/// # Errors
///
/// - `EWOULDBLOCK`: it is still in use after twenty seconds.
pub fn lock_disk(file: BorrowedFd<'_>) -> Result<(), Errno> {
    let begun = Instant::now();
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if begun.elapsed() < RELEASE_WAIT_MAX => std::thread::sleep(RELEASE_PAUSE),
            locked => return locked,
        }
    }
}

/// A directory in memory, attached nowhere, in which the device is called [`SOURCE`].
fn named(device: BorrowedFd<'_>) -> Result<OwnedFd, StepFailure> {
    let owner = Owner { uid: 0, gid: 0 };
    let attributes = MountAttributes::NO_SUID.and(MountAttributes::NO_DEV).and(MountAttributes::NO_EXEC);
    let names = mounts::memory(&Tmpfs { size: 1 << 12, inodes: 4, mode: 0o700, owner, attributes })?;
    let target = format!("/proc/self/fd/{}", device.as_raw_fd());
    rustix::fs::symlinkat(target, &names, SOURCE).map_err(kernel("symlinkat(name of the disk)"))?;
    Ok(names)
}

/// Does `work` with another working directory; the worker has no other thread that would see it.
fn within<T>(directory: BorrowedFd<'_>, work: impl FnOnce() -> Result<T, StepFailure>) -> Result<T, StepFailure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let home = rustix::fs::openat(CWD, ".", flags, Mode::empty()).map_err(kernel("open(working directory)"))?;
    rustix::process::fchdir(directory).map_err(kernel("fchdir(name of the disk)"))?;
    let done = work();
    rustix::process::fchdir(home).map_err(kernel("fchdir(back)"))?;
    done
}

/// Does the step.
pub(crate) fn perform(step: DiskStep, slots: &mut Slots) -> Result<(), StepFailure> {
    let file = slots.get(step.file)?;
    lock_disk(file).map_err(kernel("flock(disk of the container, which is in use)"))?;
    let device = LoopDevice::attach(file, DeviceAccess::ReadWrite).map_err(kernel("ioctl(LOOP_CONFIGURE)"))?;
    let context = fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC).map_err(kernel("fsopen(ext4)"))?;
    let names = named(device.as_fd())?;
    fsconfig_set_string(&context, "source", SOURCE).map_err(kernel("fsconfig(ext4, source)"))?;
    fsconfig_set_string(&context, "errors", "remount-ro").map_err(kernel("fsconfig(ext4, errors)"))?;
    // Tables of inodes that nobody needs yet stay holes in the file.
    fsconfig_set_flag(&context, "noinit_itable").map_err(kernel("fsconfig(ext4, noinit_itable)"))?;
    within(names.as_fd(), || fsconfig_create(&context).map_err(kernel("fsconfig(create ext4)")))?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)
        .map_err(kernel("fsmount(ext4)"))?;
    Ok(slots.put(step.into, mount)?)
}
