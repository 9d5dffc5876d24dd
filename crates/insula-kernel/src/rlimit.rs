//! Resource limits of a process and its children, by name.
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use std::fmt;
use std::str::FromStr;

use rustix::io::Errno;

use crate::capability::last_errno;

/// One of the kernel's resource limits. As text the name in lower case without `RLIMIT_`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource(u8);

/// Names and numbers on x86-64 and arm64 (asm-generic/resource.h).
const NAMES: [&str; 16] = [
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];

/// Text that names no resource limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("resource limit `{}` is unknown; use one of {}", given.escape_debug(), NAMES.join(", "))]
pub struct ParseResourceError {
    given: String,
}

impl Resource {
    /// Bytes of a file that is written.
    pub const FSIZE: Self = Self(1);
    /// Bytes of private memory that can be written to, beside the stack.
    pub const DATA: Self = Self(2);
    /// Processes and threads of the user.
    pub const NPROC: Self = Self(6);
    /// Open files.
    pub const NOFILE: Self = Self(7);
    /// Address space in bytes.
    pub const AS: Self = Self(9);
    /// Core file size in bytes.
    pub const CORE: Self = Self(4);

    /// The kernel's number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The limit with the kernel's number, if there is one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        (usize::from(number) < NAMES.len()).then_some(Self(number))
    }
}

impl FromStr for Resource {
    type Err = ParseResourceError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let position = NAMES.iter().position(|name| *name == given);
        position
            .and_then(|number| u8::try_from(number).ok())
            .map(Self)
            .ok_or_else(|| ParseResourceError { given: given.chars().take(64).collect() })
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(NAMES[usize::from(self.0)])
    }
}

/// A soft and a hard value; `u64::MAX` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What binds now; the process may raise it up to `hard`.
    pub soft: u64,
    /// The most that `soft` may become.
    pub hard: u64,
}

/// Lets the calling process open as many files as its hard limit allows, for those who hold descriptors for many.
///
/// # Errors
///
/// None that the kernel documents for a soft limit up to the hard one.
pub fn allow_all_files() -> Result<(), Errno> {
    let Limit { hard, .. } = limit(Resource::NOFILE)?;
    set_limit(Resource::NOFILE, Limit { soft: hard, hard })
}

/// `prlimit64(0, resource, limit, NULL)`
///
/// # Errors
///
/// - `EPERM`: `hard` is above the present hard limit, and the caller has no `CAP_SYS_RESOURCE` in the first user
///   namespace.
/// - `EINVAL`: `soft` is above `hard`.
///
/// Source: prlimit(2).
pub fn set_limit(resource: Resource, limit: Limit) -> Result<(), Errno> {
    let value = libc::rlimit64 { rlim_cur: limit.soft, rlim_max: limit.hard };
    let null = std::ptr::null_mut::<libc::rlimit64>();
    // SAFETY: `value` is a live rlimit64 that the call reads, and it writes nothing because the fourth argument is null.
    let ret = unsafe { libc::syscall(libc::SYS_prlimit64, 0, libc::c_int::from(resource.0), &raw const value, null) };
    if ret == -1 { Err(last_errno()) } else { Ok(()) }
}

/// `prlimit64(0, resource, NULL, &limit)`
///
/// # Errors
///
/// None are expected.
///
/// Source: prlimit(2).
pub fn limit(resource: Resource) -> Result<Limit, Errno> {
    let mut value = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let null = std::ptr::null::<libc::rlimit64>();
    // SAFETY: `value` is a live, writable rlimit64, and the call reads nothing because the third argument is null.
    let ret = unsafe { libc::syscall(libc::SYS_prlimit64, 0, libc::c_int::from(resource.0), null, &raw mut value) };
    if ret == -1 { Err(last_errno()) } else { Ok(Limit { soft: value.rlim_cur, hard: value.rlim_max }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_reads_back_from_its_name() {
        for number in 0..16 {
            let resource = Resource::from_number(number).unwrap();
            assert_eq!(resource.to_string().parse::<Resource>().unwrap(), resource);
        }
        assert_eq!(Resource::from_number(16), None);
        for bad in ["", "NOFILE", "RLIMIT_CORE", "nofiles"] {
            assert!(bad.parse::<Resource>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_have_the_numbers_of_the_c_library() {
        for (name, number) in
            [("nofile", libc::RLIMIT_NOFILE), ("as", libc::RLIMIT_AS), ("core", libc::RLIMIT_CORE), ("rttime", 15)]
        {
            assert_eq!(u32::from(name.parse::<Resource>().unwrap().number()), number, "{name}");
        }
    }

    #[test]
    fn a_limit_can_be_set_to_what_it_is() {
        let now = limit(Resource::NOFILE).unwrap();
        set_limit(Resource::NOFILE, now).unwrap();
        assert_eq!(limit(Resource::NOFILE).unwrap(), now);
    }
}
