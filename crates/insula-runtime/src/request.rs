//! What a plan is made of, and what comes out.

use insula_kernel::capability::ParseCapabilityError;
use insula_kernel::device_filter::CompileDeviceRulesError;
use insula_kernel::rlimit::ParseResourceError;
use insula_kernel::seccomp::Filter;
use insula_model::{ContainerId, ContainerName, ContainerSpec, IdRange, ImageConfig, MountPlan};
use insula_network::{ContainerNetwork, NodeNetwork};
use insula_plan::host_step::{Device, LayerNames};
use insula_plan::plan::Plan;
use insula_plan::protocol::keeper::LogStream;
use insula_plan::protocol::launcher::ImageKey;
use insula_plan::protocol::process::{ParseUserError, WindowSize};
use insula_resources::NodeGroups;

use crate::rights::{ParseRightsError, Rights};

/// Everything that decides how a container starts.
#[derive(Debug, Clone)]
pub struct StartRequest<'a> {
    /// Its id.
    pub id: ContainerId,
    /// Its name: the host name of one that asks for none.
    pub name: &'a ContainerName,
    /// What it was asked to be; checked.
    pub spec: &'a ContainerSpec,
    /// What its image says about itself.
    pub config: &'a ImageConfig,
    /// Its image's writable places.
    pub mount_plan: &'a MountPlan,
    /// Under which key the launcher has mounted its image.
    pub image: ImageKey,
    /// Its ids on the host.
    pub ids: IdRange,
    /// Its capabilities, resolved.
    pub rights: Rights,
    /// The filter for these capabilities; `None` for a privileged container.
    pub filter: Option<&'a Filter>,
    /// Its network.
    pub network: Network<'a>,
    /// Where its persistent files are.
    pub storage: Storage,
    /// Files that are written for it.
    pub etc: EtcFiles<'a>,
    /// Sources of [`ContainerSpec::volumes`], in the same order.
    pub volumes: &'a [VolumeSource],
    /// Nodes of [`ContainerSpec::devices`], in the same order.
    pub devices: &'a [DeviceNode],
    /// Standard streams of the main process.
    pub streams: MainStreams,
    /// Outputs whose other end process 1 is to hold.
    pub held: &'a [LogStream],
    /// What the host is like.
    pub host: HostFacts<'a>,
}

/// What a plan has to know of its host.
#[derive(Debug, Clone, Copy)]
pub struct HostFacts<'a> {
    /// The node's control groups.
    pub groups: &'a NodeGroups,
    /// How this kernel takes an overlay's layers.
    pub layers: LayerNames,
    /// Soft limit of open files of a container that does not say; programs that can use more raise it.
    pub files_soft: u64,
    /// Hard limit of open files of the node's own processes.
    pub files_hard: u64,
}

/// Where a container's persistent files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// In directories of the node's file system, as large as that is.
    Directories,
    /// In a file system of the container's own, directories `data` and `layer` of it.
    Disk,
}

/// A container's network.
#[derive(Debug, Clone, Copy)]
pub enum Network<'a> {
    /// Its own, with addresses.
    Routed(&'a NodeNetwork, &'a ContainerNetwork),
    /// Its own, with a loopback only.
    Loopback,
    /// The host's.
    Host,
}

/// Files that are written into `/etc` at each start.
#[derive(Debug, Clone, Copy)]
pub struct EtcFiles<'a> {
    /// `resolv.conf`.
    pub resolv_conf: &'a str,
    /// `hosts`.
    pub hosts: &'a str,
}

/// A user and a group, as a file system stores them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What a volume's source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeSource {
    /// Whose it is: the container's root acts as this owner.
    pub owner: Owner,
    /// A directory or a file.
    pub kind: VolumeKind,
}

/// A volume is a directory or a single file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeKind {
    /// A directory.
    Directory,
    /// A file, socket or other node.
    File,
}

/// A device node of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceNode {
    /// Its numbers.
    pub device: Device,
}

/// Standard streams of the main process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MainStreams {
    /// Three descriptors that come beside the plan.
    Given,
    /// A terminal of the container's own.
    Terminal(WindowSize),
    /// None, and no main process: the container is there for its files, under our process 1.
    Absent,
}

/// One descriptor that goes beside a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GivenFd {
    /// Standard input of the main process.
    Stdin,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The other end of the pipe that this output is, for process 1 to hold.
    Held(LogStream),
    /// The container's persistent data directory.
    Data,
    /// The node's software directory.
    Software,
    /// Directory of the container's persistent layer over its image.
    Layer,
    /// File with the file system that has the container's data and layer, in the place of both directories.
    Disk,
    /// Source of the volume with this index.
    Volume(usize),
    /// The host's `/sys`, for a container in the host's network.
    HostSys,
}

/// A plan and what goes beside it.
#[derive(Debug, Clone)]
pub struct StartPlan {
    /// The plan.
    pub plan: Plan,
    /// Descriptors in the order in which they go beside it.
    pub given: Vec<GivenFd>,
}

/// No plan can be made: what was asked for contradicts itself or the image.
#[derive(Debug, thiserror::Error)]
pub enum PlanStartError {
    /// Neither the container nor its image names a command.
    #[error("container and image name no command; give one after the image")]
    NoCommand,
    /// A user that is none.
    #[error("user of the container")]
    User(#[source] ParseUserError),
    /// A time zone name that could lead out of the image's zones.
    #[error("time zone `{}` is no name of a zone such as Europe/Rome", given.escape_debug())]
    TimeZone {
        /// What was given.
        given: String,
    },
    /// A value with a NUL byte cannot be given to a program.
    #[error("{what} has a NUL byte")]
    Nul {
        /// Which value.
        what: &'static str,
    },
    /// A resource limit that does not exist.
    #[error("resource limits of the container")]
    Limit(#[source] ParseResourceError),
    /// A capability that does not exist.
    #[error("capabilities of the container")]
    Capability(#[source] ParseCapabilityError),
    /// The rights contradict each other.
    #[error("rights of the container")]
    Rights(#[source] ParseRightsError),
    /// Too many devices.
    #[error("devices of the container")]
    Devices(#[source] CompileDeviceRulesError),
}
