//! The control groups of a node and of its containers, as steps.
//!
//! ```text
//! <mount>/insula.slice/<node>/<container uuid>
//!          made by the node's set-up  ^ made by a start, removed by a sweep
//! ```
//!
//! A container is in the version 2 tree wherever there is one, with or without controllers: it is born there
//! (`CLONE_INTO_CGROUP`), and freezing, killing and device programs work on it. On a hybrid machine it is born into the
//! version 1 hierarchies too, because its parent enters them before the clone and leaves them when its work is done:
//! moving a process that exists costs the machine an RCU grace period (5 to 10 ms) before the first move, entering
//! oneself costs 0.01 ms for each hierarchy.

use std::path::{Path, PathBuf};

use insula_kernel::device_filter::{self, CompileDeviceRulesError, DeviceRule};
use insula_model::{ContainerId, IdRange, NodeName};
use insula_plan::cgroup::{CgroupStep, IfAbsent};

use crate::devices;
use crate::layout::{CgroupLayout, Controller, Version};
use crate::limits::{CPU_PERIOD_US, Limits};

/// Longest wait for killed processes to end. One that waits for a dead disk or server outlives it.
const KILL_MS_MAX: u32 = 10_000;
/// Longest wait for an emptied group to be removable.
const REMOVE_MS_MAX: u32 = 2_000;

/// The controllers a container is bound by, in the order of entering them: devices last, because it also binds
/// whoever makes the container.
const BINDING: [Controller; 4] = [Controller::Memory, Controller::Pids, Controller::Cpu, Controller::Devices];

/// Files of a version 2 group that whoever it is delegated to must be able to write (cgroups(7), Delegation).
const DELEGATED_UNIFIED: [&str; 3] = ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"];
/// The same for version 1's `name=systemd`.
const DELEGATED_LEGACY: [&str; 2] = ["cgroup.procs", "tasks"];

/// The control groups of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeGroups {
    layout: CgroupLayout,
    node: NodeName,
}

/// What a container's groups are made for.
#[derive(Debug, Clone, Copy)]
pub struct StartGroups<'a> {
    /// Whose they are.
    pub container: ContainerId,
    /// What they enforce.
    pub limits: &'a Limits,
    /// Which devices may be used; [`devices::default_rules`] and the container's own.
    pub devices: &'a [DeviceRule],
    /// Whose they are inside, when the container's init system is to make groups below them.
    pub delegate_to: Option<IdRange>,
}

/// The steps of a start on control groups, by when they are done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupSteps {
    /// Before the container's first process: directories, limits, owners.
    pub before: Vec<CgroupStep>,
    /// After those, last before the clone, by the very process that clones: it enters the version 1 hierarchies, so
    /// that its child is born in them. Whatever it does from here to `leave` is charged to the container.
    pub enter: Vec<CgroupStep>,
    /// The version 2 directory that the first process is born into; `None` on a machine without version 2.
    pub spawn: Option<PathBuf>,
    /// By the same process, last before the container goes on by itself.
    pub leave: Vec<CgroupStep>,
}

/// How one more process gets into a running container's groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinGroups {
    /// By the process whose child joins, or by the joiner itself.
    pub enter: Vec<CgroupStep>,
    /// The version 2 directory that the joiner is born into.
    pub spawn: Option<PathBuf>,
}

impl NodeGroups {
    /// The groups of `node` on a machine with `layout`.
    #[must_use]
    pub fn new(layout: CgroupLayout, node: NodeName) -> Self {
        Self { layout, node }
    }

    /// The machine's hierarchies.
    #[must_use]
    pub fn layout(&self) -> &CgroupLayout {
        &self.layout
    }

    /// Makes the node's own groups in every hierarchy that containers may use. May be done again at each start of the
    /// node.
    #[must_use]
    pub fn setup_steps(&self) -> Vec<CgroupStep> {
        let mut steps = Vec::new();
        for mount in self.mounts() {
            let slice = mount.join("insula.slice");
            let node = slice.join(self.node.as_str());
            let cpuset = self.layout.legacy.get(&Controller::Cpuset) == Some(&mount);
            for (parent, dir) in [(&mount, &slice), (&slice, &node)] {
                if self.is_unified(&mount) {
                    steps.extend(self.enable_steps(parent));
                }
                steps.push(CgroupStep::MakeDir { dir: dir.clone() });
                if cpuset {
                    // A version 1 cpuset is born without processors, and nothing can be moved into it.
                    for file in ["cpuset.cpus", "cpuset.mems"] {
                        steps.push(CgroupStep::Inherit { dir: dir.clone(), file: file.to_owned() });
                    }
                }
            }
            if self.is_unified(&mount) {
                steps.extend(self.enable_steps(&node));
            }
        }
        steps
    }

    /// Removes everything of the node; its containers are killed. The slice stays, other nodes may be in it.
    #[must_use]
    pub fn remove_steps(&self) -> Vec<CgroupStep> {
        let dirs: Vec<PathBuf> = self.mounts().into_iter().map(|mount| self.node_dir(&mount)).collect();
        kill_and_remove(&dirs)
    }

    /// The steps that give a container its groups.
    ///
    /// # Errors
    ///
    /// More device rules than fit into one program.
    pub fn start_steps(&self, start: &StartGroups<'_>) -> Result<CgroupSteps, CompileDeviceRulesError> {
        let spawn = self.unified_dir(start.container);
        let mut legacy = self.legacy_mounts();
        let make = |dir: &PathBuf| CgroupStep::MakeDir { dir: dir.clone() };
        let mut before: Vec<CgroupStep> = spawn.iter().map(make).collect();
        before.extend(legacy.iter().map(|mount| make(&self.container_dir(mount, start.container))));
        before.extend(self.limit_steps(start.container, start.limits));
        before.extend(self.device_steps(start.container, start.devices)?);
        if let Some(range) = start.delegate_to {
            before.extend(spawn.iter().flat_map(|dir| own_steps(dir, &DELEGATED_UNIFIED, range)));
            if let Some(mount) = &self.layout.systemd {
                let dir = self.container_dir(mount, start.container);
                before.push(make(&dir));
                before.extend(own_steps(&dir, &DELEGATED_LEGACY, range));
                legacy.push(mount);
            }
        }
        let enter = |dir: PathBuf| CgroupStep::Enter { dir };
        Ok(CgroupSteps {
            before,
            enter: legacy.iter().map(|mount| enter(self.container_dir(mount, start.container))).collect(),
            spawn,
            leave: legacy.iter().map(|mount| enter(self.node_dir(mount))).collect(),
        })
    }

    /// The steps that change a running container's limits from `old` to `new`.
    #[must_use]
    pub fn update_steps(&self, container: ContainerId, old: &Limits, new: &Limits) -> Vec<CgroupStep> {
        let mut steps = self.limit_steps(container, new);
        // Version 1 keeps memory+swap at or above memory at every moment: growing, the sum goes first.
        let grows = match (old.memory, new.memory) {
            (Some(old), Some(new)) => new > old,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if new.memory.is_none() && old.memory.is_some() {
            steps.splice(0..0, self.memory_steps(container, "-1", "max"));
        }
        if grows {
            let is = |step: &CgroupStep, name: &str| matches!(step, CgroupStep::Write { file, .. } if file == name);
            let limit = steps.iter().position(|step| is(step, "memory.limit_in_bytes"));
            let sum = steps.iter().position(|step| is(step, "memory.memsw.limit_in_bytes"));
            if let (Some(limit), Some(sum)) = (limit, sum) {
                steps.swap(limit, sum);
            }
        }
        let cpu = self.dir_of(Controller::Cpu, container).filter(|_| new.cpu.is_none() && old.cpu.is_some());
        steps.extend(cpu.map(|(version, dir)| match version {
            Version::One => write(dir, "cpu.cfs_quota_us", "-1"),
            Version::Two => write(dir, "cpu.max", format!("max {CPU_PERIOD_US}")),
        }));
        steps
    }

    /// How one more process (an administrator's, or an exec that does not go through the container's init) gets into
    /// the container's groups. `delegated` as in [`StartGroups::delegate_to`].
    #[must_use]
    pub fn join(&self, container: ContainerId, delegated: bool) -> JoinGroups {
        let mut enter: Vec<CgroupStep> = Vec::new();
        let mut spawn = self.unified_dir(container);
        if let Some(dir) = spawn.as_mut().filter(|_| delegated) {
            // The container's init may have given controllers to the groups below, and then a group of version 2
            // takes no process itself: the joiner gets a leaf of its own.
            dir.push("insula-join");
            enter.push(CgroupStep::MakeDir { dir: dir.clone() });
        }
        let mounts = self.legacy_mounts().into_iter().chain(self.layout.systemd.iter().filter(|_| delegated));
        enter.extend(mounts.map(|mount| CgroupStep::Enter { dir: self.container_dir(mount, container) }));
        JoinGroups { enter, spawn }
    }

    /// Kills what is left of a container and removes its groups, whatever of them exists.
    #[must_use]
    pub fn sweep_steps(&self, container: ContainerId) -> Vec<CgroupStep> {
        let mut dirs: Vec<PathBuf> = self.unified_dir(container).into_iter().collect();
        let legacy = self.legacy_mounts().into_iter().chain(&self.layout.systemd);
        dirs.extend(legacy.map(|mount| self.container_dir(mount, container)));
        kill_and_remove(&dirs)
    }

    /// The container's directory in the version 2 tree.
    #[must_use]
    pub fn unified_dir(&self, container: ContainerId) -> Option<PathBuf> {
        self.layout.unified.as_ref().map(|unified| self.container_dir(&unified.mount, container))
    }

    /// The container's directory where `controller` is.
    #[must_use]
    pub fn dir_of(&self, controller: Controller, container: ContainerId) -> Option<(Version, PathBuf)> {
        let (version, mount) = self.layout.hierarchy_of(controller)?;
        Some((version, self.container_dir(mount, container)))
    }

    /// The version 1 hierarchies that bind a container, each once.
    fn legacy_mounts(&self) -> Vec<&PathBuf> {
        let mut mounts: Vec<&PathBuf> = Vec::new();
        // Version 2 counts processor time of every group, so that cpuacct is for machines without it.
        let accounting = self.layout.unified.is_none().then_some(Controller::Cpuacct);
        for controller in BINDING.into_iter().chain(accounting) {
            if let Some(mount) = self.layout.legacy.get(&controller).filter(|mount| !mounts.contains(mount)) {
                mounts.push(mount);
            }
        }
        mounts
    }

    fn limit_steps(&self, container: ContainerId, limits: &Limits) -> Vec<CgroupStep> {
        let mut steps = Vec::new();
        if let Some(memory) = limits.memory {
            steps.extend(self.memory_steps(container, &memory.0.to_string(), &memory.0.to_string()));
        }
        if let Some((_, dir)) = self.dir_of(Controller::Pids, container) {
            steps.push(write(dir, "pids.max", limits.pids.to_string()));
        }
        match self.dir_of(Controller::Cpu, container) {
            Some((Version::One, dir)) => {
                steps.push(write(dir.clone(), "cpu.shares", limits.cpu_shares().to_string()));
                if let Some(quota) = limits.cpu_quota_us() {
                    steps.push(write(dir.clone(), "cpu.cfs_period_us", CPU_PERIOD_US.to_string()));
                    steps.push(write(dir, "cpu.cfs_quota_us", quota.to_string()));
                }
            }
            Some((Version::Two, dir)) => {
                steps.push(write(dir.clone(), "cpu.weight", limits.cpu_weight.to_string()));
                if let Some(quota) = limits.cpu_quota_us() {
                    steps.push(write(dir, "cpu.max", format!("{quota} {CPU_PERIOD_US}")));
                }
            }
            None => {}
        }
        steps
    }

    /// Memory without swap: version 1 limits memory and the sum of both, version 2 memory and swap alone.
    fn memory_steps(&self, container: ContainerId, legacy: &str, unified: &str) -> Vec<CgroupStep> {
        match self.dir_of(Controller::Memory, container) {
            Some((Version::One, dir)) => vec![
                write(dir.clone(), "memory.limit_in_bytes", legacy),
                skippable(dir, "memory.memsw.limit_in_bytes", legacy),
            ],
            Some((Version::Two, dir)) => {
                vec![write(dir.clone(), "memory.max", unified), skippable(dir, "memory.swap.max", "0")]
            }
            None => Vec::new(),
        }
    }

    fn device_steps(
        &self,
        container: ContainerId,
        rules: &[DeviceRule],
    ) -> Result<Vec<CgroupStep>, CompileDeviceRulesError> {
        if let Some((Version::One, dir)) = self.dir_of(Controller::Devices, container) {
            let allow = rules.iter().map(|rule| write(dir.clone(), "devices.allow", devices::version_1_line(rule)));
            return Ok(std::iter::once(write(dir.clone(), "devices.deny", "a")).chain(allow).collect());
        }
        let Some(dir) = self.unified_dir(container) else { return Ok(Vec::new()) };
        let program = device_filter::compile(rules)?.bytes().to_vec();
        Ok(vec![CgroupStep::FilterDevices { dir, program }])
    }

    /// Hands the controllers that containers use down from the version 2 group `dir`, one by one, so that the kernel's
    /// refusal names the one.
    fn enable_steps(&self, dir: &Path) -> Vec<CgroupStep> {
        let Some(unified) = &self.layout.unified else { return Vec::new() };
        let named = unified.controllers.iter().filter_map(|controller| controller.version_2_name());
        named.map(|name| write(dir.to_owned(), "cgroup.subtree_control", format!("+{name}"))).collect()
    }

    fn is_unified(&self, mount: &Path) -> bool {
        self.layout.unified.as_ref().is_some_and(|unified| unified.mount == mount)
    }

    /// Every mount, each once, version 2 first.
    fn mounts(&self) -> Vec<PathBuf> {
        let unified = self.layout.unified.iter().map(|unified| &unified.mount);
        let mut mounts: Vec<PathBuf> = Vec::new();
        for mount in unified.chain(self.layout.legacy.values()).chain(&self.layout.systemd) {
            if !mounts.contains(mount) {
                mounts.push(mount.clone());
            }
        }
        mounts
    }

    /// The node's directory below `mount`.
    fn node_dir(&self, mount: &Path) -> PathBuf {
        mount.join("insula.slice").join(self.node.as_str())
    }

    /// The node's directories in every hierarchy.
    pub(crate) fn node_dirs(&self) -> Vec<PathBuf> {
        self.mounts().iter().map(|mount| self.node_dir(mount)).collect()
    }

    fn container_dir(&self, mount: &Path, container: ContainerId) -> PathBuf {
        self.node_dir(mount).join(container.to_string())
    }
}

/// The first directory is the one to kill in: version 2 where there is one, and there it takes one write.
fn kill_and_remove(dirs: &[PathBuf]) -> Vec<CgroupStep> {
    let kill = dirs.first().map(|dir| CgroupStep::Kill { dir: dir.clone(), within_ms: KILL_MS_MAX });
    let remove = dirs.iter().map(|dir| CgroupStep::Remove { dir: dir.clone(), within_ms: REMOVE_MS_MAX });
    kill.into_iter().chain(remove).collect()
}

fn write(dir: PathBuf, file: &str, value: impl Into<String>) -> CgroupStep {
    CgroupStep::Write { dir, file: file.to_owned(), value: value.into(), absent: IfAbsent::Fail }
}

/// A kernel or a boot without swap accounting lacks the file, and then there is no swap to limit.
fn skippable(dir: PathBuf, file: &str, value: &str) -> CgroupStep {
    CgroupStep::Write { dir, file: file.to_owned(), value: value.to_owned(), absent: IfAbsent::Skip }
}

fn own_steps(dir: &Path, files: &[&str], range: IdRange) -> Vec<CgroupStep> {
    let own = |file: Option<&str>| CgroupStep::Own {
        dir: dir.to_owned(),
        file: file.map(str::to_owned),
        uid: range.base,
        gid: range.base,
    };
    std::iter::once(own(None)).chain(files.iter().map(|file| own(Some(file)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use insula_model::Bytes;

    use crate::layout::controllers_named;

    fn container() -> ContainerId {
        "0b7ad0a1-3a5a-4c7f-9a55-6a6d4c1f8f10".parse().unwrap()
    }

    fn limits() -> Limits {
        Limits { memory: Some(Bytes::mib(64)), cpu: Some("0.5".parse().unwrap()), cpu_weight: 200, pids: 10 }
    }

    fn pure() -> NodeGroups {
        let text = "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let mut layout = CgroupLayout::from_mountinfo(text);
        if let Some(unified) = &mut layout.unified {
            unified.controllers = controllers_named("cpuset cpu io memory hugetlb pids rdma misc");
        }
        NodeGroups::new(layout, NodeName::new("n").unwrap())
    }

    fn hybrid() -> NodeGroups {
        let text = "\
32 31 0:29 / /c/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / /c/cpuset rw - cgroup cgroup rw,cpuset
35 31 0:32 / /c/memory rw - cgroup cgroup rw,memory
36 31 0:33 / /c/devices rw - cgroup cgroup rw,devices
37 31 0:34 / /c/blkio rw - cgroup cgroup rw,blkio
39 31 0:36 / /c/pids rw - cgroup cgroup rw,pids
40 31 0:37 / /c/systemd rw - cgroup cgroup rw,name=systemd
41 31 0:38 / /c/unified rw - cgroup2 cgroup2 rw
";
        NodeGroups::new(CgroupLayout::from_mountinfo(text), NodeName::new("n").unwrap())
    }

    /// The steps as text, with the container's directory shortened.
    fn text(steps: &[CgroupStep]) -> Vec<String> {
        let name = container().to_string();
        steps.iter().map(|step| step.to_string().replace(&name, "ID").replace("insula.slice/n", "N")).collect()
    }

    #[test]
    fn pure_version_2_writes_limits_into_one_directory_and_nobody_enters_anything() {
        let groups = pure();
        let (limits, rules) = (limits(), devices::default_rules());
        let start = StartGroups { container: container(), limits: &limits, devices: &rules, delegate_to: None };
        let steps = groups.start_steps(&start).unwrap();
        assert_eq!(
            text(&steps.before),
            [
                "mkdir(/sys/fs/cgroup/N/ID)",
                "write(/sys/fs/cgroup/N/ID/memory.max, 67108864)",
                "write(/sys/fs/cgroup/N/ID/memory.swap.max, 0)",
                "write(/sys/fs/cgroup/N/ID/pids.max, 10)",
                "write(/sys/fs/cgroup/N/ID/cpu.weight, 200)",
                "write(/sys/fs/cgroup/N/ID/cpu.max, 50000 100000)",
                "bpf(BPF_PROG_ATTACH, /sys/fs/cgroup/N/ID)",
            ]
        );
        assert_eq!(steps.spawn, groups.unified_dir(container()));
        assert_eq!((steps.enter.as_slice(), steps.leave.as_slice()), (&[][..], &[][..]));
        assert_eq!(
            text(&groups.sweep_steps(container())),
            ["write(/sys/fs/cgroup/N/ID/cgroup.kill)", "rmdir(/sys/fs/cgroup/N/ID)"]
        );
    }

    #[test]
    fn pure_version_2_hands_its_controllers_down_to_the_node() {
        let steps = text(&pure().setup_steps());
        assert_eq!(steps.len(), 17);
        assert_eq!(steps[0], "write(/sys/fs/cgroup/cgroup.subtree_control, +memory)");
        assert_eq!(steps[5], "mkdir(/sys/fs/cgroup/insula.slice)");
        assert_eq!(steps[11], "mkdir(/sys/fs/cgroup/N)");
        assert_eq!(steps[16], "write(/sys/fs/cgroup/N/cgroup.subtree_control, +io)");
    }

    #[test]
    fn hybrid_machines_bind_by_version_1_and_are_born_into_both() {
        let groups = hybrid();
        let (limits, rules) = (limits(), devices::default_rules());
        let start = StartGroups { container: container(), limits: &limits, devices: &rules[..3], delegate_to: None };
        let steps = groups.start_steps(&start).unwrap();
        assert_eq!(
            text(&steps.before),
            [
                "mkdir(/c/unified/N/ID)",
                "mkdir(/c/memory/N/ID)",
                "mkdir(/c/pids/N/ID)",
                "mkdir(/c/cpu,cpuacct/N/ID)",
                "mkdir(/c/devices/N/ID)",
                "write(/c/memory/N/ID/memory.limit_in_bytes, 67108864)",
                "write(/c/memory/N/ID/memory.memsw.limit_in_bytes, 67108864)",
                "write(/c/pids/N/ID/pids.max, 10)",
                "write(/c/cpu,cpuacct/N/ID/cpu.shares, 2048)",
                "write(/c/cpu,cpuacct/N/ID/cpu.cfs_period_us, 100000)",
                "write(/c/cpu,cpuacct/N/ID/cpu.cfs_quota_us, 50000)",
                "write(/c/devices/N/ID/devices.deny, a)",
                "write(/c/devices/N/ID/devices.allow, c *:* m)",
                "write(/c/devices/N/ID/devices.allow, b *:* m)",
                "write(/c/devices/N/ID/devices.allow, c 1:3 rwm)",
            ]
        );
        assert_eq!(
            text(&steps.enter),
            [
                "write(/c/memory/N/ID/tasks, 0)",
                "write(/c/pids/N/ID/tasks, 0)",
                "write(/c/cpu,cpuacct/N/ID/tasks, 0)",
                "write(/c/devices/N/ID/tasks, 0)",
            ]
        );
        assert_eq!(text(&steps.leave)[0], "write(/c/memory/N/tasks, 0)");
        assert_eq!(steps.leave.len(), steps.enter.len());
        assert_eq!(
            text(&groups.sweep_steps(container()))[..2],
            ["write(/c/unified/N/ID/cgroup.kill)", "rmdir(/c/unified/N/ID)"]
        );
        assert_eq!(groups.sweep_steps(container()).len(), 7);
        assert!(text(&groups.setup_steps()).contains(&"write(/c/cpuset/N/cpuset.cpus, its parent's)".to_owned()));
    }

    #[test]
    fn an_init_system_gets_its_own_groups_and_no_limit_file() {
        let range = IdRange { base: 1 << 20, size: IdRange::SIZE };
        let limits = limits();
        for (groups, trees) in [(pure(), 1), (hybrid(), 2)] {
            let start = StartGroups { container: container(), limits: &limits, devices: &[], delegate_to: Some(range) };
            let steps = groups.start_steps(&start).unwrap();
            let owned: Vec<&CgroupStep> =
                steps.before.iter().filter(|step| matches!(step, CgroupStep::Own { .. })).collect();
            assert_eq!(owned.len(), if trees == 1 { 4 } else { 7 });
            for step in owned {
                let CgroupStep::Own { file, uid, gid, .. } = step else { unreachable!() };
                assert_eq!((*uid, *gid), (range.base, range.base));
                assert!(file.as_deref().is_none_or(|file| file.starts_with("cgroup.") || file == "tasks"), "{step}");
            }
            let joined = groups.join(container(), true);
            assert!(joined.spawn.unwrap().ends_with("insula-join"));
            assert_eq!(joined.enter.len(), if trees == 1 { 1 } else { 6 });
        }
        let entered = |delegate_to| {
            let start = StartGroups { container: container(), limits: &limits, devices: &[], delegate_to };
            hybrid().start_steps(&start).unwrap().enter.len()
        };
        assert_eq!((entered(None), entered(Some(range))), (4, 5));
    }

    #[test]
    fn a_growing_memory_limit_raises_the_sum_with_swap_first() {
        let names = |old: Option<u64>, new: Option<u64>| {
            let with = |memory: Option<u64>| Limits { memory: memory.map(Bytes::mib), ..limits() };
            let steps = text(&hybrid().update_steps(container(), &with(old), &with(new)));
            let position = |name: &str| steps.iter().position(|step| step.contains(name));
            (position("memory.limit"), position("memory.memsw"))
        };
        let sum_first = |(limit, sum): (Option<usize>, Option<usize>)| sum.unwrap() < limit.unwrap();
        assert!(sum_first(names(Some(64), Some(128))));
        assert!(sum_first(names(Some(64), None)));
        assert!(!sum_first(names(Some(128), Some(64))));
        assert!(!sum_first(names(None, Some(64))));
    }

    #[test]
    fn taking_a_limit_away_writes_that_there_is_none() {
        let none = Limits { memory: None, cpu: None, ..limits() };
        let steps = text(&pure().update_steps(container(), &limits(), &none));
        assert!(steps.contains(&"write(/sys/fs/cgroup/N/ID/memory.max, max)".to_owned()), "{steps:?}");
        assert!(steps.contains(&"write(/sys/fs/cgroup/N/ID/cpu.max, max 100000)".to_owned()), "{steps:?}");
    }
}
