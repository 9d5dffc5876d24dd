//! `run` and `create`: everything a container can be asked to be.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use insula_model::{
    Bytes, ContainerName, CpuLimit, DeviceSpec, HostEntry, ImageRef, InitKind, NetworkMode, RestartPolicy, RootAccess,
    Signal, TemplateName, TmpfsMount, Ulimit,
};

use super::DetachKeys;
use crate::values::{
    KeyValue, PortRange, Variable, parse_device, parse_directory, parse_duration, parse_host_entry, parse_label,
    parse_tmpfs, parse_ulimit,
};

/// `insula run`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Delete the container when it ends
    #[arg(long)]
    pub rm: bool,
    /// Leave it in the background and print its name
    #[arg(short, long)]
    pub detach: bool,
    /// Keys that leave the terminal without ending the container
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: DetachKeys,
    /// The container.
    #[command(flatten)]
    pub spec: SpecArgs,
}

/// `insula create`
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Delete the container when it ends
    #[arg(long)]
    pub rm: bool,
    /// The container.
    #[command(flatten)]
    pub spec: SpecArgs,
}

/// What the container is to be.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "flags of a command line are independent of each other")]
pub struct SpecArgs {
    /// Pass standard input on
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Name; the node makes one up otherwise
    #[arg(long, value_name = "NAME")]
    pub name: Option<ContainerName>,
    /// Refuse an unknown image version instead of falling back to the default version
    #[arg(long)]
    pub strict: bool,
    /// Working directory
    #[arg(short, long, value_name = "DIR", value_parser = parse_directory)]
    pub workdir: Option<String>,
    /// User: NAME, UID, NAME:GROUP or UID:GID
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,
    /// Host name
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Replace the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Time zone of the image's zoneinfo, such as Europe/Rome
    #[arg(long, value_name = "ZONE")]
    pub timezone: Option<String>,
    /// Who is process 1
    #[arg(long, value_enum, value_name = "INIT")]
    pub init: Option<InitArg>,
    /// Whether / is writable
    #[arg(long, value_enum, value_name = "ACCESS")]
    pub root: Option<RootArg>,
    /// What to do when it ends by itself: no, always, on-failure, on-failure:COUNT
    #[arg(long, value_name = "POLICY", default_value = "no")]
    pub restart: RestartPolicy,
    /// Signal that asks it to stop
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<Signal>,
    /// Time from the stop signal to the kill, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = parse_duration)]
    pub stop_timeout: Option<Duration>,
    /// How to tell that it is healthy.
    #[command(flatten)]
    pub health: HealthArgs,
    /// Do not keep its output
    #[arg(long)]
    pub no_log: bool,
    /// Template that limits come from which are not named here
    #[arg(long, value_name = "NAME")]
    pub template: Option<TemplateName>,
    /// A setting, such as memory.limit=256MiB
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<KeyValue>,
    /// Environment and labels.
    #[command(flatten)]
    pub env: EnvArgs,
    /// Files.
    #[command(flatten)]
    pub mounts: MountArgs,
    /// Network.
    #[command(flatten)]
    pub network: NetworkArgs,
    /// Rights.
    #[command(flatten)]
    pub isolation: IsolationArgs,
    /// Limits.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Image; without version its default version
    #[arg(value_name = "IMAGE[@VERSION]")]
    pub image: ImageRef,
    /// Command line instead of the image's
    #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// Environment and labels.
#[derive(Debug, Args)]
#[command(next_help_heading = "Environment")]
pub struct EnvArgs {
    /// Environment variable; without value the caller's own
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<Variable>,
    /// File of environment variables, one KEY=VALUE a line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Label
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = parse_label)]
    pub label: Vec<KeyValue>,
}

/// Files and devices.
#[derive(Debug, Args)]
#[command(next_help_heading = "Files and devices")]
pub struct MountArgs {
    /// Directory or file of the host; its owner is the container's root
    #[arg(short, long, value_name = "SRC:DST[:ro]")]
    pub volume: Vec<String>,
    /// File system in memory
    #[arg(long, value_name = "DST[:size=SIZE,mode=OCTAL]", value_parser = parse_tmpfs)]
    pub tmpfs: Vec<TmpfsMount>,
    /// Device of the host
    #[arg(long, value_name = "SRC[:DST][:ACCESS]", value_parser = parse_device)]
    pub device: Vec<DeviceSpec>,
}

/// Network.
#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
pub struct NetworkArgs {
    /// Network stack
    #[arg(long, value_enum, value_name = "NETWORK", default_value_t = NetworkArg::Default)]
    pub network: NetworkArg,
    /// Publish a port, or a range of them: 8000-8009:80-89
    #[arg(short, long, value_name = "[IP:]HOST:CONT[/udp]")]
    pub publish: Vec<PortRange>,
    /// Name server
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<IpAddr>,
    /// Line of /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = parse_host_entry)]
    pub add_host: Vec<HostEntry>,
}

/// Rights.
#[derive(Debug, Args)]
#[command(next_help_heading = "Rights")]
pub struct IsolationArgs {
    /// Capability beside the default ones; ALL is all of its user namespace
    #[arg(long, value_name = "CAP")]
    pub cap_add: Vec<String>,
    /// Capability taken away; ALL is every one
    #[arg(long, value_name = "CAP")]
    pub cap_drop: Vec<String>,
    /// All capabilities of its user namespace and no system call filter
    #[arg(long)]
    pub privileged: bool,
    /// Take the effect of set-user-id programs away
    #[arg(long)]
    pub no_new_privileges: bool,
    /// Kernel setting of its own namespaces
    #[arg(long, value_name = "KEY=VALUE")]
    pub sysctl: Vec<KeyValue>,
}

/// Limits.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Most memory, such as 256MiB
    #[arg(short, long, value_name = "SIZE")]
    pub memory: Option<Bytes>,
    /// Most processors, such as 1.5
    #[arg(long, value_name = "COUNT")]
    pub cpus: Option<CpuLimit>,
    /// Most processes and threads
    #[arg(long, value_name = "COUNT")]
    pub pids_limit: Option<u32>,
    /// Resource limit of every process
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = parse_ulimit)]
    pub ulimit: Vec<Ulimit>,
}

/// Who is process 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InitArg {
    /// The image's init system
    Image,
    /// Insula's own small init
    Insula,
}

impl From<InitArg> for InitKind {
    fn from(init: InitArg) -> Self {
        match init {
            InitArg::Image => Self::Image,
            InitArg::Insula => Self::Insula,
        }
    }
}

/// Its health check.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Command that exits 0 when it is healthy
    #[arg(long, value_name = "COMMAND", group = "health_command")]
    pub health: Option<String>,
    /// The same as a text for its shell
    #[arg(long, value_name = "SCRIPT", group = "health_command")]
    pub health_cmd: Option<String>,
    /// Time between two health checks; 30s otherwise
    #[arg(long, value_name = "TIME", value_parser = parse_duration, requires = "health_command")]
    pub health_interval: Option<Duration>,
    /// Time that one health check may take; 30s otherwise
    #[arg(long, value_name = "TIME", value_parser = parse_duration, requires = "health_command")]
    pub health_timeout: Option<Duration>,
    /// Failures in a row that make it unhealthy; 3 otherwise
    #[arg(long, value_name = "COUNT", requires = "health_command")]
    pub health_retries: Option<u32>,
    /// Time from the start in which failures do not count; 60s otherwise
    #[arg(long, value_name = "TIME", value_parser = parse_duration, requires = "health_command")]
    pub health_start_period: Option<Duration>,
    /// No health check, also not its image's
    #[arg(long, conflicts_with = "health_command")]
    pub no_healthcheck: bool,
}

/// Whether `/` is writable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RootArg {
    /// Only the image's writable places are
    ReadOnly,
    /// A persistent layer over the image
    Writable,
}

impl From<RootArg> for RootAccess {
    fn from(root: RootArg) -> Self {
        match root {
            RootArg::ReadOnly => Self::ReadOnly,
            RootArg::Writable => Self::Writable,
        }
    }
}

/// Network stacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NetworkArg {
    /// Its own, with a way out
    Default,
    /// Its own, with nothing but a loopback
    None,
    /// The host's
    Host,
}

impl From<NetworkArg> for NetworkMode {
    fn from(network: NetworkArg) -> Self {
        match network {
            NetworkArg::Default => Self::Default,
            NetworkArg::None => Self::None,
            NetworkArg::Host => Self::Host,
        }
    }
}
