//! The table of image mounts: one mount per image version, in the launcher's mount namespace.
//!
//! A second mount of the same file would be a second superblock with a second page cache, so there is one table, and a
//! launcher that replaces another one finds its mounts by their place.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use insula_kernel::loop_device::{DeviceAccess, LoopDevice};
use insula_plan::protocol::launcher::ImageKey;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};

/// Mounted images.
#[derive(Debug)]
pub(crate) struct ImageMounts {
    folder: PathBuf,
    mounts: BTreeMap<ImageKey, OwnedFd>,
}

/// An image was not mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountImageError {
    /// The key is no plain name.
    #[error("image key `{}` is not within its alphabet", .0.escape_debug())]
    Key(String),
    /// Its place could not be made.
    #[error("make {}", path.display())]
    Place {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// The kernel refused a call.
    #[error("{call}")]
    Kernel {
        /// Which.
        call: &'static str,
        /// Why.
        #[source]
        errno: Errno,
    },
}

fn kernel(call: &'static str) -> impl Fn(Errno) -> MountImageError {
    move |errno| MountImageError::Kernel { call, errno }
}

impl ImageMounts {
    /// Finds what is mounted below `folder`.
    ///
    /// # Errors
    ///
    /// The folder cannot be made.
    pub(crate) fn adopt(folder: PathBuf) -> Result<Self, MountImageError> {
        let place = |cause| MountImageError::Place { path: folder.clone(), cause };
        std::fs::create_dir_all(&folder).map_err(place)?;
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").map_err(place)?;
        let places = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        let mut mounts = BTreeMap::new();
        for path in places.filter(|path| path.parent() == Some(&folder)) {
            let Some(key) = path.file_name().and_then(|name| name.to_str()).map(|name| ImageKey(name.to_owned()))
            else {
                continue;
            };
            mounts.insert(key, open_root(&path)?);
        }
        Ok(Self { folder, mounts })
    }

    /// The root directory of an image that is mounted.
    pub(crate) fn get(&self, key: &ImageKey) -> Option<BorrowedFd<'_>> {
        self.mounts.get(key).map(AsFd::as_fd)
    }

    /// Keys of all that are mounted.
    pub(crate) fn keys(&self) -> Vec<ImageKey> {
        self.mounts.keys().cloned().collect()
    }

    /// Mounts `file` under `key`, or finds that it is.
    ///
    /// # Errors
    ///
    /// The file is no image, or this kernel has neither EROFS from files (Linux 6.12) nor loop devices.
    pub(crate) fn mount(&mut self, key: &ImageKey, file: BorrowedFd<'_>) -> Result<(), MountImageError> {
        if !key.is_valid() {
            return Err(MountImageError::Key(key.0.clone()));
        }
        if self.mounts.contains_key(key) {
            return Ok(());
        }
        let path = self.folder.join(&key.0);
        std::fs::create_dir_all(&path).map_err(|cause| MountImageError::Place { path: path.clone(), cause })?;
        let mount = mount_file(file)?;
        move_mount(&mount, "", CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(kernel("move_mount"))?;
        self.mounts.insert(key.clone(), open_root(&path)?);
        Ok(())
    }

    /// Unmounts an image; containers that run keep their clones of the mount.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub(crate) fn unmount(&mut self, key: &ImageKey) -> Result<(), MountImageError> {
        if self.mounts.remove(key).is_none() {
            return Ok(());
        }
        let path = self.folder.join(&key.0);
        unmount(&path, UnmountFlags::DETACH).map_err(kernel("umount2"))?;
        std::fs::remove_dir(&path).map_err(|cause| MountImageError::Place { path, cause })
    }
}

/// A detached mount of an EROFS file: of the file itself, or, before Linux 6.12, of a loop device that goes away with
/// the mount.
fn mount_file(file: BorrowedFd<'_>) -> Result<OwnedFd, MountImageError> {
    // The source is named by descriptor, so that no path of the host shows in any container's mount table.
    match mount_source(&format!("/proc/self/fd/{}", file.as_raw_fd())) {
        Err(MountImageError::Kernel { errno: Errno::NOTBLK, .. }) => {
            let device = LoopDevice::attach(file, DeviceAccess::ReadOnly).map_err(kernel("ioctl(LOOP_CONFIGURE)"))?;
            mount_source(&device.path().to_string_lossy())
        }
        mounted => mounted,
    }
}

fn mount_source(source: &str) -> Result<OwnedFd, MountImageError> {
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(kernel("fsopen(erofs)"))?;
    fsconfig_set_string(&context, "source", source).map_err(kernel("fsconfig(source)"))?;
    fsconfig_set_flag(&context, "ro").map_err(kernel("fsconfig(ro)"))?;
    fsconfig_create(&context).map_err(kernel("fsconfig(create erofs)"))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(kernel("fsmount"))
}

fn open_root(path: &std::path::Path) -> Result<OwnedFd, MountImageError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(kernel("open(image root)"))
}
