//! What the node needs from the machine: start, signal, freeze, sweep, look.
//!
//! The trait is the node's own and narrow. [`crate::machine`] implements it with the launcher, the keeper and the
//! containers' inits; tests implement it with a small machine in memory.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use insula_api::{Finding, Problem, ProcessRow, ResourceUsage};
use insula_image::convert::Convert;
use insula_model::{
    ContainerId, ContainerName, ContainerSpec, IdRange, ImageConfig, ImageId, LogMode, MountPlan, NetworkMode,
    ResourceSpec, Signal,
};
use insula_plan::protocol::launcher::ImageKey;
use insula_plan::protocol::names::NamedContainer;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::container::record::Addresses;
use crate::machine::Traces;

/// Everything a start needs; pure data but for the descriptors.
#[derive(Debug)]
pub(crate) struct StartOrder {
    /// Whose start.
    pub(crate) id: ContainerId,
    /// Its name.
    pub(crate) name: ContainerName,
    /// Its configuration.
    pub(crate) spec: Arc<ContainerSpec>,
    /// What its root is made of.
    pub(crate) root: RootSource,
    /// Whose persistent files it has: its own, but for a start that only serves for looking at another's.
    pub(crate) files: ContainerId,
    /// Its host ids.
    pub(crate) ids: IdRange,
    /// Its addresses.
    pub(crate) addresses: Addresses,
    /// Its standard streams.
    pub(crate) streams: Streams,
}

/// What a container's root is made of.
#[derive(Debug, Clone)]
pub(crate) enum RootSource {
    /// A published version.
    Image(ImageId),
    /// An image in the making, under a layer that is written to: commands of recipes.
    Unfinished(Arc<Unfinished>),
}

/// An image in the making.
#[derive(Debug)]
pub(crate) struct Unfinished {
    /// Under which key it is mounted while commands run over it.
    pub(crate) key: ImageKey,
    /// Its file, open for reading.
    pub(crate) image: OwnedFd,
    /// Directory of the layer over it.
    pub(crate) layer: OwnedFd,
    /// How commands run in it.
    pub(crate) config: ImageConfig,
    /// No places: everything is written to the layer.
    pub(crate) mount_plan: MountPlan,
}

/// Where standard streams come from and go to.
#[derive(Debug)]
pub(crate) enum Streams {
    /// Nobody is attached: no input, output goes to the log if the configuration says so.
    Detached,
    /// Descriptors of a client: pipes, stream sockets and regular files only. Absent ones are as when detached.
    Given {
        /// Standard input.
        stdin: Option<OwnedFd>,
        /// Standard output.
        stdout: Option<OwnedFd>,
        /// Standard error.
        stderr: Option<OwnedFd>,
    },
    /// A new terminal whose master goes to the client; what a container's main process writes there goes to
    /// `output`, a command's is read from the master.
    Terminal {
        /// As in `Given`.
        output: Option<OwnedFd>,
    },
    /// None, because no program is to run: the container is there for its files until it is killed.
    Absent,
}

/// A container that runs.
pub(crate) struct Started {
    /// Host process id of its process 1.
    pub(crate) pid: u32,
    /// Its control group, relative to each hierarchy's mount.
    pub(crate) cgroup: String,
    /// For the client that follows it: a pidfd of process 1, then the file that holds the main process's end.
    pub(crate) follow: Vec<OwnedFd>,
    /// The terminal's master.
    pub(crate) master: Option<OwnedFd>,
    /// Done when process 1 ended.
    pub(crate) exit: BoxFuture<'static, Exit>,
}

impl std::fmt::Debug for Started {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Started").field("pid", &self.pid).field("cgroup", &self.cgroup).finish_non_exhaustive()
    }
}

/// How a container ended.
#[derive(Debug, Clone)]
pub(crate) struct Exit {
    /// Exit code, 128+n for signal n; `None` when nobody knows it.
    pub(crate) code: Option<i32>,
    /// Why the code is unknown, or what else there is to say.
    pub(crate) reason: Option<String>,
    /// When.
    pub(crate) at: Timestamp,
}

/// A container found when the daemon started.
#[derive(Debug)]
pub(crate) struct FoundContainer {
    /// Whose.
    pub(crate) id: ContainerId,
    /// As after a start.
    pub(crate) started: Started,
    /// Whether it is frozen.
    pub(crate) frozen: bool,
}

/// A client that wants to see a running container.
#[derive(Debug)]
pub(crate) struct AttachOrder {
    /// Which container.
    pub(crate) id: ContainerId,
    /// Its name.
    pub(crate) name: ContainerName,
    /// Its configuration.
    pub(crate) spec: Arc<ContainerSpec>,
    /// Where its output goes too.
    pub(crate) stdout: Option<OwnedFd>,
    /// Where its error output goes too.
    pub(crate) stderr: Option<OwnedFd>,
}

/// What a client of a running container gets.
#[derive(Debug)]
pub(crate) struct Onlooker {
    /// A pidfd of process 1, then the file that holds the main process's end.
    pub(crate) follow: Vec<OwnedFd>,
    /// What can be typed into: the terminal's master, or the pipe to its standard input.
    pub(crate) input: Option<OwnedFd>,
    /// What the user should know.
    pub(crate) warnings: Vec<String>,
}

/// A command to run in a container.
#[derive(Debug)]
pub(crate) struct ExecOrder {
    /// In which container.
    pub(crate) id: ContainerId,
    /// Its name.
    pub(crate) name: ContainerName,
    /// Its configuration.
    pub(crate) spec: Arc<ContainerSpec>,
    /// The version it runs.
    pub(crate) image: ImageId,
    /// What to run.
    pub(crate) request: insula_api::ExecRequest,
    /// Its streams.
    pub(crate) streams: Streams,
}

/// A command that was started in a container.
#[derive(Debug)]
pub(crate) struct StartedExec {
    /// Host process id, when known.
    pub(crate) pid: Option<u32>,
    /// Socket that reports its end.
    pub(crate) status: OwnedFd,
    /// The terminal's master.
    pub(crate) master: Option<OwnedFd>,
}

/// The machine, as far as containers are concerned.
pub(crate) trait Host: Send + Sync + std::fmt::Debug + 'static {
    /// Starts a container. After an error nothing of the start is left.
    fn start(&self, order: StartOrder) -> BoxFuture<'static, Result<Started, Problem>>;
    /// Delivers `signal` to process 1.
    fn signal(&self, id: ContainerId, pid: u32, signal: Signal) -> BoxFuture<'static, Result<(), Problem>>;
    /// Kills every process of the container.
    fn kill_all(&self, id: ContainerId, pid: u32) -> BoxFuture<'static, Result<(), Problem>>;
    /// Freezes every process of the container.
    fn freeze(&self, id: ContainerId) -> BoxFuture<'static, Result<(), Problem>>;
    /// Undoes [`Host::freeze`].
    fn thaw(&self, id: ContainerId) -> BoxFuture<'static, Result<(), Problem>>;
    /// Removes every host object of the container that is not persistent; idempotent.
    fn sweep(&self, id: ContainerId, traces: Traces) -> BoxFuture<'static, Result<(), Problem>>;
    /// Removes what a deleted container had on the disk; idempotent.
    fn remove_data(&self, id: ContainerId) -> BoxFuture<'static, Result<(), Problem>>;
    /// Lets go of an image: no start will want it. What runs from it goes on.
    fn unmount(&self, image: ImageKey) -> BoxFuture<'static, Result<(), Problem>>;
    /// The images that are mounted, now and from now on.
    fn mounts(&self) -> watch::Receiver<HashSet<ImageKey>>;
    /// The root directory of an image's mount, if it is mounted.
    fn image_root(&self, image: &ImageKey) -> Option<OwnedFd>;
    /// Lets a client see a running container, and type into it.
    fn attach(&self, order: AttachOrder) -> BoxFuture<'static, Result<Onlooker, Problem>>;
    /// Starts a command in a running container.
    fn exec(&self, order: ExecOrder) -> BoxFuture<'static, Result<StartedExec, Problem>>;
    /// Runs a command in a running container without streams and waits for its exit code.
    fn run_to_end(&self, order: ExecOrder) -> BoxFuture<'static, Result<i32, Problem>>;
    /// Changes the limits of a running container.
    fn limit(&self, id: ContainerId, old: ResourceSpec, new: ResourceSpec) -> BoxFuture<'static, Result<(), Problem>>;
    /// What the container holds now.
    fn usage(&self, id: ContainerId) -> BoxFuture<'static, Result<ResourceUsage, Problem>>;
    /// Its processes.
    fn processes(&self, id: ContainerId, ids: IdRange) -> BoxFuture<'static, Result<Vec<ProcessRow>, Problem>>;
    /// Addresses for a container, the wanted ones if they are free (or its own already).
    ///
    /// # Errors
    ///
    /// Admission when none is left.
    fn claim_addresses(&self, network: NetworkMode, wanted: Addresses) -> Result<Addresses, Problem>;
    /// Gives them back.
    fn release_addresses(&self, addresses: Addresses);
    /// The root directory of a running container, as it sees it.
    fn open_root(&self, id: ContainerId) -> BoxFuture<'static, Result<OwnedFd, Problem>>;
    /// Where the container's log is.
    fn log_directory(&self, id: ContainerId) -> PathBuf;
    /// Who reads the sources of imports. `ids` are nobody else's until it is done.
    fn converter(&self, ids: IdRange) -> Box<dyn Convert>;
    /// What the machine has and lacks.
    fn findings(&self) -> BoxFuture<'static, Vec<Finding>>;
    /// Everything that runs for this node now, or ended since somebody looked and was not swept: then its `exit` is
    /// done. Starts that are still under way are waited for.
    fn found(&self) -> BoxFuture<'static, Result<Vec<FoundContainer>, Problem>>;
    /// Containers of which something is in the run directory, whether or not anything of them was found.
    fn remains(&self) -> Vec<ContainerId>;
    /// The block of host ids under which guest services run, if they were started before.
    fn ids_of_guests(&self) -> Option<IdRange>;
    /// Ends a name service that an earlier daemon began.
    fn end_names(&self) -> BoxFuture<'static, Result<(), Problem>>;
    /// Has the name service run under the first of `ids`; containers that start from then on ask it.
    fn begin_names(&self, ids: IdRange) -> BoxFuture<'static, Result<(), Problem>>;
    /// Looks which name servers the host has now; the next [`Host::write_names`] tells the name service.
    fn look_for_resolvers(&self) -> BoxFuture<'static, ()>;
    /// Has the name service answer by these containers from now on.
    fn write_names(&self, containers: Vec<Arc<NamedContainer>>) -> Result<(), Problem>;
    /// Takes care of what these running containers, whose output is logged or not, write: a keeper that knows nothing of
    /// them is given what it needs. After [`Host::set_up_network`].
    fn adopt_outputs(&self, running: Vec<(ContainerId, LogMode)>) -> BoxFuture<'static, ()>;
    /// Makes the node's network ready, with what leads to the containers that run already.
    fn set_up_network(&self, running: Vec<(ContainerId, Traces)>) -> BoxFuture<'static, Result<(), Problem>>;
    /// Ends what serves the containers (launcher, keeper) if no container runs; whether it did.
    fn end_if_idle(&self) -> BoxFuture<'static, bool>;
}
