//! Loop devices: a file as a block device, for file systems that take nothing else.
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::capability::last_errno;

const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// How often another process may take the free device first before we give up.
const ATTEMPTS_MAX: u32 = 16;

/// `struct loop_info64` (include/uapi/linux/loop.h).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}
const _: () = assert!(size_of::<LoopInfo64>() == 232, "struct loop_info64");

/// `struct loop_config` (include/uapi/linux/loop.h).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}
const _: () = assert!(size_of::<LoopConfig>() == 304, "struct loop_config");

/// Whether a device can be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceAccess {
    /// It is only read.
    ReadOnly,
    /// It is written, too.
    ReadWrite,
}

/// A loop device that goes away with its last user: this handle, or what is mounted from it.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    device: OwnedFd,
}

impl LoopDevice {
    /// `ioctl(/dev/loop-control, LOOP_CTL_GET_FREE)`, then
    /// `ioctl(/dev/loopN, LOOP_CONFIGURE, {fd, [LO_FLAGS_READ_ONLY |] LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO})`
    ///
    /// The device holds the file's open description, with its locks, as long as it is there. Direct I/O where the file's file system can, so that its pages are not cached twice.
    ///
    /// # Errors
    ///
    /// - `ENOENT`: this kernel has no loop devices.
    /// - `EBUSY`: others took every free device before we could, sixteen times.
    /// - `EINVAL`: the file is no regular file or block device.
    ///
    /// Source: loop(4); `LOOP_CONFIGURE` since Linux 5.8.
    pub fn attach(file: BorrowedFd<'_>, access: DeviceAccess) -> Result<Self, Errno> {
        let (mode, read_only) = match access {
            DeviceAccess::ReadOnly => (OFlags::RDONLY, LO_FLAGS_READ_ONLY),
            DeviceAccess::ReadWrite => (OFlags::RDWR, 0),
        };
        let open = |path: &Path, flags| rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty());
        let control = open(Path::new("/dev/loop-control"), OFlags::RDWR)?;
        let mut last = Errno::BUSY;
        for _ in 0..ATTEMPTS_MAX {
            // SAFETY: the call takes integers and touches no memory of ours.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            if number < 0 {
                return Err(last_errno());
            }
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = open(&path, mode)?;
            let flags = read_only | LO_FLAGS_AUTOCLEAR;
            let configured = match configure(device.as_fd(), file, flags | LO_FLAGS_DIRECT_IO) {
                Err(Errno::INVAL) => configure(device.as_fd(), file, flags),
                configured => configured,
            };
            match configured {
                Ok(()) => return Ok(Self { path, device }),
                Err(Errno::BUSY) => last = Errno::BUSY,
                Err(errno) => return Err(errno),
            }
        }
        Err(last)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for LoopDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

fn configure(device: BorrowedFd<'_>, file: BorrowedFd<'_>, flags: u32) -> Result<(), Errno> {
    let number: RawFd = file.as_raw_fd();
    let info = LoopInfo64 {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    let fd = u32::try_from(number).map_err(|_| Errno::BADF)?;
    let config = LoopConfig { fd, block_size: 0, info, reserved: [0; 8] };
    // SAFETY: the third argument points to a live `struct loop_config` of the kernel's layout, which is only read.
    let ret = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
    if ret == 0 { Ok(()) } else { Err(last_errno()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn live_a_file_is_read_as_a_device_that_cannot_be_written() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 8192]).unwrap();
        file.sync_all().unwrap();
        let device = LoopDevice::attach(file.as_fd(), DeviceAccess::ReadOnly).unwrap();
        let mut bytes = Vec::new();
        std::fs::File::open(device.path()).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [7; 8192]);
        // Opening it for writing may succeed; writing does not.
        let write = || std::fs::OpenOptions::new().write(true).open(device.path())?.write_all(&[1]);
        assert!(write().is_err());
    }
}
