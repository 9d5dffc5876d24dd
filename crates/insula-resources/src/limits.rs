//! What a container may use at most, with the defaults filled in.

use insula_kernel::rlimit::{ParseResourceError, Resource};
use insula_model::{Bytes, CpuLimit, ResourceSpec};
use insula_plan::privilege::PrivilegeStep;

/// Processes and threads of a container that does not say.
pub const PIDS_DEFAULT: u32 = 512;
/// Fewest processes: the first one, and who makes it.
const PIDS_MIN: u32 = 2;

/// Limits that control groups enforce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most memory, page cache and tmpfs included; swap is none. `None` is bounded by the node alone.
    pub memory: Option<Bytes>,
    /// Most processor time. `None` is all that others leave.
    pub cpu: Option<CpuLimit>,
    /// Share of contended processors, 1 to 10,000.
    pub cpu_weight: u32,
    /// Most processes and threads.
    pub pids: u32,
}

impl Limits {
    /// The container's own values, and the defaults where it has none.
    #[must_use]
    pub fn resolve(spec: &ResourceSpec) -> Self {
        Self {
            memory: spec.memory_limit,
            cpu: spec.cpu_limit,
            cpu_weight: spec.cpu_weight.unwrap_or(100).clamp(1, 10_000),
            pids: spec.pids_limit.unwrap_or(PIDS_DEFAULT).max(PIDS_MIN),
        }
    }

    /// The quota in microseconds of each [`CPU_PERIOD_US`], if there is a limit.
    pub(crate) fn cpu_quota_us(&self) -> Option<u64> {
        self.cpu.map(|limit| u64::from(limit.millis()) * CPU_PERIOD_US / 1_000)
    }

    /// Version 1's `cpu.shares` (2 to 262,144) that weighs as version 2's `cpu.weight` does: 1024 for 100.
    pub(crate) fn cpu_shares(&self) -> u64 {
        (u64::from(self.cpu_weight) * 1_024 / 100).clamp(2, 262_144)
    }
}

/// Microseconds over which processor quotas are counted, the kernel's own default.
pub(crate) const CPU_PERIOD_US: u64 = 100_000;

/// The steps that give every process of a container its resource limits: open files, then what the container names.
///
/// `files` are the limits of open files of a container that does not say: soft, and the hard one of the node's own
/// processes.
///
/// # Errors
///
/// A limit has no such name; [`insula_model::ContainerSpec::check`] refuses it before.
pub fn process_limit_steps(spec: &ResourceSpec, files: (u64, u64)) -> Result<Vec<PrivilegeStep>, ParseResourceError> {
    let files = match spec.files_limit {
        Some(limit) => (limit, limit),
        None => (files.0.min(files.1), files.1),
    };
    let step =
        |resource: Resource, soft, hard| PrivilegeStep::LimitResource { resource: resource.number(), soft, hard };
    let mut steps = vec![step(Resource::NOFILE, files.0, files.1)];
    for limit in &spec.ulimits {
        steps.push(step(limit.name.parse()?, limit.soft, limit.hard));
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use insula_model::Ulimit;

    #[test]
    fn nothing_asked_for_is_still_bounded() {
        let limits = Limits::resolve(&ResourceSpec::default());
        assert_eq!((limits.pids, limits.cpu_weight, limits.cpu_shares()), (512, 100, 1_024));
        let steps = process_limit_steps(&ResourceSpec::default(), (1_024, 524_288)).unwrap();
        assert_eq!(steps, [PrivilegeStep::LimitResource { resource: 7, soft: 1_024, hard: 524_288 }]);
    }

    #[test]
    fn processors_become_a_quota_of_the_period() {
        let spec = ResourceSpec {
            cpu_limit: Some("1.5".parse().unwrap()),
            cpu_weight: Some(10_000),
            pids_limit: Some(7),
            ..ResourceSpec::default()
        };
        let limits = Limits::resolve(&spec);
        assert_eq!((limits.cpu_quota_us(), limits.cpu_shares(), limits.pids), (Some(150_000), 102_400, 7));
        // The kernel's least quota is a millisecond.
        let least = Limits { cpu: Some("0.01".parse().unwrap()), ..limits };
        assert_eq!(least.cpu_quota_us(), Some(1_000));
    }

    #[test]
    fn named_limits_follow_open_files_and_unknown_names_are_refused() {
        let mut spec = ResourceSpec {
            files_limit: Some(64),
            ulimits: vec![Ulimit { name: "core".to_owned(), soft: 0, hard: u64::MAX }],
            ..ResourceSpec::default()
        };
        let steps = process_limit_steps(&spec, (1_024, 4_096)).unwrap();
        assert_eq!(steps[0], PrivilegeStep::LimitResource { resource: 7, soft: 64, hard: 64 });
        assert_eq!(steps[1], PrivilegeStep::LimitResource { resource: 4, soft: 0, hard: u64::MAX });
        spec.ulimits[0].name = "cores".to_owned();
        assert!(process_limit_steps(&spec, (1_024, 4_096)).is_err());
    }
}
