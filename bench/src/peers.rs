//! Peers, set up by the benchmark itself from the distribution's packages.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::rounds::Contender;
use crate::stage::{self, Stage};

/// Program and the package that brings it.
fn ensure(program: &str, package: &str) -> Result<(), stage::StageError> {
    let found =
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|at| at.join(program).exists()));
    if found {
        Ok(())
    } else {
        stage::run(Command::new("apt-get").args(["install", "--yes", "--quiet", "--no-install-recommends", package]))
    }
}

/// A bundle as the field makes it: 14 capabilities, no_new_privs, all namespaces with a user namespace, no terminal.
pub(crate) fn crun_bundle(stage: &Stage) -> Result<PathBuf, Box<dyn std::error::Error>> {
    ensure("crun", "crun")?;
    let bundle = stage.path("bundle");
    std::fs::create_dir_all(&bundle)?;
    stage::run(Command::new("crun").arg("spec").current_dir(&bundle))?;
    let file = bundle.join("config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["/bin/true"]);
    config["root"] = json!({ "path": stage.path("image"), "readonly": true });
    config["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": 5_000_000, "size": 65_536 }]);
    config["linux"]["gidMappings"] = config["linux"]["uidMappings"].clone();
    // Its device program wants more locked memory than a daemon's child may have.
    if let Some(resources) = config["linux"]["resources"].as_object_mut() {
        resources.remove("devices");
    }
    if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "user");
        namespaces.push(json!({ "type": "user" }));
    }
    std::fs::write(&file, config.to_string())?;
    Ok(bundle)
}

/// A mount namespace with nothing but version 2 of control groups: Debian's crun refuses hybrid machines.
pub(crate) struct GroupsWorld {
    holder: Child,
}

impl GroupsWorld {
    /// Makes the namespace.
    pub(crate) fn make() -> Result<Self, Box<dyn std::error::Error>> {
        let script = "mount -t cgroup2 none /sys/fs/cgroup && echo ready && read end";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn()?;
        let mut ready = [0];
        if let Some(output) = &mut holder.stdout {
            output.read_exact(&mut ready)?;
        }
        Ok(Self { holder })
    }

    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id()));
        command
    }

    /// What entering costs by itself.
    pub(crate) fn enter_only(&self) -> Contender<'_> {
        let command = Box::new(|_| {
            let mut command = self.enter();
            command.arg("true");
            command
        });
        Contender { name: "nsenter true", command }
    }

    /// `crun run` of the bundle in there. It makes an empty network namespace and no device rules, so it does less
    /// than ours.
    pub(crate) fn crun_run<'a>(&'a self, bundle: &'a Path) -> Contender<'a> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let command = Box::new(move |_| {
            let name = format!("insula-bench-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
            let mut command = self.enter();
            command.args(["crun", "--cgroup-manager=cgroupfs", "run", "--bundle"]).arg(bundle).arg(name);
            command
        });
        Contender { name: "crun run", command }
    }
}

impl Drop for GroupsWorld {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        // The end of its input ends it.
        self.holder.wait().map(drop).unwrap_or_default();
    }
}

/// The newest `mkfs.erofs`, unpacked into a folder of its own.
pub(crate) struct Packer {
    root: PathBuf,
    folder: PathBuf,
}

impl Packer {
    /// The command that packs `tar`, a file of the packer's folder, into `image` beside it.
    pub(crate) fn pack(&self, image: &Path, tar: &Path) -> Command {
        let name = |path: &Path| self.folder.join(path.file_name().unwrap_or_default());
        let mut command = Command::new(self.root.join(LOADER));
        command.arg("--library-path").arg(self.root.join("usr/lib/x86_64-linux-gnu"));
        command.arg(self.root.join("usr/bin/mkfs.erofs")).args(["--quiet", "--tar=f"]).arg(name(image)).arg(name(tar));
        command
    }
}

/// The unpacked distribution's own loader.
const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";

/// Unpacks the distribution's newest packer below `folder`; takes some 20 seconds.
pub(crate) fn newest_erofs(folder: &Path) -> Result<Packer, Box<dyn std::error::Error>> {
    ensure("mmdebstrap", "mmdebstrap")?;
    let root = folder.join("sid");
    let targets = Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]).output()?;
    let targets = String::from_utf8_lossy(&targets.stdout).into_owned();
    let mirror = targets.lines().find(|line| line.ends_with("/debian/")).ok_or(stage::StageError::Helper {
        program: "apt-get indextargets".to_owned(),
        outcome: "this machine knows no mirror of Debian".to_owned(),
    })?;
    let mut unpack = Command::new("mmdebstrap");
    unpack.args(["--quiet", "--aptopt=Acquire::Check-Valid-Until \"false\"", "--variant=extract", "--components=main"]);
    stage::run(unpack.args(["--include=erofs-utils", "sid"]).arg(&root).arg(mirror))?;
    Ok(Packer { root, folder: folder.to_owned() })
}
