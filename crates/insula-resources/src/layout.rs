//! Which control group hierarchies the machine has, and where.
//!
//! ```text
//! pure v2   /sys/fs/cgroup            cgroup2, controllers cpu memory pids io …
//! hybrid    /sys/fs/cgroup/memory     cgroup, one or more controllers for each mount
//!           /sys/fs/cgroup/systemd    cgroup, name=systemd
//!           /sys/fs/cgroup/unified    cgroup2, without controllers, or with those that v1 has not
//! ```
//!
//! A controller is in one hierarchy only. The version 2 tree gives freezing, killing and BPF even without controllers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use insula_kernel::cgroup;
use rustix::io::Errno;

/// A control group controller that Insula uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Controller {
    /// Memory limits and accounting.
    Memory,
    /// Number of processes.
    Pids,
    /// Processor time: quota and weight.
    Cpu,
    /// Processor time used (version 1 only; version 2 always counts).
    Cpuacct,
    /// Device nodes (version 1 only; version 2 has BPF programs).
    Devices,
    /// Which processors and memory nodes.
    Cpuset,
    /// Block devices; `blkio` in version 1, `io` in version 2.
    BlockIo,
}

impl Controller {
    const EVERY: [Self; 7] =
        [Self::Memory, Self::Pids, Self::Cpu, Self::Cpuacct, Self::Devices, Self::Cpuset, Self::BlockIo];

    /// Name among the mount options of a version 1 hierarchy.
    fn version_1_name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Devices => "devices",
            Self::Cpuset => "cpuset",
            Self::BlockIo => "blkio",
        }
    }

    /// Name in `cgroup.controllers`, if version 2 has it.
    pub(crate) fn version_2_name(self) -> Option<&'static str> {
        match self {
            Self::BlockIo => Some("io"),
            Self::Cpuacct | Self::Devices => None,
            other => Some(other.version_1_name()),
        }
    }
}

/// Where a controller's files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy of its own, or with few others.
    One,
    /// The unified hierarchy.
    Two,
}

/// The version 2 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnifiedHierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Which controllers it has.
    pub controllers: BTreeSet<Controller>,
}

/// The machine's control group hierarchies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupLayout {
    /// Mount point by controller, version 1.
    pub legacy: BTreeMap<Controller, PathBuf>,
    /// Mount point of version 1's `name=systemd`, where an init system in a container looks for its own group.
    pub systemd: Option<PathBuf>,
    /// Version 2.
    pub unified: Option<UnifiedHierarchy>,
}

/// The machine's control groups cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DetectCgroupsError {
    /// A file could not be read.
    #[error("read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// No hierarchy is mounted at all.
    #[error("no control group hierarchy is mounted; mount cgroup2 on /sys/fs/cgroup")]
    NoneMounted,
}

impl fmt::Display for CgroupLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |controllers: &mut dyn Iterator<Item = &Controller>| -> String {
            controllers.map(|controller| controller.version_1_name()).collect::<Vec<_>>().join(" ")
        };
        if !self.legacy.is_empty() {
            write!(f, "version 1 with {}", names(&mut self.legacy.keys()))?;
        }
        let Some(unified) = &self.unified else { return Ok(()) };
        let and = if self.legacy.is_empty() { "" } else { "; " };
        write!(f, "{and}version 2 at {}", unified.mount.display())?;
        match unified.controllers.is_empty() {
            true => f.write_str(" without controllers"),
            false => write!(f, " with {}", names(&mut unified.controllers.iter())),
        }
    }
}

impl CgroupLayout {
    /// Reads `/proc/self/mountinfo` and the version 2 root's `cgroup.controllers`.
    ///
    /// # Errors
    ///
    /// Nothing is mounted, or a file cannot be read.
    pub fn detect() -> Result<Self, DetectCgroupsError> {
        let read = |dir: &Path, file: &str| {
            cgroup::read(dir, file).map_err(|errno| DetectCgroupsError::Read { path: dir.join(file), errno })
        };
        let mut layout = Self::from_mountinfo(&read(Path::new("/proc/self"), "mountinfo")?);
        if let Some(unified) = &mut layout.unified {
            let names = read(&unified.mount, "cgroup.controllers")?;
            unified.controllers = controllers_named(&names);
        }
        if layout.unified.is_none() && layout.legacy.is_empty() {
            return Err(DetectCgroupsError::NoneMounted);
        }
        Ok(layout)
    }

    /// The hierarchies that a mountinfo text shows (proc(5)), without the controllers of version 2. Of several mounts
    /// of one hierarchy the first one counts; those of a part of a hierarchy are passed over when a whole one is there.
    #[must_use]
    pub fn from_mountinfo(text: &str) -> Self {
        let mut layout = Self { legacy: BTreeMap::new(), systemd: None, unified: None };
        let mut mounts: Vec<Mount> = text.lines().filter_map(parse_mount).collect();
        // Stable: whole hierarchies first.
        mounts.sort_by_key(|mount| mount.root != "/");
        for Mount { point, kind, options, .. } in mounts {
            if kind == "cgroup2" {
                let unified = UnifiedHierarchy { mount: point, controllers: BTreeSet::new() };
                layout.unified.get_or_insert(unified);
                continue;
            }
            for controller in Controller::EVERY {
                if options.split(',').any(|option| option == controller.version_1_name()) {
                    layout.legacy.entry(controller).or_insert_with(|| point.clone());
                }
            }
            if options.split(',').any(|option| option == "name=systemd") {
                layout.systemd.get_or_insert(point);
            }
        }
        layout
    }

    /// Where `controller` is, or `None` when the kernel has it nowhere.
    #[must_use]
    pub fn hierarchy_of(&self, controller: Controller) -> Option<(Version, &Path)> {
        if let Some(mount) = self.legacy.get(&controller) {
            return Some((Version::One, mount));
        }
        let unified = self.unified.as_ref()?;
        unified.controllers.contains(&controller).then_some((Version::Two, unified.mount.as_path()))
    }
}

/// The controllers that `cgroup.controllers` names.
pub(crate) fn controllers_named(names: &str) -> BTreeSet<Controller> {
    let named = |name: &str| Controller::EVERY.into_iter().find(|known| known.version_2_name() == Some(name));
    names.split_whitespace().filter_map(named).collect()
}

struct Mount {
    root: String,
    point: PathBuf,
    kind: String,
    options: String,
}

/// `ID PARENT MAJ:MIN ROOT POINT OPTIONS [OPTIONAL…] - TYPE SOURCE SUPEROPTIONS`
fn parse_mount(line: &str) -> Option<Mount> {
    let (front, back) = line.split_once(" - ")?;
    let mut back = back.split(' ');
    let (kind, options) = (back.next()?, back.nth(1)?);
    if kind != "cgroup" && kind != "cgroup2" {
        return None;
    }
    let mut front = front.split(' ').skip(3);
    let (root, point) = (front.next()?, front.next()?);
    // The kernel writes blanks in paths as octal escapes; no control group mount of any distribution has one.
    if point.contains('\\') {
        return None;
    }
    Some(Mount {
        root: root.to_owned(),
        point: PathBuf::from(point),
        kind: kind.to_owned(),
        options: options.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
99 31 0:38 / /mnt/second rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn hybrid_layouts_have_a_mount_for_each_controller() {
        let layout = CgroupLayout::from_mountinfo(HYBRID);
        let cpu = Path::new("/sys/fs/cgroup/cpu,cpuacct");
        assert_eq!(layout.hierarchy_of(Controller::Cpu), Some((Version::One, cpu)));
        assert_eq!(layout.hierarchy_of(Controller::Cpuacct), Some((Version::One, cpu)));
        assert_eq!(layout.hierarchy_of(Controller::Pids), None);
        assert_eq!(layout.systemd.as_deref(), Some(Path::new("/sys/fs/cgroup/systemd")));
        let said = layout.to_string();
        assert_eq!(said, "version 1 with memory cpu cpuacct; version 2 at /sys/fs/cgroup/unified without controllers");
        assert_eq!(layout.unified.unwrap().mount, Path::new("/sys/fs/cgroup/unified"));
    }

    #[test]
    fn pure_version_2_has_its_controllers_in_one_tree() {
        let text = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let mut layout = CgroupLayout::from_mountinfo(text);
        let unified = layout.unified.as_mut().unwrap();
        unified.controllers = controllers_named("cpuset cpu io memory hugetlb pids rdma misc\n");
        let root = Path::new("/sys/fs/cgroup");
        assert_eq!(layout.hierarchy_of(Controller::Memory), Some((Version::Two, root)));
        assert_eq!(layout.hierarchy_of(Controller::BlockIo), Some((Version::Two, root)));
        assert_eq!(layout.hierarchy_of(Controller::Devices), None);
        assert!(layout.legacy.is_empty() && layout.systemd.is_none());
    }

    #[test]
    fn a_whole_hierarchy_goes_before_a_part_of_it() {
        let text = "\
50 23 0:26 /system.slice /run/part rw - cgroup2 cgroup2 rw
51 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
";
        let layout = CgroupLayout::from_mountinfo(text);
        assert_eq!(layout.unified.unwrap().mount, Path::new("/sys/fs/cgroup"));
        assert_eq!(
            CgroupLayout::from_mountinfo("nonsense\n1 2 3\n - cgroup2\n"),
            CgroupLayout { legacy: BTreeMap::new(), systemd: None, unified: None }
        );
    }

    #[test]
    fn live_this_machine_has_a_layout() {
        let layout = CgroupLayout::detect().unwrap();
        assert!(layout.hierarchy_of(Controller::Memory).is_some());
    }
}
