//! What every benchmark stands on: a node of its own with one small image, the floor program, the image mounted for it.
//!
//! All but the node's state, which has to be on disk, lives in a folder in memory; both are removed at the end.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Names a folder with other programs than those of `make build`.
const PROGRAMS: &str = "INSULA_PROGRAMS";

/// A program of the image that sleeps for as many seconds as it is told and is linked to the C library.
pub(crate) const IDLER: &str = "idler";

/// Longest time that the daemon may take to answer.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// Looks at the processes, of which the least counts, and the pause before each.
const LOOKS: u32 = 10;
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Setting the stage failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StageError {
    /// A helper program failed.
    #[error("{program}: {outcome}")]
    Helper { program: String, outcome: String },
    /// The programs under test were not built.
    #[error("{} is missing; run make build", .0.display())]
    NotBuilt(PathBuf),
    /// The daemon does not answer.
    #[error("the node did not answer within {READY_WITHIN:?}; its log:\n{log}")]
    NotReady { log: String },
    /// A file could not be made.
    #[error("{what}")]
    File {
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
}

/// A running node with the image `bench@1`, and the floor program with the same image mounted.
#[derive(Debug)]
pub(crate) struct Stage {
    folder: TempDir,
    state: TempDir,
    programs: PathBuf,
    daemon: Child,
}

impl Stage {
    /// Compiles the floor program, makes the image, starts the node.
    pub(crate) fn set() -> Result<Self, Box<dyn std::error::Error>> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default();
        let programs = programs(&root)?;
        let folder = tempfile::Builder::new().prefix("insula-bench-").tempdir_in("/dev/shm")?;
        // The kernel mounts images from files of a file system on disk.
        let state = tempfile::Builder::new().prefix("insula-bench-").tempdir_in("/var/tmp")?;
        let at = |name: &str| folder.path().join(name);
        run(Command::new("cc").args(["-O2", "-o"]).arg(at("floor")).arg(root.join("bench/floor/floor.c")))?;
        make_root(&at("root"))?;
        run(Command::new("tar")
            .arg("--create")
            .arg("--file")
            .arg(at("root.tar"))
            .arg("--directory")
            .arg(at("root"))
            .arg("."))?;
        run(Command::new("mkfs.erofs").arg("--quiet").arg(at("floor.erofs")).arg(at("root")))?;
        std::fs::create_dir(at("image"))?;
        run(Command::new("mount").args(["-t", "erofs", "-o", "loop,ro"]).arg(at("floor.erofs")).arg(at("image")))?;
        for hierarchy in cgroup_hierarchies() {
            std::fs::create_dir_all(hierarchy.join("insula.slice/floor"))?;
        }
        let log = std::fs::File::create(at("node.log"))?;
        let daemon = Command::new(programs.join("insula"))
            .args(["node", "run", "--name", &node_name()])
            .arg("--state-dir")
            .arg(state.path())
            .arg("--run-dir")
            .arg(at("run"))
            .env("INSULA_SOCKET", at("run/insula.sock"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let stage = Self { folder, state, programs, daemon };
        stage.wait_until_ready()?;
        stage.import("bench@1", &stage.path("root.tar"))?;
        Ok(stage)
    }

    /// A path in the stage's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Part of the path of every control group of the node's containers, and of no other node's.
    pub(crate) fn groups(&self) -> String {
        format!("/insula.slice/{}/", node_name())
    }

    /// The node's state, which is on disk.
    pub(crate) fn state(&self) -> &Path {
        self.state.path()
    }

    /// The client, talking to the stage's node.
    pub(crate) fn insula(&self) -> Command {
        let mut command = Command::new(self.programs.join("insula"));
        command.env("INSULA_SOCKET", self.path("run/insula.sock"));
        command
    }

    /// The folder of the programs under test.
    pub(crate) fn programs(&self) -> &Path {
        &self.programs
    }

    /// How many processes of ours there are when nothing is under way: the node's, and process 1 of each of its
    /// containers. A worker may still sweep what has ended, for some grace periods of the kernel's.
    pub(crate) fn processes(&self) -> usize {
        let looks = (0..LOOKS).map(|_| {
            std::thread::sleep(LOOK_PAUSE);
            self.processes_now()
        });
        looks.min().unwrap_or_default()
    }

    fn processes_now(&self) -> usize {
        let groups = self.groups();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
        let is_ours = |process: &std::fs::DirEntry| {
            // Processes that end meanwhile, and what is no process, are nobody's.
            let Ok(exe) = std::fs::read_link(process.path().join("exe")) else { return false };
            let is_init = exe.to_string_lossy().starts_with("/memfd:insula");
            let is_inside =
                || std::fs::read_to_string(process.path().join("cgroup")).is_ok_and(|file| file.contains(&groups));
            exe.starts_with(&self.programs) || is_init && is_inside()
        };
        processes.filter(is_ours).count()
    }

    /// Imports a tar archive.
    pub(crate) fn import(&self, image: &str, tar: &Path) -> Result<(), StageError> {
        run(self.insula().args(["image", "import", image]).arg(tar))
    }

    /// The floor program.
    pub(crate) fn floor(&self) -> Command {
        Command::new(self.path("floor"))
    }

    /// Runs a command of the client's to its end and gives its output.
    pub(crate) fn insula_output(&self, arguments: &[&str]) -> Result<String, StageError> {
        let mut command = self.insula();
        command.args(arguments);
        let failed =
            |outcome: String| StageError::Helper { program: format!("insula {}", arguments.join(" ")), outcome };
        let output = command.output().map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()))
        }
    }

    fn wait_until_ready(&self) -> Result<(), StageError> {
        let begin = Instant::now();
        while begin.elapsed() < READY_WITHIN {
            let answered = self.insula().arg("list").stdout(Stdio::null()).stderr(Stdio::null()).status();
            if answered.is_ok_and(|status| status.success()) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(StageError::NotReady { log: std::fs::read_to_string(self.path("node.log")).unwrap_or_default() })
    }
}

impl Stage {
    /// Ends the launcher and the keeper of a daemon that did not end by itself: they outlive it on purpose.
    fn end_helpers(&self) {
        let run = self.path("run");
        for entry in std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok) {
            let (pid, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
            let arguments = std::fs::read(path.join("cmdline")).unwrap_or_default();
            let is_launcher = arguments.split(|byte| *byte == 0).nth(1) == Some(run.as_os_str().as_encoded_bytes());
            if is_launcher {
                let children = std::fs::read_to_string(path.join(format!("task/{pid}/children"))).unwrap_or_default();
                let all = children.split_whitespace().chain([pid.as_str()]);
                Command::new("kill").arg("-KILL").args(all).status().map(drop).unwrap_or_default();
            }
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A benchmark that failed may have left containers; without them the node's helpers end too.
        let left = self.insula_output(&["list", "--quiet"]).unwrap_or_default();
        for name in left.lines() {
            self.insula_output(&["delete", "--force", name]).map(drop).unwrap_or_default();
        }
        let end = Command::new("kill").args(["-TERM", &self.daemon.id().to_string()]).status();
        let waited = self.daemon.wait();
        if !waited.as_ref().is_ok_and(std::process::ExitStatus::success) {
            self.end_helpers();
        }
        let unmounted = Command::new("umount").arg(self.path("image")).status();
        for hierarchy in cgroup_hierarchies() {
            for cgroup in ["insula.slice/floor", "insula.slice"] {
                // Other benchmarks and other nodes may still have their own below.
                std::fs::remove_dir(hierarchy.join(cgroup)).unwrap_or_default();
            }
        }
        // Images are immutable; without this their folder stays.
        let released = Command::new("chattr").args(["-R", "-f", "-i"]).arg(self.state.path()).status();
        if end.is_err() || waited.is_err() || unmounted.is_err() || released.is_err() {
            eprintln!("bench: something is left behind; run make clean-host");
        }
    }
}

/// Several nodes can run side by side; this one has a name that no other has.
fn node_name() -> String {
    format!("bench{}", std::process::id())
}

/// Folder of the programs under test: the one that is named, this program's own, or the one that `make build` fills.
fn programs(root: &Path) -> Result<PathBuf, StageError> {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    let folders = [std::env::var_os(PROGRAMS).map(PathBuf::from), beside, Some(root.join("target/release"))];
    let found = folders.into_iter().flatten().find(|folder| folder.join("insula").exists());
    let found = found.ok_or_else(|| StageError::NotBuilt(root.join("target/release/insula")))?;
    found.canonicalize().map_err(|source| StageError::File { what: "find the programs under test", source })
}

/// Mounts of the hierarchies that the floor program uses.
fn cgroup_hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    ["memory", "pids", "cpu", "devices", "unified"].map(|name| root.join(name)).to_vec()
}

/// Copies a program of this machine into `root` as `bin/NAME`, with the libraries that it is linked to.
fn copy_with_libraries(program: &Path, root: &Path, name: &str) -> Result<(), StageError> {
    let file = |source| StageError::File { what: "copy a program and its libraries into the image", source };
    std::fs::copy(program, root.join("bin").join(name)).map_err(file)?;
    let listed = Command::new("ldd").arg(program).output().map_err(file)?;
    for library in String::from_utf8_lossy(&listed.stdout).split_whitespace().filter_map(|word| word.strip_prefix('/'))
    {
        let at = root.join(library);
        std::fs::create_dir_all(at.parent().unwrap_or(root)).map_err(file)?;
        std::fs::copy(Path::new("/").join(library), at).map_err(file)?;
    }
    Ok(())
}

/// A root of busybox, under the names that the benchmarks call, and of [`IDLER`].
fn make_root(root: &Path) -> Result<(), StageError> {
    let file = |source| StageError::File { what: "make the root of the image", source };
    for folder in ["bin", "etc", "var", "home", "root", "tmp", "run", "data", "sw", "dev", "proc", "sys"] {
        std::fs::create_dir_all(root.join(folder)).map_err(file)?;
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).map_err(file)?;
    for name in ["true", "sh", "sleep", "cat", "id"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).map_err(file)?;
    }
    copy_with_libraries(Path::new("/bin/sleep"), root, IDLER)?;
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").map_err(file)?;
    std::fs::write(root.join("etc/group"), "root:x:0:\n").map_err(file)
}

/// Runs a helper to its end.
pub(crate) fn run(command: &mut Command) -> Result<(), StageError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |outcome: String| StageError::Helper { program: program.clone(), outcome };
    let output = command.output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() { Ok(()) } else { Err(failed(String::from_utf8_lossy(&output.stderr).into_owned())) }
}
