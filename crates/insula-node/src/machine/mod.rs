//! The machine: [`Host`] by the launcher, the keeper, the containers' inits, control groups and the network.
//!
//! ```text
//!   link.rs      calls to the launcher, exits from it          start.rs    a start, from order to running container
//!   servants.rs  finds or starts the launcher, again and again exec.rs     commands in running containers
//!   attach.rs    clients of running containers                 console.rs  terminals, kept and read
//!   network.rs   the node's subnets, table and addresses       look.rs     what containers hold and run
//!   names.rs     the name service's sockets and table       output.rs   what a new keeper takes from process 1
//! ```
//!
//! Nothing here decides: which container, which image, which streams comes in an order.

mod attach;
mod console;
mod disk;
mod exec;
mod failure;
mod link;
mod look;
mod names;
mod network;
mod output;
mod servants;
mod start;

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use insula_api::{Finding, Problem, ProblemCode, ProcessRow, ResourceUsage};
use insula_image::convert::Convert;
use insula_image::store::Store as ImageStore;
use insula_kernel::seccomp::Filter;
use insula_kernel::signals::send_by_pidfd;
use insula_model::{ContainerId, IdRange, LogMode, NetworkMode, NodeName, ResourceSpec, Signal};
use insula_plan::host_step::LayerNames;
use insula_plan::protocol::keeper::{KeeperRequest, LogBounds};
use insula_plan::protocol::launcher::{ImageKey, LauncherRequest};
use insula_plan::protocol::names::NamedContainer;
use insula_plan::protocol::run_dir::RunDir;
use insula_resources::{Limits, NodeGroups};
use insula_runtime::{HostFacts, SweepRequest, plan_sweep};
use rustix::io::Errno;
use tokio::sync::watch;

use crate::config::data_dirs;
use crate::container::record::Addresses;
use crate::host::{AttachOrder, ExecOrder, FoundContainer, Host, Onlooker, StartOrder, Started, StartedExec};
use crate::import_worker::ImportWorker;
use link::Link;
use names::NameService;
use network::{Network, container_network};

pub(crate) use network::Traces;
pub(crate) use servants::connect;
pub(crate) use start::image_key;

/// How long a container is swept again and again: workers and launchers may die, and a device may be busy.
const SWEEP_TIME_MAX: Duration = Duration::from_secs(30);

/// Pause before the second try of a sweep; each further one is twice as long.
const SWEEP_PAUSE_MIN: Duration = Duration::from_millis(50);

/// This machine.
#[derive(Debug)]
pub(crate) struct Machine {
    link: Arc<Link>,
    run: RunDir,
    node: NodeName,
    state_dir: PathBuf,
    software_dir: PathBuf,
    groups: NodeGroups,
    network: Network,
    names: NameService,
    images: Arc<ImageStore>,
    layers: LayerNames,
    files_soft: u64,
    files_hard: u64,
    /// Descriptors that a full node wants each of its programs to be allowed.
    files_wanted: u64,
    host_limits: Vec<crate::tune::HostLimit>,
    log_bounds: LogBounds,
    /// The daemon ends: a launcher that goes away is not replaced.
    ending: AtomicBool,
    mounted: watch::Sender<HashSet<ImageKey>>,
    pidfds: Mutex<HashMap<ContainerId, Arc<OwnedFd>>>,
    /// Containers that run, and whether their output is logged.
    outputs: Mutex<HashMap<ContainerId, LogMode>>,
    /// The keeper that was found at the start knew nothing.
    keeper_is_new: bool,
    filters: Mutex<HashMap<u64, Arc<Filter>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // All of them hold maps that one operation changes.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Machine {
    fn host_facts(&self) -> HostFacts<'_> {
        HostFacts {
            groups: &self.groups,
            layers: self.layers,
            files_soft: self.files_soft,
            files_hard: self.files_hard,
        }
    }

    fn container_dir(&self, id: ContainerId) -> PathBuf {
        self.state_dir.join("containers").join(id.to_string())
    }

    /// Persistent data of a container.
    fn data_dir(&self, id: ContainerId) -> PathBuf {
        data_dirs(&self.state_dir).join(id.to_string())
    }

    fn disk_paths(&self, id: ContainerId) -> disk::DiskPaths {
        disk::DiskPaths::new(self.container_dir(id), self.data_dir(id))
    }

    fn log_path(&self, id: ContainerId) -> PathBuf {
        self.container_dir(id).join("log")
    }

    fn is_mounted(&self, key: &ImageKey) -> bool {
        self.mounted.borrow().contains(key)
    }

    /// Unmounts an image; what runs from it keeps its clone of the mount.
    async fn unmount_image(self: Arc<Self>, key: ImageKey) -> Result<(), Problem> {
        // First out of sight, so that a start that comes now mounts it anew.
        if !self.mounted.send_if_modified(|mounted| mounted.remove(&key)) {
            return Ok(());
        }
        self.link.call(LauncherRequest::UnmountImage { key }, &[]).await.map(drop)
    }

    fn note_mounted(&self, key: ImageKey) {
        self.mounted.send_if_modified(|mounted| mounted.insert(key));
    }

    fn filters(&self) -> MutexGuard<'_, HashMap<u64, Arc<Filter>>> {
        lock(&self.filters)
    }

    fn remember_pidfd(&self, id: ContainerId, pidfd: OwnedFd) {
        lock(&self.pidfds).insert(id, Arc::new(pidfd));
    }

    /// The container's control group below each hierarchy's mount.
    fn cgroup_of(&self, id: ContainerId) -> String {
        format!("insula.slice/{}/{id}", self.node)
    }

    fn send_signal(&self, id: ContainerId, number: u8) -> Result<(), Problem> {
        let pidfd = lock(&self.pidfds).get(&id).cloned();
        let ended = || Problem::new(ProblemCode::Conflict, "its process 1 has ended already");
        let pidfd = pidfd.ok_or_else(ended)?;
        match send_by_pidfd(std::os::fd::AsFd::as_fd(&*pidfd), number) {
            Ok(()) => Ok(()),
            Err(Errno::SRCH) => Err(ended()),
            Err(errno) => Err(Problem::new(ProblemCode::Internal, format!("signal {number} to process 1: {errno}"))),
        }
    }

    /// Removes everything of a container from the host. Whoever dies meanwhile, or whatever is still in use, leaves it to
    /// a later try.
    async fn sweep_container(self: Arc<Self>, id: ContainerId, traces: Traces) -> Result<(), Problem> {
        let began = Instant::now();
        let mut pause = SWEEP_PAUSE_MIN;
        loop {
            match self.try_sweep(id, &traces).await {
                Err(problem) if began.elapsed() + pause < SWEEP_TIME_MAX => {
                    tracing::warn!(container = %id, detail = problem.detail, "swept once more");
                }
                result => return result,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    async fn try_sweep(&self, id: ContainerId, traces: &Traces) -> Result<(), Problem> {
        lock(&self.pidfds).remove(&id);
        self.network.lead_no_more_to(id);
        self.forget_output(id);
        let network = container_network(id, traces);
        let facts = self.run.container(id);
        let request = SweepRequest {
            id,
            groups: &self.groups,
            network: network.as_ref().map(|network| (&self.network.node, network)),
            facts: &facts,
        };
        let plan = start::sealed_memfd(&plan_sweep(&request).encode())
            .map_err(|error| Problem::from_chain(ProblemCode::Internal, &error))?;
        let keep = LauncherRequest::Keep(KeeperRequest::RemoveContainer { container: id });
        let fds = [std::os::fd::AsFd::as_fd(&plan)];
        let sweep = LauncherRequest::Sweep { container: id };
        // Both at once: the keeper writes what is left in the pipes while the worker removes groups and link. A keeper that
        // died before it was told would hand on for ever what it holds of the container.
        let (kept, swept) = tokio::join!(self.link.call(keep, &[]), self.link.call(sweep, &fds));
        kept.and(swept).map(drop)
    }

    /// Runs blocking work on a thread for that.
    fn blocking<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Problem> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, Problem>> {
        let done = tokio::task::spawn_blocking(move || work(&self));
        let lost = |_| Problem::new(ProblemCode::Internal, "the work did not come to its end");
        async move { done.await.map_err(lost)? }.boxed()
    }
}

/// A handle on the machine that futures can hold.
#[derive(Debug, Clone)]
pub(crate) struct Handle(Arc<Machine>);

impl Host for Handle {
    fn start(&self, order: StartOrder) -> BoxFuture<'static, Result<Started, Problem>> {
        self.0.clone().start_container(order).boxed()
    }

    fn signal(&self, id: ContainerId, _: u32, signal: Signal) -> BoxFuture<'static, Result<(), Problem>> {
        std::future::ready(self.0.send_signal(id, signal.number())).boxed()
    }

    fn kill_all(&self, id: ContainerId, _: u32) -> BoxFuture<'static, Result<(), Problem>> {
        // The end of process 1 is the end of its pid namespace; the sweep kills what else is in its groups.
        std::future::ready(self.0.send_signal(id, Signal::KILL.number())).boxed()
    }

    fn freeze(&self, id: ContainerId) -> BoxFuture<'static, Result<(), Problem>> {
        self.0.clone().blocking(move |machine| {
            let frozen = machine.groups.freeze(id, look::FREEZE_TIME_MAX);
            frozen.map_err(|error| Problem::from_chain(ProblemCode::Conflict, &error))
        })
    }

    fn thaw(&self, id: ContainerId) -> BoxFuture<'static, Result<(), Problem>> {
        self.0.clone().blocking(move |machine| {
            let thawed = machine.groups.thaw(id, look::FREEZE_TIME_MAX);
            thawed.map_err(|error| Problem::from_chain(ProblemCode::Conflict, &error))
        })
    }

    fn sweep(&self, id: ContainerId, traces: Traces) -> BoxFuture<'static, Result<(), Problem>> {
        self.0.clone().sweep_container(id, traces).boxed()
    }

    fn remove_data(&self, id: ContainerId) -> BoxFuture<'static, Result<(), Problem>> {
        self.0.clone().blocking(move |machine| {
            for path in [machine.data_dir(id), machine.container_dir(id)] {
                match std::fs::remove_dir_all(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        let detail = format!("remove {}: {error}", path.display());
                        return Err(Problem::new(ProblemCode::Internal, detail));
                    }
                    _ => {}
                }
            }
            Ok(())
        })
    }

    fn unmount(&self, image: ImageKey) -> BoxFuture<'static, Result<(), Problem>> {
        self.0.clone().unmount_image(image).boxed()
    }

    fn mounts(&self) -> watch::Receiver<HashSet<ImageKey>> {
        self.0.mounted.subscribe()
    }

    fn image_root(&self, image: &ImageKey) -> Option<OwnedFd> {
        self.0.open_image_root(image)
    }

    fn attach(&self, order: AttachOrder) -> BoxFuture<'static, Result<Onlooker, Problem>> {
        self.0.clone().look_on(order).boxed()
    }

    fn exec(&self, order: ExecOrder) -> BoxFuture<'static, Result<StartedExec, Problem>> {
        self.0.clone().start_exec(order).boxed()
    }

    fn run_to_end(&self, order: ExecOrder) -> BoxFuture<'static, Result<i32, Problem>> {
        self.0.clone().run_exec_to_end(order).boxed()
    }

    fn limit(&self, id: ContainerId, old: ResourceSpec, new: ResourceSpec) -> BoxFuture<'static, Result<(), Problem>> {
        self.0.clone().blocking(move |machine| {
            for step in machine.groups.update_steps(id, &Limits::resolve(&old), &Limits::resolve(&new)) {
                step.perform(None).map_err(|error| Problem::from_chain(ProblemCode::Conflict, &error))?;
            }
            Ok(())
        })
    }

    fn usage(&self, id: ContainerId) -> BoxFuture<'static, Result<ResourceUsage, Problem>> {
        self.0.clone().blocking(move |machine| machine.look_at_usage(id))
    }

    fn processes(&self, id: ContainerId, ids: IdRange) -> BoxFuture<'static, Result<Vec<ProcessRow>, Problem>> {
        self.0.clone().blocking(move |machine| machine.look_at_processes(id, ids))
    }

    fn claim_addresses(&self, network: NetworkMode, wanted: Addresses) -> Result<Addresses, Problem> {
        self.0.network.claim_addresses(network, wanted)
    }

    fn release_addresses(&self, addresses: Addresses) {
        self.0.network.release_addresses(addresses);
    }

    fn open_root(&self, id: ContainerId) -> BoxFuture<'static, Result<OwnedFd, Problem>> {
        std::future::ready(self.0.open_root_of(id)).boxed()
    }

    fn log_directory(&self, id: ContainerId) -> PathBuf {
        self.0.log_path(id)
    }

    fn converter(&self, ids: IdRange) -> Box<dyn Convert> {
        Box::new(ImportWorker { id: ids.base, state_dir: self.0.state_dir.clone() })
    }

    fn findings(&self) -> BoxFuture<'static, Vec<Finding>> {
        let findings = self.0.clone().blocking(|machine| Ok(machine.look_for_findings()));
        async move { findings.await.unwrap_or_default() }.boxed()
    }

    fn found(&self) -> BoxFuture<'static, Result<Vec<FoundContainer>, Problem>> {
        self.0.clone().look_for_containers().boxed()
    }

    fn remains(&self) -> Vec<ContainerId> {
        let entries = std::fs::read_dir(self.0.run.containers()).into_iter().flatten().filter_map(Result::ok);
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    fn ids_of_guests(&self) -> Option<IdRange> {
        self.0.ids_of_guests()
    }

    fn end_names(&self) -> BoxFuture<'static, Result<(), Problem>> {
        let machine = self.0.clone();
        async move { machine.end_names().await }.boxed()
    }

    fn begin_names(&self, ids: IdRange) -> BoxFuture<'static, Result<(), Problem>> {
        let machine = self.0.clone();
        async move { machine.begin_names(ids).await }.boxed()
    }

    fn look_for_resolvers(&self) -> BoxFuture<'static, ()> {
        let looked = self.0.clone().blocking(|machine| {
            machine.look_for_resolvers();
            Ok(())
        });
        looked.map(drop).boxed()
    }

    fn write_names(&self, containers: Vec<Arc<NamedContainer>>) -> Result<(), Problem> {
        self.0.write_names(containers)
    }

    fn adopt_outputs(&self, running: Vec<(ContainerId, LogMode)>) -> BoxFuture<'static, ()> {
        let machine = self.0.clone();
        let adopted = async move {
            running.into_iter().for_each(|(id, log)| machine.note_output(id, log));
            if machine.keeper_is_new {
                machine.keep_again().await;
            }
        };
        adopted.boxed()
    }

    fn set_up_network(&self, running: Vec<(ContainerId, Traces)>) -> BoxFuture<'static, Result<(), Problem>> {
        self.0.clone().blocking(move |machine| {
            let running: Vec<_> = running.iter().filter_map(|(id, traces)| container_network(*id, traces)).collect();
            machine.network.set_up(&running)
        })
    }

    fn end_if_idle(&self) -> BoxFuture<'static, bool> {
        self.0.clone().end_servants().boxed()
    }
}
