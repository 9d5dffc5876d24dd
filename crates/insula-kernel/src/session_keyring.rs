//! The session keyring: keys that a process has from whoever started it.
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use rustix::io::Errno;

use crate::capability::last_errno;

/// `keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL)`
///
/// Gives the calling process a new, empty session keyring in the place of the one it inherited, for itself and those
/// that it starts from now on. A user namespace does not: who has a keyring possesses the keys in it, whatever its ids.
///
/// # Errors
///
/// - `ENOSYS`: the kernel has no keys.
/// - `EDQUOT`: the user has as many keys as one may have (`kernel.keys.root_maxkeys`, 1,000,000 for root).
/// - `ENOMEM`: there is no memory for it.
///
/// Source: keyctl(2), session-keyring(7) (Linux 2.6.10).
pub fn begin_anew() -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    let no_name = std::ptr::null::<libc::c_char>();
    // SAFETY: without a name the call reads and writes no memory of ours.
    let ret = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, no_name) };
    if ret >= 0 { Ok(()) } else { Err(last_errno()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0)`: the keyring's number.
    fn own() -> libc::c_long {
        // SAFETY: the call takes integers and reads or writes no memory of ours.
        unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 0) }
    }

    #[test]
    fn each_time_it_is_another_one() {
        let numbers = [0; 3].map(|_| begin_anew().map(|()| own()));
        match numbers {
            [Err(Errno::NOSYS), ..] => {}
            [first, second, third] => assert!(first != second && second != third && first.unwrap() > 0),
        }
    }
}
