//! Leaving a namespace for a new one.
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use rustix::io::Errno;
use rustix::thread::UnshareFlags;

/// `unshare(flags)`
///
/// Acts on the calling thread: only for processes that have one.
///
/// # Errors
///
/// - `EPERM`: no `CAP_SYS_ADMIN` over the present namespace.
/// - `ENOSPC`: a limit on namespaces (`/proc/sys/user/max_*_namespaces`).
///
/// Source: unshare(2).
pub fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    debug_assert!(!flags.contains(UnshareFlags::FILES), "descriptors of other threads would be closed under them");
    // SAFETY: the one flag that can void descriptors of this process, CLONE_FILES, is not among those given.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}
