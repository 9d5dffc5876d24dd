//! Files in memory that nobody can change any more: programs and data handed to processes of a container.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{MemfdFlags, Mode, SealFlags};
use rustix::io::Errno;

/// All seals: no writing, growing, shrinking, and no unsealing.
const ALL_SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::GROW).union(SealFlags::SHRINK).union(SealFlags::SEAL);

/// A sealed file could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The program is not where it should be.
    #[error("read {}", path.display())]
    Read {
        /// Where.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// The kernel refused.
    #[error("{call}")]
    Kernel {
        /// What.
        call: &'static str,
        /// Why.
        #[source]
        errno: Errno,
    },
}

/// A sealed copy of a program with mode 0111: executable, readable by nobody without `CAP_DAC_OVERRIDE` on the host.
///
/// Who executes it gets a process that the kernel treats as not readable: root of a user namespace can neither trace
/// it nor open its memory or its executable.
///
/// # Errors
///
/// The program cannot be read, or memory is out.
pub fn program(path: &Path) -> Result<OwnedFd, SealError> {
    let bytes = std::fs::read(path).map_err(|cause| SealError::Read { path: path.to_owned(), cause })?;
    // EXEC says that it is meant, where vm.memfd_noexec would refuse; kernels before 6.3 do not know the flag.
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match rustix::fs::memfd_create("insula-init", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => rustix::fs::memfd_create("insula-init", flags),
        made => made,
    };
    let file = file.map_err(|errno| SealError::Kernel { call: "memfd_create", errno })?;
    write_all(&file, &bytes)?;
    rustix::fs::fchmod(&file, Mode::XUSR | Mode::XGRP | Mode::XOTH)
        .map_err(|errno| SealError::Kernel { call: "fchmod(memfd)", errno })?;
    seal(&file)?;
    Ok(file)
}

/// A sealed file with this content, not executable.
///
/// # Errors
///
/// Memory is out.
pub fn data(name: &str, bytes: &[u8]) -> Result<OwnedFd, SealError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        made => made,
    };
    let file = file.map_err(|errno| SealError::Kernel { call: "memfd_create", errno })?;
    write_all(&file, bytes)?;
    seal(&file)?;
    Ok(file)
}

fn write_all(file: &OwnedFd, bytes: &[u8]) -> Result<(), SealError> {
    let mut left = bytes;
    while !left.is_empty() {
        let written =
            rustix::io::write(file, left).map_err(|errno| SealError::Kernel { call: "write(memfd)", errno })?;
        left = left.get(written..).unwrap_or_default();
    }
    Ok(())
}

fn seal(file: &OwnedFd) -> Result<(), SealError> {
    rustix::fs::fcntl_add_seals(file, ALL_SEALS)
        .map_err(|errno| SealError::Kernel { call: "fcntl(F_ADD_SEALS)", errno })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_cannot_be_written() {
        let file = data("x", b"abc").unwrap();
        assert_eq!(rustix::io::pwrite(&file, b"x", 0), Err(Errno::PERM));
        let mut bytes = [0; 4];
        assert_eq!(rustix::io::pread(&file, &mut bytes, 0), Ok(3));
        let program = program(Path::new("/bin/true")).unwrap();
        assert_eq!(rustix::io::pwrite(&program, b"x", 0), Err(Errno::PERM));
        assert_eq!(rustix::fs::fstat(&program).unwrap().st_mode & 0o777, 0o111);
    }
}
