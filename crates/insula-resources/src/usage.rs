//! What a container uses now, and whether it runs.

use std::path::Path;
use std::time::{Duration, Instant};

use insula_kernel::cgroup::{self, Frozen};
use insula_model::{Bytes, ContainerId};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::groups::NodeGroups;
use crate::layout::{Controller, Version};

/// Version 1 writes "no limit" as the largest number of whole pages.
const UNLIMITED_FROM: u64 = 1 << 62;

/// What a container holds, has held at most, and may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Memory, page cache and kernel objects included.
    pub memory: Quantity,
    /// Processes and threads.
    pub pids: Quantity,
    /// Processor time used so far, of all processors together.
    pub cpu_time: Duration,
    /// Processes that the kernel killed because the memory limit was reached.
    pub memory_kills: u64,
}

/// One row of the resource table. Memory in bytes, processes as their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quantity {
    /// Now.
    pub held: u64,
    /// The most so far; `None` when the kernel does not keep it.
    pub max_held: Option<u64>,
    /// The most allowed; `None` is no limit.
    pub limit: Option<u64>,
    /// How often more was asked for; on version 1 of newer kernels only the kills are known for memory.
    pub fail_count: u64,
}

impl Usage {
    /// Memory held now.
    #[must_use]
    pub fn memory_held(&self) -> Bytes {
        Bytes(self.memory.held)
    }
}

/// A container's control groups could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ContainerGroupError {
    /// The container does not run here.
    #[error("container {container} has no control group")]
    Absent {
        /// Which.
        container: ContainerId,
    },
    /// The machine lacks what is asked for.
    #[error("pausing needs a cgroup2 hierarchy, and none is mounted; mount one on /sys/fs/cgroup/unified")]
    NoUnifiedHierarchy,
    /// Some processes could not be stopped or continued in time.
    #[error("container {container} is not {wanted} after {waited:?}")]
    TimedOut {
        /// Which.
        container: ContainerId,
        /// `frozen` or `thawed`.
        wanted: &'static str,
        /// How long was waited.
        waited: Duration,
    },
    /// The kernel refused.
    #[error("control group of container {container}")]
    Kernel {
        /// Which.
        container: ContainerId,
        /// Why.
        #[source]
        errno: Errno,
    },
}

impl NodeGroups {
    /// What the container uses; 4 to 8 reads of small files.
    ///
    /// # Errors
    ///
    /// The container has no control group.
    pub fn usage(&self, container: ContainerId) -> Result<Usage, ContainerGroupError> {
        let mut usage = Usage::default();
        if let Some((version, dir)) = self.dir_of(Controller::Memory, container) {
            (usage.memory, usage.memory_kills) = memory(version, &dir).map_err(|errno| wrong(container, errno))?;
        }
        if let Some((_, dir)) = self.dir_of(Controller::Pids, container) {
            usage.pids = pids(&dir).map_err(|errno| wrong(container, errno))?;
        }
        usage.cpu_time = self.cpu_time(container).map_err(|errno| wrong(container, errno))?;
        Ok(usage)
    }

    fn cpu_time(&self, container: ContainerId) -> Result<Duration, Errno> {
        if let Some(dir) = self.unified_dir(container) {
            return Ok(Duration::from_micros(field(&cgroup::read(&dir, "cpu.stat")?, "usage_usec")));
        }
        match self.dir_of(Controller::Cpuacct, container) {
            Some((_, dir)) => Ok(Duration::from_nanos(number(&dir, "cpuacct.usage")?)),
            None => Ok(Duration::ZERO),
        }
    }

    /// Process ids of the container, groups below its own included.
    ///
    /// # Errors
    ///
    /// The container has no control group.
    pub fn processes(&self, container: ContainerId) -> Result<Vec<Pid>, ContainerGroupError> {
        let dir = self.unified_dir(container).or_else(|| self.dir_of(Controller::Pids, container).map(|(_, dir)| dir));
        let dir = dir.ok_or(ContainerGroupError::Absent { container })?;
        cgroup::processes_of_tree(&dir).map_err(|errno| wrong(container, errno))
    }

    /// The kernel's number of the container's version 2 group, the key under which BPF and the netlink tables know it.
    ///
    /// # Errors
    ///
    /// The container has no such group.
    pub fn cgroup_id(&self, container: ContainerId) -> Result<u64, ContainerGroupError> {
        let dir = self.unified_dir(container).ok_or(ContainerGroupError::Absent { container })?;
        // On 64-bit machines the inode number is the id.
        rustix::fs::stat(&dir).map(|stat| stat.st_ino).map_err(|errno| wrong(container, errno))
    }

    /// Stops every process of the container, and waits for it.
    ///
    /// # Errors
    ///
    /// - [`ContainerGroupError::TimedOut`]: some do not stop (they wait in the kernel without being interruptible); the
    ///   container is thawed again.
    /// - [`ContainerGroupError::NoUnifiedHierarchy`].
    pub fn freeze(&self, container: ContainerId, within: Duration) -> Result<(), ContainerGroupError> {
        match self.set_frozen(container, Frozen::Frozen, within)? {
            true => Ok(()),
            false => {
                self.set_frozen(container, Frozen::Running, within)?;
                Err(ContainerGroupError::TimedOut { container, wanted: "frozen", waited: within })
            }
        }
    }

    /// Lets the container's processes run on.
    ///
    /// # Errors
    ///
    /// As [`NodeGroups::freeze`].
    pub fn thaw(&self, container: ContainerId, within: Duration) -> Result<(), ContainerGroupError> {
        match self.set_frozen(container, Frozen::Running, within)? {
            true => Ok(()),
            false => Err(ContainerGroupError::TimedOut { container, wanted: "thawed", waited: within }),
        }
    }

    fn set_frozen(
        &self,
        container: ContainerId,
        frozen: Frozen,
        within: Duration,
    ) -> Result<bool, ContainerGroupError> {
        let dir = self.unified_dir(container).ok_or(ContainerGroupError::NoUnifiedHierarchy)?;
        cgroup::set_frozen(&dir, frozen, Instant::now() + within).map_err(|errno| wrong(container, errno))
    }

    /// Kills every process of the container and waits for their end; `false` when some are left after `within`.
    ///
    /// # Errors
    ///
    /// The kernel refuses; a container without a control group is no failure.
    pub fn kill_all(&self, container: ContainerId, within: Duration) -> Result<bool, ContainerGroupError> {
        let dir = self.unified_dir(container).or_else(|| self.dir_of(Controller::Pids, container).map(|(_, dir)| dir));
        let Some(dir) = dir else { return Ok(true) };
        cgroup::kill_tree(&dir, Instant::now() + within).map_err(|errno| wrong(container, errno))
    }

    /// Every container that has a group somewhere on this node, running or left over.
    ///
    /// # Errors
    ///
    /// A hierarchy cannot be listed. One that the node has not set up yet has no containers.
    pub fn containers(&self) -> Result<Vec<ContainerId>, Errno> {
        let mut found = Vec::new();
        for dir in self.node_dirs() {
            let below = match cgroup::children(&dir) {
                Err(Errno::NOENT) => Vec::new(),
                below => below?,
            };
            let names = below.iter().filter_map(|dir| dir.file_name()?.to_str());
            found.extend(names.filter_map(|name| name.parse::<ContainerId>().ok()));
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}

fn wrong(container: ContainerId, errno: Errno) -> ContainerGroupError {
    match errno {
        Errno::NOENT | Errno::NODEV => ContainerGroupError::Absent { container },
        errno => ContainerGroupError::Kernel { container, errno },
    }
}

fn memory(version: Version, dir: &Path) -> Result<(Quantity, u64), Errno> {
    match version {
        Version::One => {
            let kills = field(&cgroup::read(dir, "memory.oom_control")?, "oom_kill");
            // A charge asks the sum with swap first, which has the same limit: failures are counted there. Newer
            // kernels (seen on 6.18) count them nowhere in version 1, but each kill was a failure.
            let of_sum = number(dir, "memory.memsw.failcnt").unwrap_or(0);
            let quantity = Quantity {
                held: number(dir, "memory.usage_in_bytes")?,
                max_held: Some(number(dir, "memory.max_usage_in_bytes")?),
                limit: limit(&cgroup::read(dir, "memory.limit_in_bytes")?),
                fail_count: (number(dir, "memory.failcnt")? + of_sum).max(kills),
            };
            Ok((quantity, kills))
        }
        Version::Two => {
            let events = cgroup::read(dir, "memory.events")?;
            let quantity = Quantity {
                held: number(dir, "memory.current")?,
                max_held: number(dir, "memory.peak").ok(),
                limit: limit(&cgroup::read(dir, "memory.max")?),
                fail_count: field(&events, "max"),
            };
            Ok((quantity, field(&events, "oom_kill")))
        }
    }
}

/// The same files in both versions; `pids.peak` is newer.
fn pids(dir: &Path) -> Result<Quantity, Errno> {
    Ok(Quantity {
        held: number(dir, "pids.current")?,
        max_held: number(dir, "pids.peak").ok(),
        limit: limit(&cgroup::read(dir, "pids.max")?),
        fail_count: field(&cgroup::read(dir, "pids.events")?, "max"),
    })
}

fn number(dir: &Path, file: &str) -> Result<u64, Errno> {
    cgroup::read(dir, file)?.trim().parse().map_err(|_| Errno::INVAL)
}

/// `max` and version 1's largest numbers are no limit.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit < UNLIMITED_FROM)
}

/// The number after `key` in a file of `key number` lines; 0 when an older kernel has no such line.
fn field(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.split_once(' ').filter(|(name, _)| *name == key));
    line.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_fields_read_as_both_versions_write_them() {
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("9223372036854771712\n"), None);
        assert_eq!(limit("67108864\n"), Some(67_108_864));
        let events = "low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\n";
        assert_eq!((field(events, "max"), field(events, "oom_kill"), field(events, "sock_throttled")), (12, 1, 0));
        assert_eq!(field("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "oom_kill"), 3);
    }
}
