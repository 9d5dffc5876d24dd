//! Steps that the container's first process does itself, from its birth to its exec.

use minicbor::{Decode, Encode};

use crate::host_step::MountAttributes;
use crate::link::LinkStep;
use crate::privilege::PrivilegeStep;
use crate::slot::FdSlot;

/// One step inside. Targets are absolute paths of the container, resolved in its root without following any link: one
/// that is a link, or leads through one, refuses the start.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum InsideStep {
    /// Attaches the root and makes it `/`. What was `/` before stays within reach of this process until
    /// [`InsideStep::LeaveHost`]: the kernel lets a new procfs be mounted only where a whole one is visible.
    #[n(0)]
    EnterRoot {
        /// The root.
        #[n(0)]
        mount: FdSlot,
    },
    /// Attaches a mount that was made outside.
    #[n(1)]
    Attach {
        /// Which.
        #[n(0)]
        mount: FdSlot,
        /// Where.
        #[n(1)]
        target: String,
        /// What happens when there is nothing at the target.
        #[n(2)]
        missing: Missing,
    },
    /// Mounts a file system of the container's own namespaces.
    #[n(2)]
    Mount {
        /// Which kind.
        #[n(0)]
        filesystem: Filesystem,
        /// Options, `name` or `name=value`.
        #[n(1)]
        options: Vec<String>,
        /// Attributes of the mount.
        #[n(2)]
        attributes: MountAttributes,
        /// Where.
        #[n(3)]
        target: String,
    },
    /// Hides a file behind the null device, or a directory behind an empty one. What is not there needs no mask.
    #[n(3)]
    Mask {
        /// What.
        #[n(0)]
        target: String,
    },
    /// Makes what is there read-only. What is not there is passed over.
    #[n(4)]
    ReadOnly {
        /// What.
        #[n(0)]
        target: String,
    },
    /// Sets the host name.
    #[n(5)]
    HostName {
        /// The name.
        #[n(0)]
        name: String,
    },
    /// Writes a kernel setting of the container's namespaces, through a procfs that is known to be one.
    #[n(6)]
    Setting {
        /// Path below `/proc/sys`, such as `net/ipv4/ip_forward`.
        #[n(0)]
        path: String,
        /// Value.
        #[n(1)]
        value: String,
        /// What happens when this kernel has no such setting.
        #[n(2)]
        missing: Missing,
    },
    /// On the link.
    #[n(7)]
    Link(#[n(0)] LinkStep),
    /// Gives up a privilege.
    #[n(8)]
    Privilege(#[n(0)] PrivilegeStep),
    /// A control group namespace of its own, rooted where the process is now.
    #[n(9)]
    UnshareCgroup,
    /// Makes a terminal of the container's own devpts and binds it to a file; its other end goes to the worker.
    #[n(10)]
    Console {
        /// Where, such as `/dev/console`.
        #[n(0)]
        target: String,
        /// Where the terminal is put, for the program's standard streams.
        #[n(1)]
        into: FdSlot,
    },
    /// Lets go of what was `/` before; afterwards nothing of the host can be reached by any path.
    #[n(11)]
    LeaveHost,
}

/// What happens when a target is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Missing {
    /// The start is refused.
    #[n(0)]
    Refuse,
    /// It is made, with its parents: a directory for a directory, an empty file for a file.
    #[n(1)]
    Make,
    /// The step is passed over.
    #[n(2)]
    Skip,
}

/// File systems that show the container's namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Filesystem {
    /// Processes.
    #[n(0)]
    Proc,
    /// Devices and the network's classes.
    #[n(1)]
    Sysfs,
    /// Terminals.
    #[n(2)]
    Devpts,
    /// Message queues.
    #[n(3)]
    Mqueue,
    /// Control groups, version 2.
    #[n(4)]
    Cgroup2,
    /// Control groups, version 1, of the hierarchy that the options name.
    #[n(5)]
    Cgroup1,
    /// Memory.
    #[n(6)]
    Tmpfs,
}

impl Filesystem {
    /// The kernel's name of it.
    #[must_use]
    pub fn kernel_name(self) -> &'static str {
        match self {
            Self::Proc => "proc",
            Self::Sysfs => "sysfs",
            Self::Devpts => "devpts",
            Self::Mqueue => "mqueue",
            Self::Cgroup2 => "cgroup2",
            Self::Cgroup1 => "cgroup",
            Self::Tmpfs => "tmpfs",
        }
    }
}

impl InsideStep {
    /// What kind of step it is, for people and for matching in tests.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::EnterRoot { .. } => "enter-root",
            Self::Attach { .. } => "attach-mount",
            Self::Mount { .. } => "mount",
            Self::Mask { .. } => "mask",
            Self::ReadOnly { .. } => "read-only",
            Self::HostName { .. } => "host-name",
            Self::Setting { .. } => "setting",
            Self::Link(_) => "link",
            Self::Privilege(_) => "privilege",
            Self::UnshareCgroup => "unshare-cgroup",
            Self::Console { .. } => "console",
            Self::LeaveHost => "leave-host",
        }
    }
}
