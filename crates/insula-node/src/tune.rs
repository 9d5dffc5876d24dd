//! The host's own limits, that bound how much a node can carry: what they are, what the configured capacity wants.

use std::path::PathBuf;

use crate::config::CapacityConfig;

/// Most process numbers that Linux has.
const PIDS_MAX: u64 = 4_194_304;
/// Descriptors that the launcher and the keeper each hold for a running container, with room to spare.
const FILES_PER_CONTAINER: u64 = 16;
/// Files that a container of ordinary size has open.
const OPEN_FILES_PER_CONTAINER: u64 = 256;

/// One setting below `/proc/sys`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLimit {
    /// Its name, as `sysctl` has it.
    pub name: String,
    /// Least value for the capacity.
    pub wanted: u64,
    /// What it bounds.
    pub bounds: &'static str,
}

impl HostLimit {
    /// Where it is read and written.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/proc/sys").join(self.name.replace('.', "/"))
    }

    /// What it is now; `None` if this kernel has no such setting.
    #[must_use]
    pub fn now(&self) -> Option<u64> {
        std::fs::read_to_string(self.path()).ok()?.trim().parse().ok()
    }

    /// Sets it to what is wanted, if it is less. Larger values stay as they are.
    ///
    /// # Errors
    ///
    /// The caller may not write it, or the kernel takes no such value.
    pub fn raise(&self) -> std::io::Result<()> {
        match self.now() {
            Some(now) if now < self.wanted => std::fs::write(self.path(), self.wanted.to_string()),
            _ => Ok(()),
        }
    }
}

/// Descriptors that each program of a node of this capacity wants to be allowed.
#[must_use]
pub(crate) fn open_files_wanted(capacity: &CapacityConfig) -> u64 {
    u64::try_from(capacity.running).unwrap_or(u64::MAX).saturating_mul(FILES_PER_CONTAINER)
}

/// What a node of this capacity wants of its host.
#[must_use]
pub fn host_limits(capacity: &CapacityConfig) -> Vec<HostLimit> {
    let running = u64::try_from(capacity.running).unwrap_or(u64::MAX);
    let times = |each: u64, least: u64| running.saturating_mul(each).max(least);
    let spaces = ["user", "pid", "net", "mnt", "ipc", "uts", "cgroup"];
    let rows = [
        ("kernel.pid_max", capacity.pids.clamp(32_768, PIDS_MAX), "processes of all containers together"),
        ("net.ipv4.neigh.default.gc_thresh3", times(2, 1_024), "containers with a network"),
        ("net.ipv6.neigh.default.gc_thresh3", times(2, 1_024), "containers with a network"),
        ("fs.nr_open", times(FILES_PER_CONTAINER, 65_536), "containers that launcher and keeper hold descriptors of"),
        ("fs.file-max", times(OPEN_FILES_PER_CONTAINER, 65_536), "open files of all containers together"),
        ("fs.inotify.max_user_instances", 128, "watchers of one container"),
        ("fs.inotify.max_user_watches", 65_536, "watched files of one container"),
        ("kernel.keys.maxkeys", 200, "keys of one user of a container"),
    ];
    let rows = rows.into_iter().map(|(name, wanted, bounds)| HostLimit { name: name.to_owned(), wanted, bounds });
    let spaces = spaces.into_iter().map(|kind| HostLimit {
        name: format!("user.max_{kind}_namespaces"),
        wanted: times(2, 1_024),
        bounds: "containers",
    });
    rows.chain(spaces).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_one_of_this_kernel_and_grows_with_the_capacity() {
        let capacity = |running| CapacityConfig { running, ..CapacityConfig::default() };
        let (small, large) = (host_limits(&capacity(10)), host_limits(&capacity(100_000)));
        for (small, large) in small.iter().zip(&large) {
            assert!(large.wanted >= small.wanted, "{}", small.name);
        }
        let find = |name: &str| large.iter().find(|limit| limit.name == name).unwrap();
        assert!(find("user.max_user_namespaces").wanted >= 100_000);
        assert!(find("kernel.pid_max").now().is_some());
    }
}
