//! How and when a process ended.

use minicbor::{Decode, Encode};

/// Nanoseconds since 1970-01-01 00:00:00 UTC, by the host's wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct WallTime(#[n(0)] pub u64);

impl WallTime {
    /// What the clock says now.
    #[must_use]
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
        Self(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum ExitStatus {
    /// It returned this code.
    #[n(0)]
    Exited(#[n(0)] u8),
    /// This signal ended it.
    #[n(1)]
    Signaled(#[n(0)] u8),
}

impl ExitStatus {
    /// The code as shells and container tools give it: the process's own, or 128 and the signal's number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(signal) => 128u8.saturating_add(signal),
        }
    }

    /// From what `waitpid` says; `None` for a process that only stopped or went on.
    #[must_use]
    pub fn from_wait(status: rustix::process::WaitStatus) -> Option<Self> {
        let byte = |value: i32| u8::try_from(value & 0xff).unwrap_or(u8::MAX);
        if let Some(code) = status.exit_status() {
            return Some(Self::Exited(byte(code)));
        }
        status.terminating_signal().map(|signal| Self::Signaled(byte(signal)))
    }

    /// From the number that `waitpid` and pidfds give; `None` for a process that only stopped or went on.
    #[must_use]
    pub fn from_raw_wait(status: i32) -> Option<Self> {
        let byte = |value: i32| u8::try_from(value & 0xff).unwrap_or(u8::MAX);
        match status & 0x7f {
            0 => Some(Self::Exited(byte(status >> 8))),
            0x7f => None,
            signal => Some(Self::Signaled(byte(signal))),
        }
    }
}

/// The end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct End {
    /// How.
    #[n(0)]
    pub status: ExitStatus,
    /// When.
    #[n(1)]
    pub at: WallTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses_are_read_as_the_kernel_writes_them() {
        assert_eq!(ExitStatus::from_raw_wait(0x700), Some(ExitStatus::Exited(7)));
        assert_eq!(ExitStatus::from_raw_wait(0x8b), Some(ExitStatus::Signaled(11)));
        assert_eq!(ExitStatus::from_raw_wait(0x137f), None);
    }

    #[test]
    fn codes_are_the_fields() {
        assert_eq!(ExitStatus::Exited(3).code(), 3);
        assert_eq!(ExitStatus::Signaled(9).code(), 137);
        assert_eq!(ExitStatus::Signaled(64).code(), 192);
    }
}
