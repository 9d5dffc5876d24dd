//! fs-verity: files that the kernel checks against their own hash tree whenever it reads them.
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use crate::capability::last_errno;

/// `struct fsverity_enable_arg` (include/uapi/linux/fsverity.h).
#[repr(C)]
#[derive(Debug, Default)]
struct EnableArgument {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt: u64,
    signature_size: u32,
    reserved_1: u32,
    signature: u64,
    reserved_2: [u64; 11],
}

const _: () = assert!(size_of::<EnableArgument>() == 128);

/// `_IOW('f', 133, struct fsverity_enable_arg)`
const FS_IOC_ENABLE_VERITY: libc::Ioctl = 0x4080_6685;
/// `FS_VERITY_HASH_ALG_SHA256`
const SHA256: u32 = 1;
/// Bytes of a block of the tree: a page's, which every kernel takes.
const BLOCK_BYTES: u32 = 4096;

/// `ioctl(file, FS_IOC_ENABLE_VERITY, {version 1, SHA-256, blocks of 4 KiB, no salt, no signature})`
///
/// From then on nobody can write to the file, and reading a page whose bytes are not those of now fails with `EIO`. The
/// whole file is read once, into the page cache. `file` is open for reading only.
///
/// # Errors
///
/// - `ENOTTY`, `EOPNOTSUPP`: the kernel or the file system does not have it; it may be a feature that was not asked for
///   when the file system was made.
/// - `EEXIST`: it is enabled already.
/// - `ETXTBSY`: somebody has the file open for writing.
/// - `EPERM`: the file is immutable or append-only.
///
/// Source: Documentation/filesystems/fsverity.rst (Linux 5.4; btrfs 5.15).
pub fn enable(file: impl AsFd) -> Result<(), Errno> {
    let argument =
        EnableArgument { version: 1, hash_algorithm: SHA256, block_size: BLOCK_BYTES, ..EnableArgument::default() };
    // SAFETY: the call reads 128 bytes, which `argument` has, and keeps no pointer to them; those in it are null.
    let ret = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_ENABLE_VERITY, &raw const argument) };
    if ret == 0 { Ok(()) } else { Err(last_errno()) }
}

/// `statx(file, "", AT_EMPTY_PATH)`, its `STATX_ATTR_VERITY`
///
/// # Errors
///
/// None are expected of an open file.
///
/// Source: statx(2) (the attribute since Linux 5.5).
pub fn is_enabled(file: impl AsFd) -> Result<bool, Errno> {
    let found = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::empty())?;
    Ok(found.stx_attributes.contains(StatxAttributes::VERITY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_it_not_and_a_plain_file_is_not_checked() {
        let file = std::fs::File::open("/proc/self/status").unwrap();
        assert!(matches!(enable(&file), Err(Errno::NOTTY | Errno::OPNOTSUPP)));
        assert_eq!(is_enabled(&file), Ok(false));
    }
}
