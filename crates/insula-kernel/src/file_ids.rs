//! The ids by which the kernel judges file access, apart from those that a process has otherwise.
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use rustix::process::{Gid, Uid};

/// `setfsuid(uid)` and `setfsgid(gid)`, for the calling thread, until dropped
///
/// Needs `CAP_SETUID` and `CAP_SETGID`, and `SECBIT_NO_SETUID_FIXUP` if the file capabilities are to stay.
///
/// Source: setfsuid(2).
#[derive(Debug)]
pub struct FileIds {
    uid: libc::uid_t,
    gid: libc::gid_t,
}

impl FileIds {
    /// From now on files are made and judged as these.
    #[must_use]
    pub fn become_ids(uid: Uid, gid: Gid) -> Self {
        // SAFETY: the call takes an integer and returns the id before; it touches no memory.
        let old_gid = unsafe { libc::setfsgid(gid.as_raw()) };
        // SAFETY: as above.
        let old_uid = unsafe { libc::setfsuid(uid.as_raw()) };
        // Both return the id before as an int, bit for bit.
        Self { uid: old_uid.cast_unsigned(), gid: old_gid.cast_unsigned() }
    }
}

impl Drop for FileIds {
    fn drop(&mut self) {
        // SAFETY: the call takes an integer; it touches no memory.
        unsafe { libc::setfsuid(self.uid) };
        // SAFETY: as above.
        unsafe { libc::setfsgid(self.gid) };
    }
}
