//! What the kernel keeps of a file in memory.
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use crate::capability::last_errno;

/// Number of the call on every architecture since Linux 6.5; libc does not name it everywhere yet.
const SYS_CACHESTAT: libc::c_long = 451;

/// `struct cachestat_range`: `length` 0 reaches to the end of the file.
#[repr(C)]
struct CachestatRange {
    offset: u64,
    length: u64,
}

/// `struct cachestat`: counts of pages.
#[repr(C)]
#[derive(Default)]
struct Cachestat {
    cache: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

const _: () = assert!(size_of::<CachestatRange>() == 16 && size_of::<Cachestat>() == 40);

/// `cachestat(fd, {0, 0}, &stat, 0)`
///
/// Bytes of the file that lie in the page cache, in whole pages. Costs a walk over the cached pages, microseconds
/// per hundred megabytes.
///
/// # Errors
///
/// - `ENOSYS`: the kernel is older than 6.5.
/// - `EOPNOTSUPP`: the file is of hugetlbfs.
///
/// Source: cachestat(2), Linux 6.5.
pub fn cached_bytes(file: impl AsFd) -> Result<u64, Errno> {
    let whole_file = CachestatRange { offset: 0, length: 0 };
    let mut stat = Cachestat::default();
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: both pointers are to live structures of the kernel's layout (checked above); the kernel reads the
    // first and writes the second, and keeps neither.
    let ret = unsafe { libc::syscall(SYS_CACHESTAT, fd, &raw const whole_file, &raw mut stat, 0) };
    if ret != 0 {
        return Err(last_errno());
    }
    let page_bytes = u64::try_from(rustix::param::page_size()).expect("a page is smaller than 2^64 bytes");
    Ok(stat.cache * page_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_was_just_written_is_in_memory() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 100_000]).unwrap();
        match cached_bytes(&file) {
            Ok(bytes) => assert!((100_000..200_000).contains(&bytes), "{bytes}"),
            Err(error) => assert_eq!(error, Errno::NOSYS),
        }
    }
}
