//! A start: everything the plan needs is fetched, made and opened, then the plan goes to the launcher.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt;
use insula_api::{Problem, ProblemCode};
use insula_image::store::{Hold, ImageInfo};
use insula_kernel::mount_attributes::detached_copy;
use insula_kernel::seccomp::Filter;
use insula_model::{
    ContainerId, ContainerSpec, ImageConfig, InitKind, LogMode, MountPlan, NetworkMode, PublishedPort, RootAccess,
    StdinMode,
};
use insula_plan::host_step::{Device, DeviceKind};
use insula_plan::protocol::keeper::{FdName, KeeperRequest, LogStart, LogStream, TeeSpec, WhenSlow};
use insula_plan::protocol::launcher::{ImageKey, LauncherOutcome, LauncherRequest};
use insula_plan::protocol::process::WindowSize;
use insula_runtime::{
    DeviceNode, EtcFiles, GivenFd, MainStreams, Owner, PlanStartError, Rights, StartRequest, Storage, VolumeKind,
    VolumeSource, plan_start,
};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::pipe::PipeFlags;

use super::Machine;
use super::console::Master;
use super::disk::DiskError;
use super::failure::lost;
use super::network::{Traces, container_network, hosts};
use super::output::open_log_dir;
use crate::config::data_dirs;
use crate::host::{Exit, RootSource, StartOrder, Started, Streams, Unfinished};

/// Whether process 1 is the image's own init.
pub(super) fn is_full_init(spec: &ContainerSpec, config: &ImageConfig) -> bool {
    spec.init_kind(config) == InitKind::Image
}

/// Whether a client's terminal, or one that waits for a client, is in the place of the streams.
fn is_terminal(spec: &ContainerSpec, streams: &Streams) -> bool {
    match streams {
        Streams::Terminal { .. } => true,
        Streams::Detached => spec.tty,
        Streams::Given { .. } | Streams::Absent => false,
    }
}

/// Where a client wants to see the output.
fn first_output(streams: Streams) -> Option<OwnedFd> {
    match streams {
        Streams::Given { stdout, .. } => stdout,
        Streams::Terminal { output } => output,
        Streams::Detached | Streams::Absent => None,
    }
}

/// A problem of this start, naming the container.
fn failed(order: &StartOrder, what: &str, error: &(dyn std::error::Error + 'static)) -> Problem {
    let mut problem = Problem::from_chain(ProblemCode::StartFailed, error);
    problem.detail = format!("start container {}: {what}: {}", order.name, problem.detail);
    problem
}

/// The launcher's problem, naming the container.
fn named(order: &StartOrder, mut problem: Problem) -> Problem {
    problem.detail = format!("start container {}: {}", order.name, problem.detail);
    if problem.step.as_deref() == Some("exec") && order.spec.init == Some(InitKind::Image) {
        return problem.with_remedy("the image has no init system there; start it without `--init image`");
    }
    problem
}

/// What a start makes its root of; as long as this lives, the image stays in the store.
enum Root {
    Image(Hold),
    Unfinished(Arc<Unfinished>),
}

impl Root {
    fn key(&self) -> ImageKey {
        match self {
            Self::Image(hold) => image_key(hold.info()),
            Self::Unfinished(unfinished) => unfinished.key.clone(),
        }
    }

    fn config(&self) -> &ImageConfig {
        match self {
            Self::Image(hold) => &hold.info().config,
            Self::Unfinished(unfinished) => &unfinished.config,
        }
    }

    fn mount_plan(&self) -> &MountPlan {
        match self {
            Self::Image(hold) => &hold.info().mount_plan,
            Self::Unfinished(unfinished) => &unfinished.mount_plan,
        }
    }
}

/// Descriptors of a start by what they are for.
type GivenFds = HashMap<GivenFd, OwnedFd>;

/// The keeper's part of a container's streams.
pub(super) struct LogPipes {
    /// Which streams are read.
    pub(super) streams: Vec<LogStream>,
    /// Where copies go.
    pub(super) tees: Vec<TeeSpec>,
    /// The log's directory, what is read, where copies go.
    pub(super) fds: Vec<OwnedFd>,
}

/// What was found and opened for a plan.
struct Prepared<'a> {
    volumes: &'a [VolumeSource],
    devices: &'a [DeviceNode],
    streams: MainStreams,
    /// Outputs whose other end is for process 1, too.
    held: &'a [LogStream],
    storage: Storage,
}

/// What the main process's streams came to.
struct OpenedStreams {
    main: MainStreams,
    log: Option<LogPipes>,
    /// The writing end of a standard input that stays open.
    typed: Option<OwnedFd>,
}

impl Machine {
    /// Starts a container. After an error nothing of the start is left.
    pub(super) async fn start_container(self: Arc<Self>, order: StartOrder) -> Result<Started, Problem> {
        let traces = Traces { addresses: order.addresses, ports: order.spec.ports.clone() };
        let (id, name) = (order.id, order.name.clone());
        let result = self.clone().try_start(order).await;
        match result {
            Ok(started) => Ok(started),
            Err(problem) => {
                self.link.forget_exit(id);
                if let Err(left) = self.clone().sweep_container(id, traces).await {
                    tracing::error!(container = %name, detail = left.detail, "sweep after a failed start");
                }
                Err(problem)
            }
        }
    }

    async fn try_start(self: Arc<Self>, mut order: StartOrder) -> Result<Started, Problem> {
        let root = self.root_of(&order)?;
        self.ensure_mounted(&root).await?;
        let streams = std::mem::replace(&mut order.streams, Streams::Detached);
        let disk = self.clone().open_disk(&order, &root).await?;
        let storage = if disk.is_some() { Storage::Disk } else { Storage::Directories };
        let mut given = self.open_directories(&order, &root, disk)?;
        let volumes = open_volumes(&order, &mut given)?;
        let devices = look_at_devices(&order)?;
        let on_master = match is_terminal(&order.spec, &streams) {
            true => Some(Master::Terminal),
            false => is_full_init(&order.spec, root.config()).then_some(Master::Console),
        };
        let (streams, client) = match on_master {
            Some(Master::Terminal) => (Streams::Terminal { output: None }, first_output(streams)),
            Some(Master::Console) => (Streams::Detached, first_output(streams)),
            None => (streams, None),
        };
        let opened = self.open_streams(&order, streams, &mut given)?;
        let held = [LogStream::Output, LogStream::Error];
        let held: Vec<LogStream> = held.into_iter().filter(|held| given.contains_key(&GivenFd::Held(*held))).collect();
        let (volumes, devices) = (&*volumes, &*devices);
        let prepared = Prepared { volumes, devices, streams: opened.main, held: &held, storage };
        let (plan, wanted) = self.plan(&order, &root, &prepared)?;
        self.reserve_ports(&order).await?;
        if order.addresses.v4.is_some() {
            self.network.mend_addresses().map_err(|problem| named(&order, problem))?;
        }
        let plan = sealed_memfd(&plan).map_err(|error| failed(&order, "plan", &error))?;
        let mut fds: Vec<BorrowedFd<'_>> = vec![plan.as_fd()];
        for wanted in &wanted {
            let missing =
                || Problem::new(ProblemCode::Internal, format!("the plan wants {wanted:?}, which nobody opened"));
            fds.push(given.get(wanted).ok_or_else(missing)?.as_fd());
        }
        let exit = self.link.expect_exit(order.id);
        let request = LauncherRequest::Start { container: order.id };
        let (_, outcome) = self.link.send(request, &fds).await.map_err(|problem| named(&order, problem))?;
        // Whoever reads the main process's output sees its end when nobody has the pipe open any more.
        drop((plan, given));
        // After the start, which takes longer: what is written before the keeper reads waits in the pipe.
        if on_master.is_none() {
            self.keep_streams(&order, opened).await?;
        }
        let outcome = outcome.await.unwrap_or_else(|_| Err(lost("the launcher ended")));
        let outcome = outcome.map_err(|problem| named(&order, problem))?;
        let LauncherOutcome::Started { process, .. } = outcome.message else {
            return Err(Problem::new(ProblemCode::Internal, "the launcher answered something else to a start"));
        };
        let mut fds = outcome.fds.into_iter();
        let pidfd = fds.next().ok_or_else(|| Problem::new(ProblemCode::Internal, "the launcher gave no pidfd"))?;
        let exit = exit.map(|exit| exit.unwrap_or_else(|_| unknown_exit())).boxed();
        let traces = Traces { addresses: order.addresses, ports: order.spec.ports.clone() };
        if let Some(network) = container_network(order.id, &traces) {
            self.network.lead_to(network);
        }
        self.note_output(order.id, order.spec.log);
        let follow = self.follow(&order, &pidfd);
        self.remember_pidfd(order.id, pidfd);
        let mut master = fds.next();
        if let (Some(kind), Some(master)) = (on_master, &master) {
            self.keep_master(&order, (kind, master), client).await?;
        }
        master = master.filter(|_| on_master == Some(Master::Terminal));
        Ok(Started { pid: process.pid, cgroup: self.cgroup_of(order.id), follow, master, exit })
    }

    fn root_of(&self, order: &StartOrder) -> Result<Root, Problem> {
        match &order.root {
            RootSource::Image(image) => {
                self.images.hold(image).map(Root::Image).map_err(|error| failed(order, "image", &error))
            }
            RootSource::Unfinished(unfinished) => Ok(Root::Unfinished(unfinished.clone())),
        }
    }

    /// Descriptors for who follows the container: a pidfd, and the file where its end will be.
    fn follow(&self, order: &StartOrder, pidfd: &OwnedFd) -> Vec<OwnedFd> {
        let mut follow = Vec::new();
        if let Ok(copy) = pidfd.try_clone() {
            follow.push(copy);
            // An image's own init writes none.
            follow.extend(File::open(self.run.exit_fact(order.id)).map(OwnedFd::from));
        }
        follow
    }

    /// Mounts the image if it is not yet.
    ///
    /// # Errors
    ///
    /// It is damaged, or the kernel cannot mount it.
    async fn ensure_mounted(self: &Arc<Self>, root: &Root) -> Result<(), Problem> {
        let key = root.key();
        if self.is_mounted(&key) {
            return Ok(());
        }
        let info = match root {
            Root::Image(hold) => hold.info(),
            Root::Unfinished(unfinished) => {
                let request = LauncherRequest::MountImage { key: key.clone() };
                self.link.call(request, &[unfinished.image.as_fd()]).await?;
                self.note_mounted(key);
                return Ok(());
            }
        };
        let (store, image) = (self.images.clone(), info.id.clone());
        let opened = tokio::task::spawn_blocking(move || {
            store.open_for_mount(&image, jiff::Timestamp::now(), insula_image::progress::Watch::nobody())
        });
        let source = opened
            .await
            .map_err(|_| Problem::new(ProblemCode::Internal, "the check of the image did not come to its end"))?
            .map_err(|error| Problem::from_chain(ProblemCode::StartFailed, &error))?;
        self.link.call(LauncherRequest::MountImage { key: key.clone() }, &[source.fd.as_fd()]).await?;
        self.note_mounted(key);
        Ok(())
    }

    /// The file with the container's data, if it has one or is to have one.
    async fn open_disk(self: Arc<Self>, order: &StartOrder, root: &Root) -> Result<Option<OwnedFd>, Problem> {
        let (paths, size) = (self.disk_paths(order.files), order.spec.resources.data_size);
        let directories = size.is_none() && !paths.disk().exists();
        if directories && !paths.is_interrupted() || matches!(root, Root::Unfinished(_)) {
            return Ok(None);
        }
        let base = self.container_dir(order.files);
        let name = order.name.clone();
        let work = move |_: &Self| {
            std::fs::DirBuilder::new().mode(0o700).recursive(true).create(&base).ok();
            paths.open(size).map_err(|error| {
                let code = match error {
                    DiskError::NoProgram { .. } => ProblemCode::NotSupported,
                    _ => ProblemCode::StartFailed,
                };
                let mut problem = Problem::from_chain(code, &error);
                problem.detail = format!("start container {name}: persistent data: {}", problem.detail);
                problem
            })
        };
        self.blocking(work).await
    }

    /// Persistent directories of the container and the node, made if need be.
    fn open_directories(&self, order: &StartOrder, root: &Root, disk: Option<OwnedFd>) -> Result<GivenFds, Problem> {
        let base = self.container_dir(order.files);
        let what = |path: &Path| format!("persistent data {}", path.display());
        let make = |path: &Path, mode: u32| {
            let made = std::fs::DirBuilder::new().mode(mode).recursive(true).create(path);
            made.map_err(|error| failed(order, &what(path), &error))
        };
        let open = |path: &Path| open_path(path).map_err(|error| failed(order, &what(path), &error));
        let mut given = GivenFds::new();
        let data = self.data_dir(order.files);
        make(&base, 0o700)?;
        // Closed to others: whatever set-user-id bits a container leaves in its data, nobody of the host reaches it.
        make(&data_dirs(&self.state_dir), 0o700)?;
        given.insert(GivenFd::Software, open(&self.software_dir)?);
        if order.spec.network == NetworkMode::Host {
            given.insert(GivenFd::HostSys, open(Path::new("/sys"))?);
        }
        if let Some(disk) = disk {
            given.insert(GivenFd::Disk, disk);
            return Ok(given);
        }
        make(&data.join("service"), 0o755)?;
        given.insert(GivenFd::Data, open(&data)?);
        if let Root::Unfinished(unfinished) = root {
            let layer = unfinished.layer.try_clone().map_err(|error| failed(order, "layer", &error))?;
            given.insert(GivenFd::Layer, layer);
        } else if order.spec.root_access(root.config()) == RootAccess::Writable {
            let layer = base.join("layer");
            make(&layer, 0o755)?;
            given.insert(GivenFd::Layer, open(&layer)?);
        }
        Ok(given)
    }

    /// The three streams of the main process, and what the keeper is to read and to hold.
    fn open_streams(
        &self,
        order: &StartOrder,
        streams: Streams,
        given: &mut GivenFds,
    ) -> Result<OpenedStreams, Problem> {
        let (stdin, stdout, stderr) = match streams {
            Streams::Terminal { .. } => {
                return Ok(OpenedStreams { main: MainStreams::Terminal(WindowSize::DEFAULT), log: None, typed: None });
            }
            Streams::Absent => return Ok(OpenedStreams { main: MainStreams::Absent, log: None, typed: None }),
            Streams::Detached => (None, None, None),
            Streams::Given { stdin, stdout, stderr } => (stdin, stdout, stderr),
        };
        let mut typed = None;
        let stdin = match stdin {
            Some(stdin) => stdin,
            None => {
                // Without a writer its end is read at once, and no device of the host is given away.
                let (reader, writer) = container_pipe(order)?;
                typed = (order.spec.stdin == StdinMode::Open).then_some(writer);
                reader
            }
        };
        given.insert(GivenFd::Stdin, stdin);
        let outputs = [(GivenFd::Stdout, LogStream::Output, stdout), (GivenFd::Stderr, LogStream::Error, stderr)];
        let mut log = LogPipes { streams: Vec::new(), tees: Vec::new(), fds: vec![self.log_dir(order)?] };
        let mut tees = Vec::new();
        for (wanted, stream, client) in outputs {
            let client = match client {
                // Nobody else wants it.
                Some(client) if order.spec.log == LogMode::Discarded => {
                    given.insert(wanted, client);
                    continue;
                }
                client => client,
            };
            let (reader, writer) = container_pipe(order)?;
            given.insert(wanted, writer);
            let held = reader.try_clone().map_err(|error| failed(order, "standard streams", &error))?;
            given.insert(GivenFd::Held(stream), held);
            log.streams.push(stream);
            log.fds.push(reader);
            if let Some(client) = client {
                log.tees.push(TeeSpec { stream, when_slow: WhenSlow::Block });
                tees.push(client);
            }
        }
        log.fds.extend(tees);
        let log = Some(log).filter(|log| !log.streams.is_empty());
        Ok(OpenedStreams { main: MainStreams::Given, log, typed })
    }

    /// Gives the keeper what it is to read and to hold.
    async fn keep_streams(&self, order: &StartOrder, opened: OpenedStreams) -> Result<(), Problem> {
        if let Some(typed) = opened.typed {
            let name = FdName::of_container(order.id, super::attach::STDIN);
            let name = name.map_err(|error| failed(order, "standard input", &error))?;
            self.link.call(LauncherRequest::Keep(KeeperRequest::Put { name }), &[typed.as_fd()]).await?;
        }
        match opened.log {
            Some(log) => self.start_log(order, log).await,
            None => Ok(()),
        }
    }

    pub(super) fn log_dir(&self, order: &StartOrder) -> Result<OwnedFd, Problem> {
        let path = self.log_path(order.id);
        open_log_dir(&path).map_err(|error| failed(order, &path.display().to_string(), &error))
    }

    /// Lets the keeper read a container's output.
    pub(super) async fn start_log(&self, order: &StartOrder, log: LogPipes) -> Result<(), Problem> {
        let files = (order.spec.log != LogMode::Discarded).then_some(self.log_bounds);
        let start = LogStart { container: order.id, streams: log.streams, tees: log.tees, files };
        let fds: Vec<BorrowedFd<'_>> = log.fds.iter().map(AsFd::as_fd).collect();
        // The outcome is not waited for: what the container writes meanwhile stays in the pipe.
        let (_, outcome) = self.link.send(LauncherRequest::Keep(KeeperRequest::LogStart(start)), &fds).await?;
        let name = order.name.clone();
        tokio::spawn(async move {
            if let Ok(Err(problem)) = outcome.await {
                tracing::error!(container = %name, detail = problem.detail, "log");
            }
        });
        Ok(())
    }

    async fn reserve_ports(&self, order: &StartOrder) -> Result<(), Problem> {
        if order.spec.network != NetworkMode::Default {
            return Ok(());
        }
        for port in &order.spec.ports {
            self.reserve_port(order.id, port).await.map_err(|mut problem| {
                problem.detail = format!("start container {}: published ports: {}", order.name, problem.detail);
                problem
            })?;
        }
        Ok(())
    }

    /// Has the keeper hold a published port.
    pub(super) async fn reserve_port(&self, id: ContainerId, port: &PublishedPort) -> Result<(), Problem> {
        let socket =
            insula_network::reserve(port).map_err(|error| Problem::from_chain(ProblemCode::Conflict, &error))?;
        let name = FdName::of_container(id, &format!("port:{:?}:{}", port.transport, port.host).to_lowercase());
        let name = name.map_err(|error| Problem::from_chain(ProblemCode::Internal, &error))?;
        self.link.call(LauncherRequest::Keep(KeeperRequest::Put { name }), &[socket.as_fd()]).await.map(drop)
    }

    fn plan(
        &self,
        order: &StartOrder,
        root: &Root,
        prepared: &Prepared<'_>,
    ) -> Result<(Vec<u8>, Vec<GivenFd>), Problem> {
        let spec = &*order.spec;
        let rights = Rights::resolve(spec, is_full_init(spec, root.config()))
            .map_err(|error| Problem::from_chain(ProblemCode::Invalid, &error))?;
        let filter = if rights.privileged { None } else { Some(self.filter(rights)?) };
        let network = container_network(order.id, &Traces { addresses: order.addresses, ports: spec.ports.clone() });
        let hostname = spec.hostname.as_deref().unwrap_or(order.name.as_str());
        let request = StartRequest {
            id: order.id,
            name: &order.name,
            spec,
            config: root.config(),
            mount_plan: root.mount_plan(),
            image: root.key(),
            ids: order.ids,
            rights,
            filter: filter.as_deref(),
            network: match (spec.network, &network) {
                (NetworkMode::Default, Some(network)) => insula_runtime::Network::Routed(&self.network.node, network),
                (NetworkMode::Host, _) => insula_runtime::Network::Host,
                _ => insula_runtime::Network::Loopback,
            },
            storage: prepared.storage,
            etc: EtcFiles {
                resolv_conf: &self.network.resolv_conf(spec, self.names.is_on()),
                hosts: &hosts(hostname, spec, order.addresses),
            },
            volumes: prepared.volumes,
            devices: prepared.devices,
            streams: prepared.streams,
            held: prepared.held,
            host: self.host_facts(),
        };
        let planned = plan_start(&request).map_err(|error| {
            let code = match &error {
                PlanStartError::Devices(_) => ProblemCode::StartFailed,
                _ => ProblemCode::Invalid,
            };
            let mut problem = Problem::from_chain(code, &error);
            problem.detail = format!("start container {}: {}", order.name, problem.detail);
            problem
        })?;
        Ok((planned.plan.encode(), planned.given))
    }

    /// The system call filter for these rights; made once for each.
    fn filter(&self, rights: Rights) -> Result<Arc<Filter>, Problem> {
        let bits = rights.capabilities.bits();
        if let Some(filter) = self.filters().get(&bits) {
            return Ok(filter.clone());
        }
        let filter = insula_runtime::seccomp_profile::filter(rights.capabilities)
            .map_err(|error| Problem::from_chain(ProblemCode::Internal, &error))?;
        Ok(self.filters().entry(bits).or_insert_with(|| Arc::new(filter)).clone())
    }
}

/// A pipe that belongs to the container: programs open `/dev/stdin` and `/dev/stdout` anew, which asks the owner.
fn container_pipe(order: &StartOrder) -> Result<(OwnedFd, OwnedFd), Problem> {
    let wrap = |error: rustix::io::Errno| failed(order, "standard streams", &error);
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(wrap)?;
    let owner = rustix::fs::Uid::from_raw(order.ids.base);
    let group = rustix::fs::Gid::from_raw(order.ids.base);
    rustix::fs::fchown(&writer, Some(owner), Some(group)).map_err(wrap)?;
    Ok((reader, writer))
}

/// Under which key the launcher has an image.
pub(crate) fn image_key(info: &ImageInfo) -> ImageKey {
    ImageKey(info.digest.hex())
}

pub(super) fn unknown_exit() -> Exit {
    let reason = Some("the daemon lost sight of it".to_owned());
    Exit { code: None, reason, at: jiff::Timestamp::now() }
}

fn open_path(path: &Path) -> Result<OwnedFd, rustix::io::Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

/// Copied here, in the mount namespace of whoever gave the path: the launcher's may lack what was mounted since it began.
fn open_volumes(order: &StartOrder, given: &mut GivenFds) -> Result<Vec<VolumeSource>, Problem> {
    let mut sources = Vec::new();
    for (index, volume) in order.spec.volumes.iter().enumerate() {
        let what = format!("volume {}", volume.source);
        let fd = detached_copy(Path::new(&volume.source)).map_err(|error| {
            let problem = failed(order, &what, &error);
            let there = Path::new(&volume.source).symlink_metadata().is_ok();
            if there { problem } else { problem.with_remedy("make it first: no start makes anything on the host") }
        })?;
        let stat = rustix::fs::fstat(&fd).map_err(|error| failed(order, &what, &error))?;
        let kind = match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
            rustix::fs::FileType::Directory => VolumeKind::Directory,
            _ => VolumeKind::File,
        };
        given.insert(GivenFd::Volume(index), fd);
        sources.push(VolumeSource { owner: Owner { uid: stat.st_uid, gid: stat.st_gid }, kind });
    }
    Ok(sources)
}

fn look_at_devices(order: &StartOrder) -> Result<Vec<DeviceNode>, Problem> {
    let look = |source: &str| {
        let metadata = std::fs::metadata(source)?;
        let kind = match metadata.file_type() {
            kind if kind.is_block_device() => DeviceKind::Block,
            kind if kind.is_char_device() => DeviceKind::Character,
            _ => return Err(std::io::Error::other("it is no device")),
        };
        let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
        Ok(DeviceNode { device: Device { kind, major, minor } })
    };
    let devices = order.spec.devices.iter();
    devices
        .map(|device| look(&device.source).map_err(|error| failed(order, &format!("device {}", device.source), &error)))
        .collect()
}

/// A file in memory that nobody can change any more.
pub(super) fn sealed_memfd(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create("insula-plan", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(file);
    file.write_all(bytes)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(file.into())
}
