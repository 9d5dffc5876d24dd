//! What this kernel can do, of that which kernels that we run on differ in. Found by trying, once, and then passed on
//! as a value.
//!
//! Whether an EROFS image can be mounted from its file is none of these: it depends on the file's own file system too
//! (memory cannot), so whoever mounts tries.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_fd, fsmount, fsopen};

/// What this kernel can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// What can be done with a mount that is attached nowhere.
    pub detached_mounts: DetachedMounts,
}

/// What can be done with a mount that is attached nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DetachedMounts {
    /// Everything: it can be cloned, and be a layer of an overlay, named by descriptor (Linux 6.15).
    Whole,
    /// It can be changed and attached, no more.
    AttachOnly,
}

impl Features {
    /// Tries each feature on objects that vanish again. Needs the right to mount; without it everything counts as
    /// missing.
    #[must_use]
    pub fn probe() -> Self {
        let detached_mounts = match overlay_of_detached() {
            Ok(()) => DetachedMounts::Whole,
            Err(_) => DetachedMounts::AttachOnly,
        };
        Self { detached_mounts }
    }
}

fn memory() -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

fn overlay_of_detached() -> Result<(), Errno> {
    let (lower, upper) = (memory()?, memory()?);
    let folder = |name: &str| {
        rustix::fs::mkdirat(&upper, name, Mode::RWXU)?;
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        rustix::fs::openat(&upper, name, flags, Mode::empty())
    };
    let (changes, work) = (folder("u")?, folder("w")?);
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_fd(&context, "lowerdir+", lower.as_fd())?;
    fsconfig_set_fd(&context, "upperdir", changes.as_fd())?;
    fsconfig_set_fd(&context, "workdir", work.as_fd())?;
    fsconfig_create(&context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_what_is_found_fits_the_kernels_version() {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        let version = (numbers.next().unwrap(), numbers.next().unwrap());
        let features = Features::probe();
        let detached = if version >= (6, 15) { DetachedMounts::Whole } else { DetachedMounts::AttachOnly };
        assert_eq!(features, Features { detached_mounts: detached });
    }
}
