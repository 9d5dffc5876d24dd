//! Random numbers from the kernel, without opening a device.
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use rustix::io::Errno;

use crate::capability::last_errno;

/// `getrandom(N bytes, 0)`
///
/// Bytes that nobody can guess.
///
/// # Errors
///
/// - `ENOSYS`, `EPERM`: a system call filter does not allow it.
///
/// Source: getrandom(2) (Linux 3.17; up to 256 bytes are never cut short once the kernel has its seed).
pub fn random_bytes<const N: usize>() -> Result<[u8; N], Errno> {
    const { assert!(N <= 256) };
    let mut bytes = [0_u8; N];
    let none: libc::c_uint = 0;
    // SAFETY: the kernel writes at most `bytes.len()` bytes to `bytes`, which lives over the call.
    let ret = unsafe { libc::syscall(libc::SYS_getrandom, bytes.as_mut_ptr(), bytes.len(), none) };
    if usize::try_from(ret) == Ok(bytes.len()) { Ok(bytes) } else { Err(last_errno()) }
}

/// A number that nobody can guess.
///
/// # Errors
///
/// As [`random_bytes`].
pub fn random_u16() -> Result<u16, Errno> {
    random_bytes().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ() {
        let numbers: std::collections::BTreeSet<u16> = (0..100).map(|_| random_u16().unwrap()).collect();
        assert!(numbers.len() > 50, "{numbers:?}");
    }
}
