//! The command line as data: what may be written, and nothing of what it does.
//!
//! Help texts, completions, man pages and `docs/cli.md` are all made from these definitions.

mod container;
mod detach_keys;
mod image;
mod operands;
mod run;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

pub use container::{
    AttachArgs, CopyArgs, DeleteArgs, EventsArgs, ExecArgs, KillArgs, ListArgs, LogsArgs, NameArgs, NamesArgs,
    PruneArgs, RenameArgs, RollbackArgs, SetArgs, ShellArgs, StartArgs, StatsArgs, StopArgs, UpgradeArgs, WaitArgs,
    WaitFor, WhoisArgs,
};
pub use detach_keys::DetachKeys;
pub use image::{
    DiffArgs, ExportArgs, ExportAs, ImageCommand, ImageDefaultArgs, ImageIdArgs, ImageIdsArgs, ImageListArgs,
    ImageRefArgs, ImageRefsArgs, ImportArgs, RecipeArgs,
};
pub use run::{
    CreateArgs, EnvArgs, HealthArgs, InitArg, IsolationArgs, LimitArgs, MountArgs, NetworkArg, NetworkArgs, RootArg,
    RunArgs, SpecArgs,
};

/// Where the node listens when nothing else is said.
pub const DEFAULT_SOCKET: &str = "/run/insula/insula.sock";

/// Containers from shared, read-only operating system images.
#[derive(Debug, Parser)]
#[command(name = "insula", version, propagate_version = false, infer_subcommands = false)]
#[command(
    after_help = "Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 conflict, 5 denied, 6 refused by admission, \
    7 not supported here, 8 partly done. Foreground run and exec: 125 ours, 126 not executable, 127 not found, else the \
    command's own, 128+n for signal n."
)]
pub struct Cli {
    /// What goes for every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads a command line, program name first. Options of `run`, `create` and `exec` end at the first operand.
    ///
    /// # Errors
    ///
    /// It is not of the contract, or it asks for help.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let words: Vec<OsString> = words.into_iter().collect();
        if let Some(cli) = Self::read_frequent(&words) {
            return Ok(cli);
        }
        let mut command = Self::command();
        let words = operands::with_operands_marked(&command, words);
        let matches = command.try_get_matches_from_mut(words)?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }
}

impl Cli {
    /// The last command that `words` name, to show its help.
    #[must_use]
    pub fn help_of(words: impl IntoIterator<Item = OsString>) -> clap::Command {
        let mut root = Self::command();
        root.build();
        words.into_iter().skip(1).fold(root, |command, word| command.find_subcommand(&word).cloned().unwrap_or(command))
    }

    /// The same for the commands that scripts run by the thousand, without defining all the others first, which would
    /// take half of a millisecond. `None` for other commands and for whatever is wrong: what is said about it comes
    /// from the whole definition.
    fn read_frequent(words: &[OsString]) -> Option<Self> {
        let root = GlobalArgs::augment_args(clap::Command::new("insula")).subcommand_required(true);
        let verb = words.get(operands::first_operand(&[&root], words, 1)?)?.to_str()?.to_owned();
        let frequent = match verb.as_str() {
            "run" => RunArgs::augment_args(clap::Command::new("run")),
            "exec" => ExecArgs::augment_args(clap::Command::new("exec")),
            _ => return None,
        };
        let mut root = root.subcommand(frequent);
        let words = operands::with_operands_marked(&root, words.to_vec());
        let matches = root.try_get_matches_from_mut(words).ok()?;
        let global = GlobalArgs::from_arg_matches(&matches).ok()?;
        let (_, own) = matches.subcommand()?;
        let command = match verb.as_str() {
            "run" => Command::Run(Box::new(RunArgs::from_arg_matches(own).ok()?)),
            _ => Command::Exec(ExecArgs::from_arg_matches(own).ok()?),
        };
        Some(Self { global, command })
    }
}

/// Options that go for every command.
#[derive(Debug, Clone, Args)]
pub struct GlobalArgs {
    /// Socket of the node [default: /run/insula/insula.sock]
    #[arg(
        long,
        global = true,
        env = "INSULA_SOCKET",
        hide_env_values = true,
        value_name = "PATH",
        help_heading = "Global options"
    )]
    pub socket: Option<PathBuf>,
    /// Form of what is printed
    #[arg(long, global = true, value_enum, default_value_t = Format::Table, help_heading = "Global options")]
    pub format: Format,
    /// Print names only, and no progress
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub quiet: bool,
}

/// Forms of what is printed on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people
    Table,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// Comma-separated values with a header
    Csv,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the node daemon, or look at this machine
    #[command(subcommand)]
    Node(NodeCommand),
    /// Versions of this program and of the node
    Version,
    /// What this machine has, what it lacks and what that costs
    Doctor,
    /// Images: build, import, test, promote, look at
    #[command(subcommand)]
    Image(ImageCommand),
    /// Named sets of limits of the node's configuration
    #[command(subcommand)]
    Template(TemplateCommand),
    /// Create and start a container
    Run(Box<RunArgs>),
    /// Create a container without starting it
    Create(Box<CreateArgs>),
    /// Start containers
    Start(StartArgs),
    /// Stop containers: stop signal, then kill
    Stop(StopArgs),
    /// Stop and start containers
    Restart(StopArgs),
    /// Send a signal to containers
    Kill(KillArgs),
    /// Freeze containers
    Pause(NamesArgs),
    /// Let frozen containers go on
    #[command(alias = "unpause")]
    Resume(NamesArgs),
    /// Delete containers with all that belongs to them
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
    /// Give a container another name
    Rename(RenameArgs),
    /// What a container wrote
    Logs(LogsArgs),
    /// Wait until containers stopped, and print their exit codes
    Wait(WaitArgs),
    /// What happens on the node, as it happens
    Events(EventsArgs),
    /// Copy files between a container and this machine
    Cp(CopyArgs),
    /// Processes of a container
    Top(NameArgs),
    /// Change a container's image and restart it; back by itself if it does not become healthy
    Upgrade(UpgradeArgs),
    /// Take a pending change of image back, or change back to the previous image and restart
    Rollback(RollbackArgs),
    /// Which container a process, address, path or group belongs to
    Whois(WhoisArgs),
    /// Change settings of a container
    Set(SetArgs),
    /// Everything about containers
    #[command(visible_alias = "inspect")]
    Show(NamesArgs),
    /// Containers
    #[command(visible_aliases = ["ps", "ls"])]
    List(ListArgs),
    /// Run a command in a running container
    Exec(ExecArgs),
    /// A shell in a running container
    Shell(ShellArgs),
    /// Connect to the standard streams of a running container
    Attach(AttachArgs),
    /// What containers use, again and again
    Stats(StatsArgs),
    /// Published ports of a container
    Port(NameArgs),
    /// Delete all containers that are not running
    Prune(PruneArgs),
    /// Print shell completions
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Write man pages into a directory
    Man {
        /// Which; made when missing
        directory: PathBuf,
    },
    /// Print the command reference as Markdown
    #[command(hide = true)]
    Reference,
}

/// The node.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Run the node daemon in the foreground
    Run(NodeRunArgs),
    /// Write what the node is to have to a file: containers with their configuration, not their data
    Backup {
        /// Which; replaced as a whole
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Read such a file into the empty store of a node that does not run
    Restore(NodeRestoreArgs),
    /// What this machine has, what it lacks and what that costs
    Doctor,
    /// Limits of this machine that the configured capacity wants higher
    Tune(NodeTuneArgs),
}

/// `insula node tune`
#[derive(Debug, Args)]
pub struct NodeTuneArgs {
    /// Raise them, until the machine is started anew
    #[arg(long)]
    pub apply: bool,
    /// Configuration of the node [default: as of `insula node run`]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Templates.
#[derive(Debug, Subcommand)]
pub enum TemplateCommand {
    /// Templates
    #[command(visible_alias = "ls")]
    List,
    /// What a template gives, and from where it has each value
    Show {
        /// Which
        #[arg(value_name = "NAME")]
        name: insula_model::TemplateName,
    },
}

/// `insula node restore`
#[derive(Debug, Args)]
pub struct NodeRestoreArgs {
    /// The node, as it is run.
    #[command(flatten)]
    pub node: NodeRunArgs,
    /// The backup
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// `insula node run`
#[derive(Debug, Args)]
pub struct NodeRunArgs {
    /// Configuration file [default: /etc/insula/node.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name of the node; several with different names may run on one machine
    #[arg(long, value_name = "NAME")]
    pub name: Option<insula_model::NodeName>,
    /// Images, configuration and data [default: /var/lib/insula]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Sockets and facts [default: /run/insula]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests;
