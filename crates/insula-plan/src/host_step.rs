//! Steps that a worker does with the host's privileges: control groups, the link, detached mounts and files in them.

use std::fmt;
use std::path::PathBuf;

use minicbor::{Decode, Encode};

use crate::cgroup::CgroupStep;
use crate::link::LinkStep;
use crate::slot::{At, FdSlot};

/// One step on the host.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum HostStep {
    /// On a control group.
    #[n(0)]
    Cgroup(#[n(0)] CgroupStep),
    /// On the link.
    #[n(1)]
    Link(#[n(0)] LinkStep),
    /// Makes or changes a detached mount.
    #[n(2)]
    Mount(#[n(0)] MountStep),
    /// Makes a file below a slot.
    #[n(3)]
    File(#[n(0)] FileStep),
    /// Mounts a file system that is in a file. It comes before the container's device rules, which forbid it.
    #[n(4)]
    Disk(#[n(0)] DiskStep),
}

/// Mounts the ext4 in a file, over a loop device that goes away with the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct DiskStep {
    /// The file, open for reading and writing.
    #[n(0)]
    pub file: FdSlot,
    /// Where the mount is put.
    #[n(1)]
    pub into: FdSlot,
}

/// Makes or changes a mount that is attached nowhere yet.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum MountStep {
    /// A copy of what is mounted at a place.
    #[n(0)]
    Clone {
        /// Of what: a directory, or a file.
        #[n(0)]
        from: At,
        /// With what is mounted below it, or without.
        #[n(1)]
        depth: Depth,
        /// Attributes that are set on the copy beside those it has.
        #[n(2)]
        attributes: MountAttributes,
        /// How ids are shifted.
        #[n(3)]
        idmap: IdShift,
        /// Where the copy is put.
        #[n(4)]
        into: FdSlot,
    },
    /// A file system in memory.
    #[n(1)]
    Memory {
        /// Its bounds and its root directory.
        #[n(0)]
        tmpfs: Tmpfs,
        /// Where it is put.
        #[n(1)]
        into: FdSlot,
    },
    /// One directory over another.
    #[n(2)]
    Overlay {
        /// The layers.
        #[n(0)]
        overlay: Overlay,
        /// Where it is put.
        #[n(1)]
        into: FdSlot,
    },
    /// A user namespace with nobody in it, for shifting ids in another way than the container's.
    #[n(3)]
    IdMap {
        /// User ids.
        #[n(0)]
        uids: Vec<IdExtent>,
        /// Group ids.
        #[n(1)]
        gids: Vec<IdExtent>,
        /// Where it is put.
        #[n(2)]
        into: FdSlot,
    },
    /// Changes a mount that came with the plan.
    #[n(4)]
    Change {
        /// Which.
        #[n(0)]
        mount: FdSlot,
        /// What it shows, for people.
        #[n(1)]
        source: String,
        /// Attributes that are set on it beside those it has.
        #[n(2)]
        attributes: MountAttributes,
        /// How ids are shifted.
        #[n(3)]
        idmap: IdShift,
    },
}

/// How much of a tree of mounts is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Depth {
    /// The one mount.
    #[n(0)]
    One,
    /// With all mounts below.
    #[n(1)]
    Tree,
}

/// Whose view of the ids on disk a mount gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum IdShift {
    /// The host's own.
    #[n(0)]
    None,
    /// The container's: what id 0 owns on disk its root owns.
    #[n(1)]
    Container,
    /// That of a user namespace made by [`MountStep::IdMap`].
    #[n(2)]
    By(#[n(0)] FdSlot),
}

/// `count` ids: `disk`, as the file system stores them, are `host`, as the host sees them through the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct IdExtent {
    /// First id on disk.
    #[n(0)]
    pub disk: u32,
    /// First id on the host.
    #[n(1)]
    pub host: u32,
    /// How many.
    #[n(2)]
    pub count: u32,
}

/// Attributes of a mount, by their `MOUNT_ATTR_*` bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct MountAttributes(#[n(0)] pub u32);

impl MountAttributes {
    /// None.
    pub const NONE: Self = Self(0);
    /// Nothing can be written through it.
    pub const READ_ONLY: Self = Self(0x1);
    /// Set-user-id bits and file capabilities have no effect.
    pub const NO_SUID: Self = Self(0x2);
    /// Device nodes cannot be opened.
    pub const NO_DEV: Self = Self(0x4);
    /// Nothing can be executed.
    pub const NO_EXEC: Self = Self(0x8);

    /// Both sets together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Bounds and root directory of a file system in memory.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Tmpfs {
    /// Most bytes.
    #[n(0)]
    pub size: u64,
    /// Most files and directories; 0 is the kernel's default.
    #[n(1)]
    pub inodes: u64,
    /// Mode of its root.
    #[n(2)]
    pub mode: u32,
    /// Owner of its root.
    #[n(3)]
    pub owner: Owner,
    /// Attributes of the mount.
    #[n(4)]
    pub attributes: MountAttributes,
}

/// Layers of an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Overlay {
    /// What is below: a detached mount, already shifted, or with [`LayerNames::Descriptors`] a directory of one.
    #[n(0)]
    pub lower: At,
    /// Where changes go.
    #[n(1)]
    pub upper: At,
    /// Beside it, the file system's own work.
    #[n(2)]
    pub work: At,
    /// What a crash may cost.
    #[n(3)]
    pub durability: Durability,
    /// As whom the file system does its work.
    #[n(4)]
    pub worker: OverlayWorker,
    /// How layers are named to the kernel.
    #[n(5)]
    pub layers: LayerNames,
    /// Attributes of the mount.
    #[n(6)]
    pub attributes: MountAttributes,
}

/// What a crash of the machine may cost an overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Durability {
    /// Everything, and `fsync` does nothing: right for an upper in memory.
    #[n(0)]
    Volatile,
    /// Nothing that was synced.
    #[n(1)]
    Durable,
}

/// As whom an overlay makes files in its work directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum OverlayWorker {
    /// The host's root: for an upper that is not shifted.
    #[n(0)]
    HostRoot,
    /// The container's root: for a shifted upper, which knows no host root. Without it the kernel mounts read-only
    /// and says nothing.
    #[n(1)]
    ContainerRoot,
}

/// How an overlay's layers are named to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum LayerNames {
    /// By descriptors of detached mounts (Linux 6.15).
    #[n(0)]
    Descriptors,
    /// By paths, for which the layers are attached in a mount namespace of the worker's own.
    #[n(1)]
    Paths,
}

impl LayerNames {
    /// What this kernel takes.
    #[must_use]
    pub fn of(features: &insula_kernel::features::Features) -> Self {
        match features.detached_mounts {
            insula_kernel::features::DetachedMounts::Whole => Self::Descriptors,
            insula_kernel::features::DetachedMounts::AttachOnly => Self::Paths,
        }
    }
}

/// Who owns a new file, in ids of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Owner {
    /// User.
    #[n(0)]
    pub uid: u32,
    /// Group.
    #[n(1)]
    pub gid: u32,
}

/// Makes a file below a slot.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum FileStep {
    /// A directory; one that is there stays as it is.
    #[n(0)]
    Dir {
        /// Where; its parent exists.
        #[n(0)]
        at: At,
        /// Mode.
        #[n(1)]
        mode: u32,
        /// Owner.
        #[n(2)]
        owner: Owner,
    },
    /// A regular file with this content, in the place of what is there (unless that is a directory).
    #[n(1)]
    File {
        /// Where; its parent exists.
        #[n(0)]
        at: At,
        /// Mode.
        #[n(1)]
        mode: u32,
        /// Owner.
        #[n(2)]
        owner: Owner,
        /// Its bytes.
        #[cbor(n(3), with = "minicbor::bytes")]
        content: Vec<u8>,
    },
    /// A symbolic link, in the place of what is there (unless that is a directory).
    #[n(2)]
    Link {
        /// Where; its parent exists.
        #[n(0)]
        at: At,
        /// What it says.
        #[n(1)]
        target: PathBuf,
        /// Owner.
        #[n(2)]
        owner: Owner,
    },
    /// A device node.
    #[n(3)]
    Device {
        /// Where; its parent exists.
        #[n(0)]
        at: At,
        /// Which device.
        #[n(1)]
        device: Device,
        /// Mode.
        #[n(2)]
        mode: u32,
        /// Owner.
        #[n(3)]
        owner: Owner,
    },
    /// Gives a directory the owner and the mode of another, as they are seen there.
    #[n(4)]
    Like {
        /// The model.
        #[n(0)]
        model: At,
        /// What is changed.
        #[n(1)]
        at: At,
    },
}

/// A device by its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Device {
    /// Character or block.
    #[n(0)]
    pub kind: DeviceKind,
    /// Major number.
    #[n(1)]
    pub major: u32,
    /// Minor number.
    #[n(2)]
    pub minor: u32,
}

/// Kinds of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum DeviceKind {
    /// Character device.
    #[n(0)]
    Character,
    /// Block device.
    #[n(1)]
    Block,
}

impl HostStep {
    /// What kind of step it is, for people and for matching in tests.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cgroup(_) => "cgroup",
            Self::Link(_) => "link",
            Self::Mount(MountStep::Clone { .. }) => "clone-mount",
            Self::Mount(MountStep::Memory { .. }) => "memory-mount",
            Self::Mount(MountStep::Overlay { .. }) => "overlay-mount",
            Self::Mount(MountStep::IdMap { .. }) => "id-map",
            Self::Mount(MountStep::Change { .. }) => "change-mount",
            Self::File(_) => "file",
            Self::Disk(_) => "disk",
        }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}:/{}", self.base.0, self.path.display())
    }
}
