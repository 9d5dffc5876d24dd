//! What differs between processor architectures: the audit number, and the numbers of system calls.

mod aarch64;
mod x86_64;

/// A processor architecture in its 64-bit mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// AMD64. The x32 mode shares its audit number and is told apart by a bit in the system call number.
    X86_64,
    /// arm64.
    Aarch64,
}

impl Architecture {
    /// The architecture that this program was built for.
    #[cfg(target_arch = "x86_64")]
    pub const NATIVE: Self = Self::X86_64;
    /// The architecture that this program was built for.
    #[cfg(target_arch = "aarch64")]
    pub const NATIVE: Self = Self::Aarch64;

    /// `AUDIT_ARCH_*` (linux/audit.h): ELF machine, 64-bit, little-endian.
    pub(super) const fn audit_number(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    /// Number and name of every system call that is known here, in ascending order of the numbers.
    #[must_use]
    pub const fn system_calls(self) -> &'static [(u32, &'static str)] {
        match self {
            Self::X86_64 => x86_64::SYSTEM_CALLS,
            Self::Aarch64 => aarch64::SYSTEM_CALLS,
        }
    }

    /// The number of a system call, or `None` when the architecture has none of that name.
    #[must_use]
    pub fn number_of(self, name: &str) -> Option<u32> {
        self.system_calls().iter().find(|(_, known)| *known == name).map(|(number, _)| *number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_ascend_and_names_are_unique() {
        for architecture in [Architecture::X86_64, Architecture::Aarch64] {
            let table = architecture.system_calls();
            assert!(table.windows(2).all(|pair| pair[0].0 < pair[1].0));
            let names: std::collections::BTreeSet<_> = table.iter().map(|(_, name)| name).collect();
            assert_eq!(names.len(), table.len());
        }
    }

    #[test]
    fn numbers_are_those_of_the_c_library() {
        macro_rules! same {
            ($($call:ident)*) => {
                $(assert_eq!(
                    Architecture::NATIVE.number_of(stringify!($call)).map(i64::from),
                    Some(paste_number(libc_number::$call)),
                    stringify!($call)
                );)*
            };
        }
        mod libc_number {
            #![allow(non_upper_case_globals, reason = "the constants carry the names of the calls")]
            pub(super) use libc::{
                SYS_bpf as bpf, SYS_clone3 as clone3, SYS_execveat as execveat, SYS_futex_waitv as futex_waitv,
                SYS_ioctl as ioctl, SYS_landlock_restrict_self as landlock_restrict_self, SYS_mseal as mseal,
                SYS_newfstatat as newfstatat, SYS_openat2 as openat2, SYS_ptrace as ptrace, SYS_read as read,
                SYS_rseq as rseq, SYS_seccomp as seccomp, SYS_socket as socket, SYS_statx as statx,
            };
        }
        fn paste_number(number: libc::c_long) -> i64 {
            number
        }
        same! {
            bpf clone3 execveat futex_waitv ioctl landlock_restrict_self mseal newfstatat openat2 ptrace read rseq
            seccomp socket statx
        }
    }
}
