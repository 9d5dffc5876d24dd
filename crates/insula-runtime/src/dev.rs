//! `/dev` of a container: a file system in memory with the field's few nodes, its own terminals and message queues.

use insula_plan::host_step::{Device, DeviceKind, FileStep, MountAttributes, Owner, Tmpfs};
use insula_plan::inside_step::{Filesystem, InsideStep, Missing};
use insula_plan::slot::At;

use crate::request::StartRequest;
use crate::root::{Steps, range_root};
use crate::slots::SlotAllocator;

/// Size of `/dev`.
const DEV_BYTES: u64 = 5 << 20;
/// Size of `/dev/shm`, as in the field.
const SHARED_MEMORY_BYTES: u64 = 64 << 20;
/// Most terminals of a container.
const TERMINALS_MAX: u32 = 1024;

/// Name, major and minor number of what every container has.
const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Links, and what they say.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Makes `/dev` and what lies below it.
///
/// Nodes are made in it, not mounted over: the file system belongs to the host, so they work, and its owner inside
/// cannot make another one.
pub(crate) fn dev_steps(request: &StartRequest<'_>, slots: &mut SlotAllocator, steps: &mut Steps) {
    let (dev, shm) = (slots.make(), slots.make());
    let owner = range_root(request);
    let attributes = MountAttributes::NO_SUID.and(MountAttributes::NO_EXEC);
    steps.memory(dev, Tmpfs { size: DEV_BYTES, inodes: 0, mode: 0o755, owner, attributes });
    for (name, major, minor) in NODES {
        let device = Device { kind: DeviceKind::Character, major, minor };
        steps.file(FileStep::Device { at: At::new(dev, name), device, mode: 0o666, owner });
    }
    for (name, target) in LINKS {
        steps.file(FileStep::Link { at: At::new(dev, name), target: target.into(), owner });
    }
    for name in ["pts", "shm", "mqueue"] {
        steps.file(FileStep::Dir { at: At::new(dev, name), mode: 0o755, owner });
    }
    asked_devices(request, dev, owner, steps);
    let attributes = MountAttributes::NO_SUID.and(MountAttributes::NO_DEV).and(MountAttributes::NO_EXEC);
    steps.memory(shm, Tmpfs { size: SHARED_MEMORY_BYTES, inodes: 0, mode: 0o1777, owner, attributes });
    steps.attach(dev, "/dev", Missing::Refuse);
    steps.attach(shm, "/dev/shm", Missing::Refuse);
    let mount = |filesystem, options: &[String], attributes, target: &str| InsideStep::Mount {
        filesystem,
        options: options.to_vec(),
        attributes,
        target: target.to_owned(),
    };
    let terminals = [
        "newinstance".to_owned(),
        "ptmxmode=0666".to_owned(),
        "mode=0620".to_owned(),
        "gid=5".to_owned(),
        format!("max={TERMINALS_MAX}"),
    ];
    let private = MountAttributes::NO_SUID.and(MountAttributes::NO_EXEC);
    steps.inside.push(mount(Filesystem::Devpts, &terminals, private, "/dev/pts"));
    let queues = private.and(MountAttributes::NO_DEV);
    steps.inside.push(mount(Filesystem::Mqueue, &[], queues, "/dev/mqueue"));
}

fn asked_devices(request: &StartRequest<'_>, dev: insula_plan::slot::FdSlot, owner: Owner, steps: &mut Steps) {
    for (asked, node) in request.spec.devices.iter().zip(request.devices) {
        let Some(name) = asked.target.strip_prefix("/dev/") else { continue };
        let folders: Vec<&str> = name.split('/').collect();
        for depth in 1..folders.len() {
            let at = At::new(dev, folders[..depth].join("/"));
            steps.file(FileStep::Dir { at, mode: 0o755, owner });
        }
        steps.file(FileStep::Device { at: At::new(dev, name), device: node.device, mode: 0o666, owner });
    }
}
