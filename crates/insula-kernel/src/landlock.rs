//! Landlock: a process takes from itself what it could open, for good and without privilege.
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use crate::capability::last_errno;

/// `LANDLOCK_CREATE_RULESET_VERSION`.
const ASK_VERSION: libc::c_ulong = 1;
/// `LANDLOCK_RULE_NET_PORT`.
const RULE_NET_PORT: libc::c_ulong = 2;
/// `LANDLOCK_RULE_PATH_BENEATH`.
const RULE_PATH_BENEATH: libc::c_ulong = 1;
/// `LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR`.
const READ: u64 = 1 << 2 | 1 << 3;
/// `LANDLOCK_ACCESS_NET_CONNECT_TCP`.
const CONNECT_TCP: u64 = 1 << 1;

/// `struct landlock_ruleset_attr` of Linux 6.12; older kernels take a beginning of it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct RulesetAttributes {
    files: u64,
    network: u64,
    scopes: u64,
}

/// `struct landlock_net_port_attr`.
#[repr(C)]
#[derive(Debug)]
struct NetPortAttributes {
    allowed: u64,
    port: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneathAttributes {
    allowed: u64,
    parent: RawFd,
}

const _: () = assert!(size_of::<RulesetAttributes>() == 24);
const _: () = assert!(size_of::<PathBeneathAttributes>() == 12);
const _: () = assert!(size_of::<NetPortAttributes>() == 16);

/// What the running kernel can forbid: the version of its interface, 0 without Landlock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LandlockVersion(pub u8);

/// `landlock_create_ruleset(NULL, 0, LANDLOCK_CREATE_RULESET_VERSION)`
///
/// Source: `landlock_create_ruleset(2)`.
#[must_use]
pub fn version() -> LandlockVersion {
    let nothing = std::ptr::null::<RulesetAttributes>();
    // SAFETY: with this flag the kernel reads no memory; pointer and size must be zero, as they are.
    let ret = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0_usize, ASK_VERSION) };
    LandlockVersion(u8::try_from(ret).unwrap_or(0))
}

fn attributes(version: LandlockVersion) -> RulesetAttributes {
    let file_rights = match version.0 {
        0 | 1 => 13,
        2 => 14,
        3 | 4 => 15,
        _ => 16,
    };
    RulesetAttributes {
        files: (1 << file_rights) - 1,
        network: if version.0 >= 4 { 0b11 } else { 0 },
        scopes: if version.0 >= 6 { 0b11 } else { 0 },
    }
}

/// `landlock_create_ruleset`, `landlock_add_rule`, `landlock_restrict_self`
///
/// From now on this thread and its children open no file or directory by any name, bind no TCP port, connect by TCP to
/// `ports` only, and neither signal processes nor reach abstract sockets of anybody else; each as far as the kernel
/// knows how ([`version`] 1: files, 4: TCP, 6: the rest). Descriptors that are open already stay what they are. Without
/// Landlock nothing is changed, and the version returned is 0. No-new-privileges must be set.
///
/// # Errors
///
/// - `EPERM`: no-new-privileges is not set.
/// - `E2BIG`: 16 restrictions are stacked already.
///
/// Source: landlock(7).
pub fn forbid_files(ports: &[u16]) -> Result<LandlockVersion, Errno> {
    restrict(None, ports)
}

/// `landlock_create_ruleset`, `landlock_add_rule`, `landlock_restrict_self`
///
/// As [`forbid_files`] without ports, but files and directories beneath `directory` can be opened for reading. What is
/// not opening (stat, readlink, extended attributes) is not Landlock's to forbid.
///
/// # Errors
///
/// As [`forbid_files`], and `EBADFD`: `directory` is none of a real file system.
///
/// Source: landlock(7).
pub fn only_read_beneath(directory: BorrowedFd<'_>) -> Result<LandlockVersion, Errno> {
    restrict(Some(directory), &[])
}

fn restrict(directory: Option<BorrowedFd<'_>>, ports: &[u16]) -> Result<LandlockVersion, Errno> {
    let version = version();
    if version.0 == 0 {
        return Ok(version);
    }
    let attributes = attributes(version);
    let size = match version.0 {
        0..4 => 8,
        4..6 => 16,
        _ => size_of::<RulesetAttributes>(),
    };
    let none: libc::c_ulong = 0;
    // SAFETY: the kernel reads `size` bytes of `attributes`, which are at most its own size and live over the call.
    let ret = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attributes, size, none) };
    let Ok(fd @ 0..) = RawFd::try_from(ret) else { return Err(last_errno()) };
    // SAFETY: the call succeeded, so `fd` is open, new, and owned by nobody else.
    let ruleset = unsafe { OwnedFd::from_raw_fd(fd) };
    if let Some(directory) = directory {
        allow_reading(ruleset.as_fd(), directory)?;
    }
    if version.0 >= 4 {
        ports.iter().try_for_each(|&port| allow_port(ruleset.as_fd(), port))?;
    }
    // SAFETY: the call takes integers and touches no memory of ours.
    let ret = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), none) };
    if ret == 0 { Ok(version) } else { Err(last_errno()) }
}

fn allow_reading(ruleset: BorrowedFd<'_>, directory: BorrowedFd<'_>) -> Result<(), Errno> {
    let rule = PathBeneathAttributes { allowed: READ, parent: directory.as_raw_fd() };
    let (call, none): (_, libc::c_ulong) = (libc::SYS_landlock_add_rule, 0);
    // SAFETY: the kernel reads one `landlock_path_beneath_attr` from the last pointer, which lives over the call.
    let ret = unsafe { libc::syscall(call, ruleset.as_raw_fd(), RULE_PATH_BENEATH, &raw const rule, none) };
    if ret == 0 { Ok(()) } else { Err(last_errno()) }
}

fn allow_port(ruleset: BorrowedFd<'_>, port: u16) -> Result<(), Errno> {
    let rule = NetPortAttributes { allowed: CONNECT_TCP, port: port.into() };
    let (call, none): (_, libc::c_ulong) = (libc::SYS_landlock_add_rule, 0);
    // SAFETY: the kernel reads one `landlock_net_port_attr` from the last pointer, which lives over the call.
    let ret = unsafe { libc::syscall(call, ruleset.as_raw_fd(), RULE_NET_PORT, &raw const rule, none) };
    if ret == 0 { Ok(()) } else { Err(last_errno()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_open_stays_and_nothing_else_is_opened() {
        // A thread's restriction is its own; the test's other threads go on.
        std::thread::spawn(|| {
            if version().0 == 0 {
                assert_eq!(forbid_files(&[]), Ok(LandlockVersion(0)));
                return;
            }
            let open = std::fs::File::open("/etc/passwd").unwrap();
            crate::capability::set_no_new_privileges().unwrap();
            assert_eq!(forbid_files(&[53]), Ok(version()));
            let refused = std::fs::File::open("/etc/passwd").unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
            assert!(std::io::Read::read(&mut { open }, &mut [0; 8]).unwrap() > 0);
            if version().0 >= 4 {
                let listener = std::net::TcpListener::bind("127.0.0.1:0");
                assert_eq!(listener.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
                let connected = std::net::TcpStream::connect("127.0.0.1:54");
                assert_eq!(connected.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn only_what_lies_beneath_the_directory_is_read_and_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        for name in ["in/file", "out"] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        let given = std::fs::File::open(dir.path().join("in")).unwrap();
        let path = dir.path().to_owned();
        // A thread's restriction is its own; the test's other threads go on.
        std::thread::spawn(move || {
            crate::capability::set_no_new_privileges().unwrap();
            let is_there = only_read_beneath(given.as_fd()).unwrap().0 > 0;
            assert!(std::fs::read(path.join("in/file")).is_ok());
            assert_eq!(std::fs::read(path.join("out")).is_err(), is_there);
            assert_eq!(std::fs::write(path.join("in/file"), "y").is_err(), is_there);
        })
        .join()
        .unwrap();
    }
}
