//! Attributes of mounts: read-only and the like, and how ids are shifted.
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::capability::last_errno;

const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;

/// `struct mount_attr` (include/uapi/linux/mount.h).
#[repr(C)]
#[derive(Debug, Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}
const _: () = assert!(size_of::<MountAttr>() == 32, "MOUNT_ATTR_SIZE_VER0");

/// `mount_setattr(mount, "", AT_EMPTY_PATH, {attr_set, userns_fd})`
///
/// Sets `MOUNT_ATTR_*` bits on one mount. With `shift` (an open `/proc/PID/ns/user` whose map was written) the mount
/// is idmapped too; that needs a detached mount that is not shifted yet.
///
/// # Errors
///
/// - `EINVAL`: the file system cannot be idmapped (overlay), or the mount is attached or already shifted.
/// - `EPERM`: a locked attribute would be cleared, or `shift` is the initial user namespace.
///
/// Source: `mount_setattr(2)`.
pub fn set_attributes(mount: BorrowedFd<'_>, bits: u32, shift: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let mut attributes = MountAttr { set: bits.into(), ..MountAttr::default() };
    if let Some(userns) = shift {
        attributes.set |= MOUNT_ATTR_IDMAP;
        attributes.userns = u64::try_from(userns.as_raw_fd()).map_err(|_| Errno::BADF)?;
    }
    change(mount, &attributes)
}

/// `open_tree(path, OPEN_TREE_CLONE)` and `mount_setattr(MS_PRIVATE)`
///
/// A copy of what is mounted at a place, from there down to the next mount, attached nowhere; what is mounted or
/// unmounted at either of both does not reach the other. It must be made in the mount namespace of the place.
///
/// # Errors
///
/// - `ENOENT`, `EACCES`, `ELOOP`, `ENOTDIR`: the path leads nowhere.
/// - `EINVAL`: the place is in another mount namespace, or its mount must not be copied (`MS_UNBINDABLE`).
///
/// Source: `open_tree(2)`, `mount_setattr(2)`.
pub fn detached_copy(path: &Path) -> Result<OwnedFd, Errno> {
    let copy = open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    change(copy.as_fd(), &MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() })?;
    Ok(copy)
}

fn change(mount: BorrowedFd<'_>, attributes: &MountAttr) -> Result<(), Errno> {
    // SAFETY: the path is a NUL-terminated empty string, the attributes have the kernel's layout and the size given,
    // and both are only read.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(attributes),
            size_of::<MountAttr>(),
        )
    };
    if ret == 0 { Ok(()) } else { Err(last_errno()) }
}
