//! A container through the real launcher, keeper and process 1: the plan of a start, carried out.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "a test program")]

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use insula_model::{ContainerId, ContainerSpec, IdRange, ImageConfig, MountPlan};
use insula_plan::host_step::LayerNames;
use insula_plan::protocol::launcher::{
    ImageKey, LauncherClient, LauncherEvent, LauncherOutcome, LauncherRequest, ShutdownWhen,
};
use insula_plan::protocol::status::ExitStatus;
use insula_resources::{CgroupLayout, NodeGroups};
use insula_runtime::{
    EtcFiles, GivenFd, HostFacts, MainStreams, Network, Rights, StartRequest, SweepRequest, plan_start, plan_sweep,
    seccomp_profile,
};

/// Beside the test programs, where cargo puts what it builds.
fn programs() -> PathBuf {
    if let Some(folder) = std::env::var_os("INSULA_PROGRAM_DIR") {
        return folder.into();
    }
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().to_owned()
}

struct Node {
    folder: tempfile::TempDir,
    groups: NodeGroups,
    client: LauncherClient,
}

impl Node {
    fn start() -> Self {
        assert!(rustix_is_root(), "live tests need root: run them with sudo");
        let folder = tempfile::Builder::new().prefix("insula-runtime-").tempdir().unwrap();
        let launcher = programs().join("insula-launcher");
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
        Self { folder, groups, client }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Mounts an image of busybox and some directories under the key `test`.
    fn image(&mut self) -> ImageKey {
        let root = self.path("root");
        for folder in ["bin", "etc", "var", "tmp", "run", "root", "home", "data", "sw", "proc", "sys", "dev"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for name in ["sh", "cat", "id", "ls", "mount", "touch", "hostname", "true", "sleep", "grep"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        let image = self.path("image.erofs");
        assert!(Command::new("mkfs.erofs").arg("--quiet").args([&image, &root]).status().unwrap().success());
        let key = ImageKey("test".to_owned());
        let file = std::fs::File::open(image).unwrap();
        self.client.call(LauncherRequest::MountImage { key: key.clone() }, &[file.as_fd()]).unwrap();
        key
    }

    /// Runs a shell command in a new container: its exit status and its output.
    fn run(&mut self, key: &ImageKey, id: ContainerId, script: &str) -> (ExitStatus, String) {
        let mut spec = ContainerSpec::new("test".parse().unwrap());
        spec.command = vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()];
        let (name, config, mount_plan) = ("web".parse().unwrap(), ImageConfig::default(), MountPlan::default_plan());
        let rights = Rights::resolve(&spec, false).unwrap();
        let filter = seccomp_profile::filter(rights.capabilities).unwrap();
        let start = plan_start(&StartRequest {
            id,
            name: &name,
            spec: &spec,
            config: &config,
            mount_plan: &mount_plan,
            image: key.clone(),
            ids: IdRange { base: 1 << 28, size: IdRange::SIZE },
            rights,
            filter: Some(&filter),
            network: Network::Loopback,
            etc: EtcFiles { resolv_conf: "nameserver 192.0.2.1\n", hosts: "127.0.0.1 localhost\n" },
            volumes: &[],
            devices: &[],
            streams: MainStreams::Given,
            host: HostFacts { groups: &self.groups, layers: LayerNames::Descriptors, files_hard: 4096 },
        })
        .unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let plan_path = self.path("plan");
        std::fs::write(&plan_path, start.plan.encode()).unwrap();
        let mut fds: Vec<OwnedFd> = vec![std::fs::File::open(plan_path).unwrap().into()];
        for given in &start.given {
            fds.push(match given {
                GivenFd::Stdin => std::fs::File::open("/dev/null").unwrap().into(),
                GivenFd::Stdout | GivenFd::Stderr => writer.try_clone().unwrap().into(),
                GivenFd::Data => directory(&self.path("data")),
                GivenFd::Software => directory(&self.path("software")),
                other => panic!("{other:?} is not asked for here"),
            });
        }
        drop(writer);
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let started = self.client.call(LauncherRequest::Start { container: id }, &borrowed);
        drop(fds);
        let outcome = started.unwrap().message;
        assert!(matches!(outcome, LauncherOutcome::Started { .. }), "{outcome:?}");
        let mut output = String::new();
        reader.read_to_string(&mut output).unwrap();
        loop {
            if let LauncherEvent::Exited { container, end } = self.client.event().unwrap().message
                && container == id
            {
                self.sweep(id);
                return (end.status.unwrap(), output);
            }
        }
    }

    fn sweep(&mut self, id: ContainerId) {
        let facts = self.path("run/containers").join(id.to_string());
        let sweep = plan_sweep(&SweepRequest { id, groups: &self.groups, network: None, facts: &facts });
        let path = self.path("sweep");
        std::fs::write(&path, sweep.encode()).unwrap();
        let file = std::fs::File::open(path).unwrap();
        self.client.call(LauncherRequest::Sweep { container: id }, &[file.as_fd()]).unwrap();
        assert!(!facts.exists());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.client.call(LauncherRequest::Shutdown(ShutdownWhen::Now), &[]).unwrap();
        for step in self.groups.remove_steps() {
            step.perform(None).unwrap();
        }
    }
}

fn directory(path: &Path) -> OwnedFd {
    std::fs::create_dir_all(path).unwrap();
    std::fs::File::open(path).unwrap().into()
}

fn rustix_is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").unwrap().lines().any(|line| line.starts_with("Uid:\t0\t"))
}

fn id(number: u128) -> ContainerId {
    format!("{number:08x}-0000-4000-8000-{:012x}", std::process::id()).parse().unwrap()
}

#[test]
fn live_a_container_runs_in_spaces_of_its_own() {
    let mut node = Node::start();
    let key = node.image();
    let (status, output) =
        node.run(&key, id(1), "id -u; hostname; cat /proc/self/uid_map /etc/resolv.conf; echo $$; exit 7");
    assert_eq!(status, ExitStatus::Exited(7), "{output}");
    let lines: Vec<String> = output.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines, ["0", "web", "0 268435456 65536", "nameserver 192.0.2.1", "2"]);
}

#[test]
fn live_places_are_writable_and_reset_the_root_is_not_and_data_stays() {
    let mut node = Node::start();
    let key = node.image();
    let script = "touch /etc/a /var/a /tmp/a /run/a /data/a /data/service/a && ! touch /a 2>/dev/null && ! touch /sw/a 2>/dev/null && echo done";
    let (status, output) = node.run(&key, id(2), script);
    assert_eq!((status, output.as_str()), (ExitStatus::Exited(0), "done\n"));
    let (_, output) = node.run(&key, id(3), "ls -d /etc/a /var/a /tmp/a /run/a /data/a 2>/dev/null");
    assert_eq!(output, "/data/a\n");
}
