//! A node for live tests: the real launcher, keeper and process 1, a small image, and containers on it.
#![allow(dead_code, reason = "each test program uses its part")]

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use insula_kernel::mount_attributes::detached_copy;
use insula_model::{ContainerId, ContainerSpec, IdRange, ImageConfig, InitKind, MountPlan};
use insula_network::{ContainerAddresses, ContainerNetwork, NetworkConfig, NodeNetwork, Subnets};
use insula_plan::host_step::LayerNames;
use insula_plan::plan::Plan;
use insula_plan::protocol::facts::{EndedFact, ProcessIdentity};
use insula_plan::protocol::failure::FailureKind;
use insula_plan::protocol::keeper::{KeeperAnswer, KeeperRequest};
use insula_plan::protocol::launcher::{
    ImageKey, LauncherClient, LauncherError, LauncherEvent, LauncherOutcome, LauncherRequest, OpId, ShutdownWhen,
};
use insula_plan::protocol::process::{CapabilityMask, CapabilityRule, ProcessSpec};
use insula_plan::protocol::status::ExitStatus;
use insula_resources::{CgroupLayout, NodeGroups};
use insula_runtime::{
    EtcFiles, GivenFd, HostFacts, MainStreams, Network, Rights, StartRequest, Storage, SweepRequest, VolumeSource,
    plan_start, plan_sweep, seccomp_profile,
};

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// First host id of the containers.
pub(crate) const ID_BASE: u32 = 1 << 28;

/// Programs of busybox that images have.
const APPLETS: [&str; 19] = [
    "sh", "cat", "id", "ls", "mount", "touch", "hostname", "true", "sleep", "grep", "stat", "readlink", "kill", "ln",
    "mkdir", "head", "cp", "chmod", "mknod",
];

/// Beside the test programs, where cargo puts what it builds.
fn programs() -> PathBuf {
    if let Some(folder) = std::env::var_os("INSULA_PROGRAM_DIR") {
        return folder.into();
    }
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().to_owned()
}

/// A launcher with its keeper, control groups, and a folder.
pub(crate) struct Node {
    folder: tempfile::TempDir,
    name: String,
    pub(crate) layers: LayerNames,
    pub(crate) groups: NodeGroups,
    pub(crate) client: LauncherClient,
    /// If its containers have links.
    network: Option<NodeNetwork>,
    next_file: u32,
}

/// What is to be started.
pub(crate) struct Start<'a> {
    pub(crate) spec: &'a ContainerSpec,
    pub(crate) config: &'a ImageConfig,
    pub(crate) volumes: Vec<(PathBuf, VolumeSource)>,
}

/// A plan with what goes beside it; output of the main process is read from `output`.
pub(crate) struct Planned {
    pub(crate) plan: Plan,
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) output: std::io::PipeReader,
}

/// A container that runs.
pub(crate) struct Running {
    pub(crate) process: ProcessIdentity,
    pub(crate) pidfd: OwnedFd,
    pub(crate) console: Option<OwnedFd>,
    pub(crate) output: std::io::PipeReader,
}

impl Node {
    pub(crate) fn start() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(status.lines().any(|line| line.starts_with("Uid:\t0\t")), "live tests need root: run them with sudo");
        let folder = tempfile::Builder::new().prefix("insula-runtime-").tempdir().unwrap();
        let launcher = launcher_program();
        assert!(launcher.exists(), "{} is missing: cargo build --workspace --bins", launcher.display());
        let run = folder.path().join("run");
        assert!(Command::new(launcher).arg(&run).status().unwrap().success());
        static NODES: AtomicU32 = AtomicU32::new(0);
        let name = format!("runtime-{}-{}", std::process::id(), NODES.fetch_add(1, Ordering::Relaxed));
        let groups = NodeGroups::new(CgroupLayout::detect().unwrap(), name.parse().unwrap());
        for step in groups.setup_steps() {
            step.perform(None).unwrap();
        }
        let client = LauncherClient::connect(&run.join("launcher.sock")).unwrap();
        Self {
            folder,
            name,
            layers: LayerNames::of(&insula_kernel::features::Features::probe()),
            groups,
            client,
            network: None,
            next_file: 0,
        }
    }

    /// The same with a network: a table of its own, addresses that no other node has.
    pub(crate) fn start_routed() -> Self {
        let mut node = Self::start();
        let subnets = Subnets {
            ipv4: "198.51.100.0/24".parse().unwrap(),
            ipv6: Some("fd49:6e73:756c:fff0::/64".parse().unwrap()),
        };
        let (name, ipv6) = (node.name.parse().unwrap(), NodeNetwork::probe_kernel_ipv6());
        let network = NodeNetwork::new(name, &NetworkConfig::standard(), subnets, ipv6);
        // First, so that what is made next is taken away again.
        let network = node.network.insert(network);
        insula_network::ensure_node_addresses(network).unwrap();
        network.install_table(&[]).unwrap();
        node
    }

    /// What leads to a container and from it, if it has a link.
    fn link_of(&self, id: ContainerId) -> Option<(&NodeNetwork, ContainerNetwork)> {
        let addresses =
            ContainerAddresses { ipv4: "198.51.100.2".parse().unwrap(), ipv6: "fd49:6e73:756c:fff0::2".parse().ok() };
        // Of both kinds: a UDP port has one step more.
        let ports = ["198.51.100.1:7771:80", "198.51.100.1:7772:53/udp"].map(|port| port.parse().unwrap()).to_vec();
        self.network.as_ref().map(|network| (network, ContainerNetwork { id, addresses, ports }))
    }

    /// Goes away and comes back, as a daemon that is replaced.
    pub(crate) fn reconnect(&mut self) {
        self.client = LauncherClient::connect(&self.path("run/launcher.sock")).unwrap();
    }

    /// Kills the launcher and waits until it is gone.
    pub(crate) fn kill_launcher(&self) {
        let pid = self.client.launcher_pid();
        kill(pid);
        wait_until("the launcher is gone", || is_gone(pid));
    }

    /// Starts a launcher where there is none.
    pub(crate) fn start_launcher(&mut self) {
        assert!(Command::new(launcher_program()).arg(self.path("run")).status().unwrap().success());
        self.reconnect();
    }

    /// Has the launcher become its own program, in place.
    pub(crate) fn become_again(&mut self) {
        let program = std::fs::File::open(launcher_program()).unwrap();
        // What the keeper was told a moment ago may still wait for its answer.
        wait_until("the launcher has become its program", || {
            self.client.call(LauncherRequest::Upgrade, &[program.as_fd()]).is_ok()
        });
    }

    /// The keeper's process number.
    pub(crate) fn keeper_pid(&mut self) -> u32 {
        self.ask_keeper().unwrap()
    }

    /// The keeper's process number; none of one that died before it answered.
    pub(crate) fn ask_keeper(&mut self) -> Option<u32> {
        let hello = KeeperRequest::Hello { version: insula_plan::protocol::PROTOCOL_VERSION };
        match self.client.call(LauncherRequest::Keep(hello), &[]) {
            Ok(answer) => match answer.message {
                LauncherOutcome::Kept(KeeperAnswer::Welcome { pid, .. }) => Some(pid),
                other => panic!("{other:?}"),
            },
            Err(LauncherError::Failed(failure)) if failure.kind == FailureKind::KeeperLost => None,
            Err(error) => panic!("{error:?}"),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Mounts an image of busybox and some directories under the key `test`.
    pub(crate) fn image(&mut self) -> ImageKey {
        self.image_with("test", |_| {})
    }

    /// The same under another key, with changes.
    pub(crate) fn image_with(&mut self, key: &str, change: impl FnOnce(&Path)) -> ImageKey {
        let root = self.path(&format!("root-{key}"));
        for folder in ["bin", "sbin", "etc", "var", "tmp", "run", "root", "home", "data", "sw", "proc", "sys", "dev"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for name in APPLETS {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        let users = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/home:/bin/sh\n";
        std::fs::write(root.join("etc/passwd"), users).unwrap();
        change(&root);
        let image = self.path(&format!("{key}.erofs"));
        assert!(Command::new("mkfs.erofs").arg("--quiet").args([&image, &root]).status().unwrap().success());
        let key = ImageKey(key.to_owned());
        let file = std::fs::File::open(image).unwrap();
        self.client.call(LauncherRequest::MountImage { key: key.clone() }, &[file.as_fd()]).unwrap();
        key
    }

    /// A sealed file's stand-in with these bytes.
    pub(crate) fn file(&mut self, bytes: &[u8]) -> OwnedFd {
        self.next_file += 1;
        let path = self.path(&format!("file-{}", self.next_file));
        std::fs::write(&path, bytes).unwrap();
        std::fs::File::open(path).unwrap().into()
    }

    /// The plan of a start.
    pub(crate) fn plan(&mut self, key: &ImageKey, id: ContainerId, start: &Start<'_>) -> Planned {
        let (name, mount_plan) = ("web".parse().unwrap(), MountPlan::default_plan());
        let rights = Rights::resolve(start.spec, start.spec.init == Some(InitKind::Image)).unwrap();
        let filter = seccomp_profile::filter(rights.capabilities).unwrap();
        let link = self.link_of(id);
        let network = link.as_ref().map_or(Network::Loopback, |(node, container)| Network::Routed(node, container));
        let sources: Vec<VolumeSource> = start.volumes.iter().map(|(_, source)| *source).collect();
        let planned = plan_start(&StartRequest {
            id,
            name: &name,
            spec: start.spec,
            config: start.config,
            mount_plan: &mount_plan,
            image: key.clone(),
            ids: IdRange { base: ID_BASE, size: IdRange::SIZE },
            rights,
            filter: Some(&filter),
            network,
            storage: Storage::Directories,
            etc: EtcFiles { resolv_conf: "nameserver 192.0.2.1\n", hosts: "127.0.0.1 localhost\n" },
            volumes: &sources,
            devices: &[],
            streams: MainStreams::Given,
            held: &[],
            host: HostFacts { groups: &self.groups, layers: self.layers, files_soft: 1024, files_hard: 4096 },
        })
        .unwrap();
        let (output, writer) = std::io::pipe().unwrap();
        let mut fds: Vec<OwnedFd> = Vec::new();
        for given in &planned.given {
            fds.push(match given {
                GivenFd::Stdin => std::fs::File::open("/dev/null").unwrap().into(),
                GivenFd::Stdout | GivenFd::Stderr => writer.try_clone().unwrap().into(),
                GivenFd::Data => directory(&self.path("data")),
                GivenFd::Software => directory(&self.path("software")),
                GivenFd::Layer => directory(&self.path("layer")),
                GivenFd::Held(_) => panic!("nothing is held here"),
                GivenFd::Disk => panic!("no disk is asked for here"),
                GivenFd::Volume(index) => detached_copy(&start.volumes[*index].0).unwrap(),
                GivenFd::HostSys => panic!("the host's /sys is not asked for here"),
            });
        }
        Planned { plan: planned.plan, fds, output }
    }

    /// Has a plan carried out, given as bytes so that it may be a wrong one.
    pub(crate) fn carry_out(&mut self, id: ContainerId, plan: &[u8], fds: Vec<OwnedFd>) -> Result<OpId, LauncherError> {
        let mut all = vec![self.file(plan)];
        all.extend(fds);
        let borrowed: Vec<_> = all.iter().map(AsFd::as_fd).collect();
        self.client.send(LauncherRequest::Start { container: id }, &borrowed)
    }

    /// Starts a container.
    pub(crate) fn start_container(
        &mut self,
        key: &ImageKey,
        id: ContainerId,
        start: &Start<'_>,
    ) -> Result<Running, LauncherError> {
        let Planned { plan, fds, output } = self.plan(key, id, start);
        let op = self.carry_out(id, &plan.encode(), fds)?;
        let started = self.client.outcome(op)?;
        let LauncherOutcome::Started { process, .. } = started.message else { panic!("{:?}", started.message) };
        let mut fds = started.fds.into_iter();
        Ok(Running { process, pidfd: fds.next().unwrap(), console: fds.next(), output })
    }

    /// Waits for a container's end and sweeps it.
    pub(crate) fn end_of(&mut self, id: ContainerId) -> EndedFact {
        loop {
            if let LauncherEvent::Exited { container, end } = self.client.event().unwrap().message
                && container == id
            {
                self.sweep(id);
                return end;
            }
        }
    }

    /// Runs a shell command in a new container: its exit status and its output.
    pub(crate) fn run(&mut self, key: &ImageKey, id: ContainerId, script: &str) -> (ExitStatus, String) {
        let spec = shell(script);
        let start = Start { spec: &spec, config: &ImageConfig::default(), volumes: Vec::new() };
        let mut running = self.start_container(key, id, &start).unwrap();
        let mut output = String::new();
        running.output.read_to_string(&mut output).unwrap();
        (self.end_of(id).status.unwrap(), output)
    }

    pub(crate) fn facts(&self, id: ContainerId) -> PathBuf {
        self.path("run/containers").join(id.to_string())
    }

    pub(crate) fn sweep(&mut self, id: ContainerId) {
        let facts = self.facts(id);
        let link = self.link_of(id);
        let network = link.as_ref().map(|(node, container)| (*node, container));
        let sweep = plan_sweep(&SweepRequest { id, groups: &self.groups, network, facts: &facts }).encode();
        let file = self.file(&sweep);
        self.client.call(LauncherRequest::Sweep { container: id }, &[file.as_fd()]).unwrap();
    }

    /// How many of its own programs run: those that were told its folder.
    fn programs_running(&self) -> usize {
        let run = self.path("run").display().to_string();
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let commands = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
        commands.filter(|command| String::from_utf8_lossy(command).split('\0').any(|word| word == run)).count()
    }

    /// That nothing of a container is on the host: no control group, no facts, no process with an id of its range, and
    /// no mount in the launcher's namespace but its images; no link and no element of the table.
    pub(crate) fn assert_nothing_left(&self, id: ContainerId) {
        assert!(!self.facts(id).exists(), "facts are left");
        if let Some((network, _)) = self.link_of(id) {
            assert_eq!(insula_network::own_links(network).unwrap(), [], "a link is left");
            let list = Command::new("nft").args(["list", "table", "inet", network.table().as_str()]).output().unwrap();
            let table = String::from_utf8(list.stdout).unwrap();
            assert!(list.status.success() && !table.contains("198.51.100.2"), "an element is left: {table}");
        }
        for entry in std::fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
            let Ok(status) = std::fs::read_to_string(entry.path().join("status")) else { continue };
            let uid =
                |line: &str| line.strip_prefix("Uid:").and_then(|ids| ids.split_whitespace().next()?.parse().ok());
            let Some(uid): Option<u32> = status.lines().find_map(uid) else { continue };
            let ours = (ID_BASE..ID_BASE + IdRange::SIZE).contains(&uid) && !status.contains("State:\tZ");
            let group = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            assert!(!(ours && group.contains(&id.to_string())), "process {} is left", entry.path().display());
        }
        let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", self.client.launcher_pid())).unwrap();
        let folder = self.folder.path().display().to_string();
        let images = format!("{folder}/run/images/");
        let places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        let strange: Vec<&str> =
            places.filter(|place| place.starts_with(&folder) && !place.starts_with(&images)).collect();
        assert!(strange.is_empty(), "mounts are left: {strange:?}");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        for line in mounts.lines().filter(|line| line.contains(" - cgroup")) {
            let mount = line.split(' ').nth(4).unwrap();
            let node = Path::new(mount).join("insula.slice").join(&self.name);
            for entry in std::fs::read_dir(node).into_iter().flatten().filter_map(Result::ok) {
                let name = entry.file_name().to_string_lossy().into_owned();
                assert!(!name.contains(&id.to_string()), "control group {} is left", entry.path().display());
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.client.call(LauncherRequest::Shutdown(ShutdownWhen::Now), &[]).unwrap();
        // They write their last words where this test does.
        wait_until("launcher, keeper and workers have ended", || self.programs_running() == 0);
        for step in self.groups.remove_steps() {
            step.perform(None).unwrap();
        }
        if let Some(network) = &self.network {
            network.remove_table().unwrap();
            insula_network::remove_node_addresses(network).unwrap();
        }
    }
}

/// A container that runs a shell script.
pub(crate) fn shell(script: &str) -> ContainerSpec {
    let mut spec = ContainerSpec::new("test".parse().unwrap());
    spec.command = vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()];
    spec
}

/// A shell script as a further process.
pub(crate) fn shell_process(script: &str) -> ProcessSpec {
    let default = CapabilityMask(insula_kernel::capability::CapabilitySet::CONTAINER_DEFAULT.bits());
    let rights = CapabilityRule { bounding: default, ambient: CapabilityMask(0) };
    let argv = ["sh", "-c", script].map(|word| std::ffi::CString::new(word).unwrap());
    let mut process = ProcessSpec::new(argv.to_vec(), rights);
    process.env = vec![c"PATH=/bin".to_owned()];
    process
}

pub(crate) fn id(number: u128) -> ContainerId {
    format!("{number:08x}-0000-4000-8000-{:012x}", std::process::id()).parse().unwrap()
}

/// Waits for a condition.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::yield_now();
    }
}

/// Where the launcher is.
pub(crate) fn launcher_program() -> PathBuf {
    programs().join("insula-launcher")
}

/// Kills a process without a word.
pub(crate) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    insula_kernel::signals::send(insula_kernel::signals::Recipient::Process(pid), 9).unwrap();
}

/// Whether a pidfd remembers the end of its process (Linux 6.15).
pub(crate) fn kernel_remembers() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 15)
}

/// Whether there is no such process, or only what is left of one.
pub(crate) fn is_gone(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

/// Reads until `text` was seen, the other end closed, or patience ends: what was read.
pub(crate) fn read_until(from: &OwnedFd, text: &str) -> String {
    let mut seen = String::new();
    let mut file = std::fs::File::from(from.try_clone().unwrap());
    let mut bytes = [0; 4096];
    while !seen.contains(text) {
        // A terminal whose last slave closed answers EIO.
        let Ok(read @ 1..) = file.read(&mut bytes) else { break };
        seen.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    seen
}

/// A directory, or a file that is there, as a daemon gives it: opened in its own mount namespace.
fn directory(path: &Path) -> OwnedFd {
    if !path.exists() {
        std::fs::create_dir_all(path).unwrap();
    }
    // `O_PATH`
    std::fs::OpenOptions::new().read(true).custom_flags(0o1000_0000).open(path).unwrap().into()
}
