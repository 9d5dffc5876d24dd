//! Random numbers from the kernel, without opening a device.
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use rustix::io::Errno;

use crate::capability::last_errno;

/// `getrandom(2 bytes, 0)`
///
/// A number that nobody can guess.
///
/// # Errors
///
/// - `ENOSYS`, `EPERM`: a system call filter does not allow it.
///
/// Source: getrandom(2) (Linux 3.17; up to 256 bytes are never cut short once the kernel has its seed).
pub fn random_u16() -> Result<u16, Errno> {
    let mut bytes = [0_u8; 2];
    let none: libc::c_uint = 0;
    // SAFETY: the kernel writes at most `bytes.len()` bytes to `bytes`, which lives over the call.
    let ret = unsafe { libc::syscall(libc::SYS_getrandom, bytes.as_mut_ptr(), bytes.len(), none) };
    if usize::try_from(ret) == Ok(bytes.len()) { Ok(u16::from_ne_bytes(bytes)) } else { Err(last_errno()) }
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
