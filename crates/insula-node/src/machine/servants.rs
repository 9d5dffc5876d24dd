//! The launcher (and through it the keeper): found by its socket, started when it is not there, found again when it
//! went away.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use insula_api::{Problem, ProblemCode};
use insula_image::store::Store as ImageStore;
use insula_kernel::features::Features;
use insula_network::{Inbound, NetworkConfig};
use insula_plan::host_step::LayerNames;
use insula_plan::protocol::channel::Channel;
use insula_plan::protocol::facts;
use insula_plan::protocol::keeper::{FdName, KeeperRequest, LogBounds};
use insula_plan::protocol::launcher::{
    ContainerCondition, ContainerEntry, LauncherOutcome, LauncherRequest, ShutdownWhen,
};
use insula_plan::protocol::run_dir::RunDir;
use insula_resources::{CgroupLayout, NodeGroups};

use super::failure::lost;
use super::link::{Link, exit_of};
use super::names::NameService;
use super::network::Network;
use super::start::{image_key, unknown_exit};
use super::{Handle, Machine};
use crate::config::Config;
use crate::host::{Exit, FoundContainer, Host, Started};

/// Name under which the keeper holds the claim of the node's subnets.
const CLAIM_NAME: &str = "node/network-claim";
/// Pauses between two tries to get a launcher, the last one for ever once the daemon runs.
const RETRY_PAUSES_MS: [u64; 5] = [10, 100, 500, 2_000, 10_000];
/// Longest wait for starts that a killed daemon had begun, in looks of [`STARTING_PAUSE`].
const STARTING_LOOKS_MAX: u32 = 500;
/// Pause between two looks at them.
const STARTING_PAUSE: Duration = Duration::from_millis(20);

fn problem(what: &str, error: &(dyn std::error::Error + 'static)) -> Problem {
    let mut problem = Problem::from_chain(ProblemCode::Internal, error);
    problem.detail = format!("{what}: {}", problem.detail);
    problem
}

/// Finds or starts the servants of this node and takes over what they hold.
///
/// # Errors
///
/// What cannot be found, started or claimed.
pub(crate) async fn connect(config: &Config, images: Arc<ImageStore>) -> Result<Arc<dyn Host>, Problem> {
    let run = RunDir::new(&config.run_dir);
    let link = Arc::new(Link::default());
    connect_patiently(&link, &run).await?;
    match set_up(config, images, link.clone(), run).await {
        Ok(machine) => {
            tokio::spawn(watch_over(machine.clone()));
            Ok(Arc::new(Handle(machine)))
        }
        Err(problem) => {
            // Nothing is left of a node that does not start, but for what has containers.
            link.call(LauncherRequest::Shutdown(ShutdownWhen::Idle), &[]).await.ok();
            Err(problem)
        }
    }
}

async fn set_up(
    config: &Config,
    images: Arc<ImageStore>,
    link: Arc<Link>,
    run: RunDir,
) -> Result<Arc<Machine>, Problem> {
    let kept = take_claim(&link).await;
    let keeper_is_new = kept.is_none();
    let network_config = network_config(config)?;
    let names = config.network.names.then(|| config.network.resolvers.clone());
    let network = {
        let (name, claims, state) = (config.name.clone(), config.claims_dir.clone(), config.state_dir.clone());
        let opened =
            tokio::task::spawn_blocking(move || Network::open((&name, &claims, &state), (network_config, names), kept));
        opened.await.map_err(|_| lost("the network's claim did not come to its end"))??
    };
    keep_claim(&link, &network).await?;
    let layout = CgroupLayout::detect().map_err(|error| problem("control groups", &error))?;
    let groups = NodeGroups::new(layout, config.name.clone());
    for step in groups.setup_steps() {
        step.perform(None).map_err(|error| problem("control groups", &error))?;
    }
    let software_dir = config.state_dir.join("software");
    std::fs::create_dir_all(&software_dir).map_err(|error| problem("software directory", &error))?;
    let files_hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let machine = Arc::new(Machine {
        link,
        run,
        node: config.name.clone(),
        state_dir: config.state_dir.clone(),
        software_dir,
        groups,
        network,
        names: NameService::default(),
        images,
        layers: LayerNames::of(&Features::probe()),
        files_soft: config.defaults.files_limit,
        files_hard,
        files_wanted: crate::tune::open_files_wanted(&config.capacity),
        host_limits: crate::tune::host_limits(&config.capacity),
        log_bounds: log_bounds(config),
        ending: AtomicBool::new(false),
        mounted: tokio::sync::watch::Sender::new(HashSet::new()),
        pidfds: Mutex::new(HashMap::new()),
        outputs: Mutex::default(),
        keeper_is_new,
        filters: Mutex::new(HashMap::new()),
    });
    machine.learn_mounted().await?;
    machine.clone().unmount_strangers().await;
    Ok(machine)
}

fn network_config(config: &Config) -> Result<NetworkConfig, Problem> {
    let given = &config.network;
    let invalid = |key: &str, error: &dyn std::fmt::Display| {
        Problem::new(ProblemCode::Invalid, format!("configuration: `network.{key}`: {error}"))
    };
    let ipv6_range = match given.range6.as_str() {
        "" => None,
        range => Some(range.parse().map_err(|error| invalid("range6", &error))?),
    };
    Ok(NetworkConfig {
        ipv4_range: given.range4.parse().map_err(|error| invalid("range4", &error))?,
        ipv4_bits: given.bits4,
        ipv6_range,
        mtu: given.mtu,
        inbound: if given.published_only { Inbound::PublishedOnly } else { Inbound::Routed },
        fallback_dns: given.dns.clone(),
    })
}

fn log_bounds(config: &Config) -> LogBounds {
    let logs = &config.logs;
    LogBounds {
        segment_bytes: logs.segment_size.0,
        segments: logs.segments,
        rate_bytes_per_second: logs.rate.0,
        burst_bytes: logs.rate.0.saturating_mul(4),
    }
}

/// Connects as often as it takes while a launcher of before ends or one that an earlier daemon asked for begins.
async fn connect_patiently(link: &Arc<Link>, run: &RunDir) -> Result<(), Problem> {
    for pause in RETRY_PAUSES_MS {
        match connect_or_spawn(link, run).await {
            Ok(()) => return Ok(()),
            Err(problem) if problem.code == ProblemCode::NotSupported => return Err(problem),
            Err(problem) => tracing::debug!(detail = problem.detail, "no launcher yet"),
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    connect_or_spawn(link, run).await
}

async fn connect_or_spawn(link: &Arc<Link>, run: &RunDir) -> Result<(), Problem> {
    let program = find_program("insula-launcher")?;
    if let Ok(channel) = Channel::connect(&run.launcher_socket()) {
        return link.take(channel, &program).await;
    }
    spawn(program.clone(), run.path().to_owned()).await?;
    let channel = Channel::connect(&run.launcher_socket()).map_err(|error| problem("the launcher", &error))?;
    link.take(channel, &program).await
}

/// Starts the launcher, which detaches itself; returns when it can be connected to.
async fn spawn(program: PathBuf, run_dir: PathBuf) -> Result<(), Problem> {
    let complaints = run_dir.join("launcher.err");
    let spawned = tokio::task::spawn_blocking(move || {
        let errors = std::fs::File::create(&complaints)?;
        let status = std::process::Command::new(&program)
            .arg(&run_dir)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .status()?;
        let said = std::fs::read_to_string(&complaints).unwrap_or_default();
        Ok::<_, std::io::Error>((status, said.trim().to_owned(), program))
    });
    let spawned = spawned.await.map_err(|_| lost("the launcher's start did not come to its end"))?;
    let (status, said, program) = spawned.map_err(|error| problem("start insula-launcher", &error))?;
    if status.success() {
        return Ok(());
    }
    Err(Problem::new(ProblemCode::Internal, format!("{} did not start ({status}): {said}", program.display())))
}

/// A program of ours: beside this one, or where packages put it.
fn find_program(name: &str) -> Result<PathBuf, Problem> {
    let own = std::env::current_exe().map_err(|error| problem("path of this program", &error))?;
    let folder = own.parent().unwrap_or(Path::new("/"));
    let places =
        [folder.join(name), folder.join("../libexec/insula").join(name), folder.join("../lib/insula").join(name)];
    let found = places.iter().find(|place| place.is_file()).cloned();
    found.ok_or_else(|| {
        let detail = format!("{name} is neither in {} nor in ../libexec/insula nor in ../lib/insula", folder.display());
        Problem::new(ProblemCode::NotSupported, detail).with_remedy("install all programs of one build together")
    })
}

async fn take_claim(link: &Link) -> Option<std::os::fd::OwnedFd> {
    let name: FdName = CLAIM_NAME.parse().ok()?;
    let taken = link.call(LauncherRequest::Keep(KeeperRequest::Take { name }), &[]).await.ok()?;
    taken.fds.into_iter().next()
}

async fn keep_claim(link: &Link, network: &Network) -> Result<(), Problem> {
    let name = CLAIM_NAME.parse().map_err(|error| problem("name of the claim", &error))?;
    let claim = std::os::fd::AsFd::as_fd(network.claim());
    link.call(LauncherRequest::Keep(KeeperRequest::Put { name }), &[claim]).await.map(drop)
}

/// Gets a launcher again whenever it went away, and tells who waits for exits what happened meanwhile.
async fn watch_over(machine: Arc<Machine>) {
    loop {
        machine.link.ended().await;
        if machine.ending.load(Ordering::Relaxed) {
            return;
        }
        tracing::warn!("the launcher is gone");
        let mut pauses = RETRY_PAUSES_MS.into_iter();
        let mut pause = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            match machine.clone().reconnect().await {
                Ok(()) => break,
                Err(problem) => tracing::error!(detail = problem.detail, "get a launcher"),
            }
            pause = pauses.next().unwrap_or(RETRY_PAUSES_MS[RETRY_PAUSES_MS.len() - 1]);
        }
    }
}

impl Machine {
    async fn learn_mounted(&self) -> Result<(), Problem> {
        let outcome = self.link.call(LauncherRequest::ListImages, &[]).await?;
        if let LauncherOutcome::Images { keys } = outcome.message {
            self.mounted.send_replace(keys.into_iter().collect());
        }
        Ok(())
    }

    /// Unmounts what is no version of the store: removed ones and unfinished ones of a daemon that was killed.
    async fn unmount_strangers(self: Arc<Self>) {
        let known: HashSet<_> = self.images.list().iter().map(|image| image_key(&image.info)).collect();
        let strangers: Vec<_> = self.mounted.borrow().difference(&known).cloned().collect();
        for key in strangers {
            if let Err(problem) = self.clone().unmount_image(key).await {
                tracing::warn!(detail = problem.detail, "unmount");
            }
        }
    }

    async fn reconnect(self: Arc<Self>) -> Result<(), Problem> {
        connect_or_spawn(&self.link, &self.run).await?;
        // A launcher that died meanwhile has no successor before this one is tried again.
        tokio::select! {
            known = self.learn_what_happened() => known,
            () = self.link.ended() => Err(lost("the launcher ended")),
        }
    }

    async fn learn_what_happened(&self) -> Result<(), Problem> {
        let keeper_is_new = take_claim(&self.link).await.is_none();
        keep_claim(&self.link, &self.network).await?;
        self.keep_names_again().await?;
        self.learn_mounted().await?;
        let mut expected: HashSet<_> = self.link.expected_exits().into_iter().collect();
        for (entry, pidfd) in self.settled().await? {
            expected.remove(&entry.container);
            match entry.condition {
                ContainerCondition::Ended(end) => self.link.exited(entry.container, exit_of(&end)),
                ContainerCondition::Running(_) | ContainerCondition::Starting => {
                    if let Some(pidfd) = pidfd {
                        self.remember_pidfd(entry.container, pidfd);
                    }
                }
            }
        }
        for container in expected {
            let exit = self.recorded_exit(container).unwrap_or_else(unknown_exit);
            self.link.exited(container, exit);
        }
        if keeper_is_new {
            tracing::warn!("launcher and keeper died together");
            self.keep_again().await;
        }
        Ok(())
    }

    /// How a container ended by what the launcher or its process 1 wrote down.
    fn recorded_exit(&self, id: insula_model::ContainerId) -> Option<Exit> {
        let ended = facts::read(&self.run.ended_fact(id)).ok().flatten();
        let ended = ended.or_else(|| {
            let end = facts::read(&self.run.exit_fact(id)).ok().flatten()?;
            Some(facts::EndedFact::known(end))
        });
        ended.as_ref().map(exit_of)
    }

    /// All containers that the launcher knows, with pidfds of those that run.
    async fn list(&self) -> Result<Vec<(ContainerEntry, Option<std::os::fd::OwnedFd>)>, Problem> {
        let mut all: Vec<(ContainerEntry, Option<std::os::fd::OwnedFd>)> = Vec::new();
        loop {
            let after = all.last().map(|(entry, _)| entry.container);
            let outcome = self.link.call(LauncherRequest::List { after }, &[]).await?;
            let LauncherOutcome::Containers { containers, more } = outcome.message else {
                return Err(lost("the launcher answered something else to a list"));
            };
            let mut pidfds = outcome.fds.into_iter();
            for entry in containers {
                let runs = matches!(entry.condition, ContainerCondition::Running(_));
                all.push((entry, runs.then(|| pidfds.next()).flatten()));
            }
            if !more {
                return Ok(all);
            }
        }
    }

    /// The same when no start is under way any more.
    async fn settled(&self) -> Result<Vec<(ContainerEntry, Option<std::os::fd::OwnedFd>)>, Problem> {
        for _ in 0..STARTING_LOOKS_MAX {
            let all = self.list().await?;
            if !all.iter().any(|(entry, _)| entry.condition == ContainerCondition::Starting) {
                return Ok(all);
            }
            // Starts that nobody of this daemon asked for have no outcome for it.
            tokio::time::sleep(STARTING_PAUSE).await;
        }
        self.list().await
    }

    /// Everything that runs, or ended and was not swept.
    pub(super) async fn look_for_containers(self: Arc<Self>) -> Result<Vec<FoundContainer>, Problem> {
        let mut found = Vec::new();
        for (entry, pidfd) in self.settled().await? {
            let id = entry.container;
            let (pid, exit) = match entry.condition {
                ContainerCondition::Running(process) => {
                    let exit = self.link.expect_exit(id).map(|exit| exit.unwrap_or_else(|_| unknown_exit()));
                    (process.pid, exit.boxed())
                }
                ContainerCondition::Ended(end) => (0, std::future::ready(exit_of(&end)).boxed()),
                ContainerCondition::Starting => continue,
            };
            if let Some(pidfd) = pidfd {
                self.remember_pidfd(id, pidfd);
            }
            let frozen = self.is_frozen(id);
            let started = Started { pid, cgroup: self.cgroup_of(id), follow: Vec::new(), master: None, exit };
            found.push(FoundContainer { id, started, frozen });
        }
        // What ended between the list and our waiting for it was told to nobody.
        for (entry, _) in self.list().await? {
            if let ContainerCondition::Ended(end) = entry.condition {
                self.link.exited(entry.container, exit_of(&end));
            }
        }
        Ok(found)
    }

    fn is_frozen(&self, id: insula_model::ContainerId) -> bool {
        let state = self.groups.unified_dir(id).map(|dir| std::fs::read_to_string(dir.join("cgroup.freeze")));
        matches!(state, Some(Ok(text)) if text.trim() == "1")
    }

    /// Ends launcher and keeper, and undoes the node's set-up, if no container runs.
    pub(super) async fn end_servants(self: Arc<Self>) -> bool {
        self.ending.store(true, Ordering::Relaxed);
        let ended = self.link.call(LauncherRequest::Shutdown(ShutdownWhen::Idle), &[]).await;
        if let Err(problem) = ended {
            tracing::info!(detail = problem.detail, "launcher and keeper go on");
            return false;
        }
        let undone = self.blocking(|machine| {
            machine.network.tear_down();
            for step in machine.groups.remove_steps() {
                step.perform(None).map_err(|error| problem("control groups", &error))?;
            }
            Ok(())
        });
        if let Err(problem) = undone.await {
            tracing::warn!(detail = problem.detail, "undo the node's set-up");
        }
        true
    }
}
