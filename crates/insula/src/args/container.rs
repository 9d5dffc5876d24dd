//! Verbs on containers that exist.

use std::fmt::Write;
use std::time::Duration;

use clap::{Args, ValueEnum};
use insula_model::{ContainerName, ImageRef, Signal};

use super::DetachKeys;
use crate::values::{KeyValue, Variable, parse_directory, parse_duration, parse_interval};

/// One or more containers.
#[derive(Debug, Args)]
pub struct NamesArgs {
    /// Containers, by name or id
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

/// One container.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// Container, by name or id
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// `insula start`
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Connect to its standard streams and wait for its end
    #[arg(short, long)]
    pub attach: bool,
    /// Pass standard input on; means --attach
    #[arg(short, long)]
    pub interactive: bool,
    /// Keys that leave the terminal without ending the container
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: DetachKeys,
    /// Containers, by name or id
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

/// `insula stop`, `insula restart`
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Time from the stop signal to the kill, in seconds
    #[arg(short, long, alias = "time", value_name = "SECONDS", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// Containers, by name or id
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

/// `insula kill`
#[derive(Debug, Args)]
pub struct KillArgs {
    /// Which signal
    #[arg(short, long, value_name = "SIGNAL", default_value = "SIGKILL")]
    pub signal: Signal,
    /// Containers, by name or id
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

/// `insula delete`
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Kill it first if it runs
    #[arg(short, long)]
    pub force: bool,
    /// Containers, by name or id
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

/// `insula rename`
#[derive(Debug, Args)]
pub struct RenameArgs {
    /// Container, by name or id
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Its new name
    #[arg(value_name = "NEW")]
    pub new_name: ContainerName,
}

/// `insula logs`
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Go on with what comes
    #[arg(short, long)]
    pub follow: bool,
    /// Only what is younger: a time (RFC 3339) or a length of time, such as 10m
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only the last so many lines; all when `all`
    #[arg(short = 'n', long, value_name = "LINES")]
    pub tail: Option<String>,
    /// Begin each line with its time
    #[arg(short, long)]
    pub timestamps: bool,
    /// Container, by name or id
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// `insula wait`
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// For what
    #[arg(long, value_enum, value_name = "CONDITION", default_value_t = WaitFor::Stopped)]
    pub condition: WaitFor,
    /// Give up after so many seconds
    #[arg(short, long, value_name = "SECONDS", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// Containers, by name or id
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

/// What `wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WaitFor {
    /// It does not run
    Stopped,
    /// It runs
    Running,
    /// It runs and its health check passed
    Healthy,
    /// It is gone
    Deleted,
}

impl From<WaitFor> for insula_api::WaitCondition {
    fn from(condition: WaitFor) -> Self {
        match condition {
            WaitFor::Stopped => Self::Stopped,
            WaitFor::Running => Self::Running,
            WaitFor::Healthy => Self::Healthy,
            WaitFor::Deleted => Self::Deleted,
        }
    }
}

/// `insula events`
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Only events about containers or images of this name
    #[arg(long, value_name = "NAME")]
    pub name: Vec<String>,
    /// End after so many events
    #[arg(long, value_name = "COUNT")]
    pub count: Option<u64>,
}

/// `insula cp`
#[derive(Debug, Args)]
#[command(
    after_help = "One side is NAME:PATH, the other a path of this machine, or - for a tar stream. The container \
    need not run; then copies into it go to what stays: /data, volumes, and a writable root."
)]
pub struct CopyArgs {
    /// From where: NAME:PATH, PATH or -
    #[arg(value_name = "FROM")]
    pub from: String,
    /// To where: NAME:PATH, PATH or -
    #[arg(value_name = "TO")]
    pub to: String,
}

/// `insula upgrade`
#[derive(Debug, Args)]
pub struct UpgradeArgs {
    /// Image to change to; its pending or default version otherwise
    #[arg(long, value_name = "IMAGE[@VERSION]")]
    pub image: Option<ImageRef>,
    /// Command that exits 0 when it is healthy
    #[arg(long, value_name = "COMMAND")]
    pub health: Option<String>,
    /// Seconds until it must be healthy
    #[arg(long, value_name = "SECONDS", value_parser = parse_duration)]
    pub deadline: Option<Duration>,
    /// Container, by name or id
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// `insula rollback`
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// Seconds until it must be healthy
    #[arg(long, value_name = "SECONDS", value_parser = parse_duration)]
    pub deadline: Option<Duration>,
    /// Container, by name or id
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// `insula whois`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("question").required(true).multiple(false))]
pub struct WhoisArgs {
    /// A host process id, an IP or IP:PORT, or an absolute path
    #[arg(value_name = "WHAT", group = "question")]
    pub what: Option<String>,
    /// A host process id
    #[arg(long, value_name = "PID", group = "question")]
    pub pid: Option<u32>,
    /// A container's IP or IP:PORT, or a published port of the host
    #[arg(long, value_name = "IP[:PORT]", group = "question")]
    pub address: Option<String>,
    /// A host path
    #[arg(long, value_name = "PATH", group = "question")]
    pub path: Option<String>,
    /// A host group id
    #[arg(long, value_name = "GID", group = "question")]
    pub gid: Option<u32>,
}

/// Every setting, a line each.
fn settings_help() -> String {
    let mut text =
        String::from("Settings; an empty value takes one away. Those with * act at once, others at the next start:\n");
    for setting in insula_model::SETTINGS {
        let mark = if setting.effect == insula_model::Effect::Live { '*' } else { ' ' };
        // Writing to a String cannot fail.
        let _ = write!(text, "\n{mark} {:<18} {}", setting.key, setting.help);
    }
    text
}

/// `insula set`
#[derive(Debug, Args)]
#[command(after_long_help = settings_help())]
pub struct SetArgs {
    /// Container, by name or id
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Settings, such as image=debian@13 or memory.limit=256MiB; all are taken or none
    #[arg(value_name = "KEY=VALUE", required = true)]
    pub settings: Vec<KeyValue>,
}

/// `insula list`
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only those that match every KEY=VALUE: state, name (its beginning), image, label (as label=KEY:VALUE)
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub filter: Vec<KeyValue>,
    /// All containers; that is so anyway
    #[arg(short, long, hide = true)]
    pub all: bool,
}

/// `insula exec`
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Pass standard input on
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Environment variable; without value the caller's own
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<Variable>,
    /// User: NAME, UID, NAME:GROUP or UID:GID
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR", value_parser = parse_directory)]
    pub workdir: Option<String>,
    /// Keys that leave the terminal and hang the command up, as a window does that is closed; none unless they are named
    /// here, such as ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS", default_value = "", hide_default_value = true)]
    pub detach_keys: DetachKeys,
    /// Container, by name or id
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Command line
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// `insula shell`
#[derive(Debug, Args)]
pub struct ShellArgs {
    /// User: NAME, UID, NAME:GROUP or UID:GID
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR", value_parser = parse_directory)]
    pub workdir: Option<String>,
    /// Container, by name or id
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// `insula attach`
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Do not pass standard input on
    #[arg(long)]
    pub no_stdin: bool,
    /// Keys that leave the terminal without ending the container
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: DetachKeys,
    /// Container, by name or id
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// `insula stats`
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Once, and no more
    #[arg(long)]
    pub no_stream: bool,
    /// Time between two readings, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = parse_interval, default_value = "1")]
    pub interval: Duration,
    /// Containers, by name or id; all running ones otherwise
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

/// `insula prune`
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Those that were never started too
    #[arg(short, long)]
    pub all: bool,
}
