//! Attributes of mounts: read-only and the like, and how ids are shifted.
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

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
    // SAFETY: the path is a NUL-terminated empty string, the attributes have the kernel's layout and the size given,
    // and both are only read.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    };
    if ret == 0 { Ok(()) } else { Err(last_errno()) }
}
