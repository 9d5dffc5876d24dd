//! Who a process is, for ever.

use std::os::fd::OwnedFd;

use insula_plan::protocol::facts::ProcessIdentity;
use rustix::process::{Pid, PidfdFlags};

/// Where in `/proc/PID/stat` the start time is, counted from the state that follows the name's closing parenthesis.
const START_FIELD: usize = 19;

/// The identity of a process that exists (zombies do).
pub(crate) fn of(pid: Pid) -> Option<ProcessIdentity> {
    let number = u32::try_from(pid.as_raw_nonzero().get()).ok()?;
    let text = std::fs::read(format!("/proc/{number}/stat")).ok()?;
    start_ticks(&text).map(|start_ticks| ProcessIdentity { pid: number, start_ticks })
}

/// The name may hold anything, also parentheses and spaces: the last closing one ends it.
fn start_ticks(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let fields = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    fields.split_ascii_whitespace().nth(START_FIELD)?.parse().ok()
}

/// A handle on the process, if it still is that one.
pub(crate) fn open(identity: ProcessIdentity) -> Option<(Pid, OwnedFd)> {
    let pid = Pid::from_raw(i32::try_from(identity.pid).ok()?)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // Checked after the handle was opened: until then the number could have changed hands.
    (of(pid) == Some(identity)).then_some((pid, pidfd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let stat = b"12 (a) b) (c) S 1 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 0 0";
        assert_eq!(start_ticks(stat), Some(987_654));
        assert_eq!(start_ticks(b""), None);
    }

    #[test]
    fn a_number_that_changed_hands_is_another_process() {
        let me = of(rustix::process::getpid()).unwrap();
        assert!(open(me).is_some());
        assert!(open(ProcessIdentity { start_ticks: me.start_ticks + 1, ..me }).is_none());
    }
}
