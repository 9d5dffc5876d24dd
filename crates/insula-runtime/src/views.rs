//! The container's view of the system: `/proc`, `/sys`, control groups; what is hidden in them, what is read-only.

use insula_model::ContainerSpec;
use insula_plan::host_step::{Depth, HostStep, IdShift, MountAttributes, MountStep};
use insula_plan::inside_step::{Filesystem, InsideStep, Missing};
use insula_plan::slot::{At, FdSlot};

use crate::root::Steps;
use crate::slots::SlotAllocator;

/// What the field hides: files that tell of, or steer, the host.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What can be read and not written.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Whose control group view it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupView {
    /// To look at.
    ReadOnly,
    /// To make groups in: for an init system.
    Delegated,
}

const PRIVATE: MountAttributes = MountAttributes::NO_SUID.and(MountAttributes::NO_DEV).and(MountAttributes::NO_EXEC);

/// Mounts `/proc` and `/sys`. The kernel allows both only while the host's, unmasked, are still in sight.
///
/// `host_sys` is the host's `/sys`, for a container without a network stack of its own: it may not mount one.
pub(crate) fn kernel_steps(slots: &mut SlotAllocator, host_sys: Option<FdSlot>, steps: &mut Steps) {
    let read_only = PRIVATE.and(MountAttributes::READ_ONLY);
    let mount = |filesystem, attributes, target: &str| InsideStep::Mount {
        filesystem,
        options: Vec::new(),
        attributes,
        target: target.to_owned(),
    };
    steps.inside.push(mount(Filesystem::Proc, PRIVATE, "/proc"));
    match host_sys {
        None => steps.inside.push(mount(Filesystem::Sysfs, read_only, "/sys")),
        Some(host) => {
            let clone = slots.make();
            steps.outside.push(HostStep::Mount(MountStep::Clone {
                from: At::root(host),
                depth: Depth::One,
                attributes: read_only,
                idmap: IdShift::None,
                into: clone,
            }));
            steps.attach(clone, "/sys", Missing::Refuse);
        }
    }
}

/// The control group tree below the container's own group, version 2, at `/sys/fs/cgroup`.
pub(crate) fn group_step(view: GroupView) -> InsideStep {
    let attributes = match view {
        GroupView::ReadOnly => PRIVATE.and(MountAttributes::READ_ONLY),
        GroupView::Delegated => PRIVATE,
    };
    let options = Vec::new();
    InsideStep::Mount { filesystem: Filesystem::Cgroup2, options, attributes, target: "/sys/fs/cgroup".to_owned() }
}

/// Kernel settings of the container's own namespaces: those of every container, then those asked for.
pub(crate) fn setting_steps(spec: &ContainerSpec, own_network: bool) -> Vec<InsideStep> {
    let mut settings = Vec::new();
    if own_network {
        // Ports below 1024 of its own addresses are nobody else's; and ping needs no raw socket.
        settings.push(("net/ipv4/ip_unprivileged_port_start".to_owned(), "0".to_owned(), Missing::Skip));
        settings.push(("net/ipv4/ping_group_range".to_owned(), "0 65535".to_owned(), Missing::Skip));
    }
    settings.extend(spec.sysctls.iter().map(|(name, value)| (name.replace('.', "/"), value.clone(), Missing::Refuse)));
    settings.into_iter().map(|(path, value, missing)| InsideStep::Setting { path, value, missing }).collect()
}

/// Hides and protects what the field hides and protects.
pub(crate) fn protection_steps() -> Vec<InsideStep> {
    let masks = MASKED.iter().map(|&target| InsideStep::Mask { target: target.to_owned() });
    let protections = READ_ONLY.iter().map(|&target| InsideStep::ReadOnly { target: target.to_owned() });
    masks.chain(protections).collect()
}
