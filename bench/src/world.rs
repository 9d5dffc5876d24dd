//! A world for the peers: namespaces of their own around their newest packages, so that no bridge, rule, mount or
//! control group of theirs reaches the machine. Its end, also the benchmark's own, ends everything in it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::peers;
use crate::rounds::Contender;
use crate::stage::{self, Stage, StageError};

/// What the names of all worlds' groups begin with; the benchmark's process id and a number follow.
const GROUP: &str = "insula-peers";

/// Where the stage's folder is seen in a world.
pub(crate) const STAGE: &str = "/tmp/stage";

/// Hierarchies of version 1 that ours and the floor use.
const HIERARCHIES: [&str; 4] = ["memory", "pids", "cpu", "devices"];

/// Longest time that the groups of an ended world may stay busy.
const GONE_WITHIN: Duration = Duration::from_secs(20);

/// Which control groups a world sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Version 2 only, with the controllers that this machine leaves to it.
    Version2,
    /// What this machine has: version 2, or the hierarchies of version 1 that ours uses. A version 2 tree beside those
    /// stays hidden: crun refuses machines that have both.
    Machine,
}

/// The world could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorldError {
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error("make the peers' control group {}", .group.display())]
    Group {
        group: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("start the peers' world")]
    Start(#[source] std::io::Error),
    #[error("the peers' world ended before it was ready:\n{log}")]
    NotReady { log: String },
}

/// Running namespaces with the peers' packages as their root.
#[derive(Debug)]
pub(crate) struct World {
    holder: Child,
    init: u32,
    enter: PathBuf,
    inside: PathBuf,
    groups: Vec<PathBuf>,
    /// Keeps the engines' images, on disk as ours are.
    store: TempDir,
}

impl World {
    /// Makes the world; the stage's folder is [`STAGE`] in it, and `shown` are further folders with their names.
    pub(crate) fn make(stage: &Stage, layout: Layout, shown: &[(&Path, &str)]) -> Result<Self, WorldError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let root = peers::root()?;
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("world");
        let enter = stage.path("enter");
        stage::run(Command::new("cc").args(["-O2", "-o"]).arg(&enter).arg(source.join("enter.c")))?;
        let store = tempfile::Builder::new()
            .prefix("insula-bench-")
            .tempdir_in("/var/tmp")
            .map_err(|source| StageError::File { what: "make a folder for the peers' images", source })?;
        sweep();
        let name = format!("{GROUP}{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let groups = make_groups(layout, &name)?;
        let group = groups[0].clone();
        let log = stage.path(&format!("{name}.log"));
        let mut binds = vec![format!("{}:{STAGE}", stage.path("").display())];
        binds.extend(shown.iter().map(|(from, to)| format!("{}:{to}", from.display())));
        let spawned = spawn(&groups, &log, |command| {
            command.arg(source.join("hold.sh")).arg(&root).arg(seen(layout)).arg(&group).arg(store.path()).args(&binds);
        });
        let holder = match spawned {
            Ok(holder) => holder,
            Err(error) => {
                remove_groups(&groups);
                return Err(WorldError::Start(error));
            }
        };
        let mut world = Self { holder, init: 0, enter, inside: group.join("in"), groups, store };
        world.init = world.wait_until_ready(&log)?;
        Ok(world)
    }

    /// A command in the world.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(&self.enter);
        command.arg(self.init.to_string()).arg(&self.inside).arg(program);
        command.env("HOME", "/root").env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    /// What entering the world costs by itself.
    pub(crate) fn enter_only(&self) -> Contender<'_> {
        Contender { name: "enter the world", command: Box::new(|_| self.command("/bin/true")) }
    }

    fn wait_until_ready(&mut self, log: &Path) -> Result<u32, WorldError> {
        let mut ready = [0];
        let said = self.holder.stdout.as_mut().map(|output| output.read_exact(&mut ready));
        let pid = self.holder.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        match (said, children.trim().parse()) {
            (Some(Ok(())), Ok(init)) => Ok(init),
            _ => Err(WorldError::NotReady { log: std::fs::read_to_string(log).unwrap_or_default() }),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The end of its input ends process 1, and the kernel everything with it.
        drop(self.holder.stdin.take());
        self.holder.wait().map(drop).unwrap_or_default();
        remove_groups(&self.groups);
        // Engines make sub volumes and overlays there; all their mounts went with the world.
        if let Err(error) = std::fs::remove_dir_all(self.store.path()) {
            eprintln!("bench: {}: {error}", self.store.path().display());
        }
        std::fs::create_dir_all(self.store.path()).unwrap_or_default();
    }
}

/// What `hold.sh` is told about control groups.
fn seen(layout: Layout) -> String {
    if layout == Layout::Version2 || is_version2() { "v2".to_owned() } else { HIERARCHIES.join(" ") }
}

fn is_version2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// One group in each hierarchy that the world may use; the one of version 2 comes first.
fn make_groups(layout: Layout, name: &str) -> Result<Vec<PathBuf>, WorldError> {
    let at = Path::new("/sys/fs/cgroup");
    let mut parents = vec![if is_version2() { at.to_owned() } else { at.join("unified") }];
    if layout == Layout::Machine && !is_version2() {
        parents.extend(HIERARCHIES.map(|hierarchy| at.join(hierarchy)));
    }
    let mut groups = Vec::new();
    for parent in parents {
        let group = parent.join(name);
        match std::fs::create_dir(&group) {
            Ok(()) => groups.push(group),
            Err(source) => {
                remove_groups(&groups);
                return Err(WorldError::Group { group, source });
            }
        }
    }
    Ok(groups)
}

/// Removes groups of benchmarks that were killed. Their worlds ended with them.
fn sweep() {
    let at = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(at).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    for parent in hierarchies.chain([at.to_owned()]) {
        for entry in std::fs::read_dir(parent).into_iter().flatten().filter_map(Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name.strip_prefix(GROUP).and_then(|rest| rest.split('-').next());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                remove_empty(&entry.path());
            }
        }
    }
}

/// Starts process 1 in the groups, with all namespaces new but the user's; `arguments` names the script.
fn spawn(groups: &[PathBuf], log: &Path, arguments: impl FnOnce(&mut Command)) -> std::io::Result<Child> {
    // The control group namespace comes last: its root are the groups that process 1 is in by then.
    let enter: String = groups.iter().map(|group| format!("echo 0 > '{}/cgroup.procs' && ", group.display())).collect();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child"]);
    command.args(["sh", "-c", &format!("{enter}exec unshare --cgroup sh \"$@\""), "sh"]);
    arguments(&mut command);
    let log = std::fs::File::create(log)?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn()
}

/// Removes groups with all below them, as soon as the kernel has forgotten the processes.
fn remove_groups(groups: &[PathBuf]) {
    let begin = Instant::now();
    for group in groups {
        while group.exists() {
            remove_empty(group);
            if begin.elapsed() > GONE_WITHIN {
                eprintln!("bench: {} stays behind: something runs in it", group.display());
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn remove_empty(group: &Path) {
    let entries = std::fs::read_dir(group).into_iter().flatten().filter_map(Result::ok);
    for below in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_empty(&below.path());
    }
    // Busy ones are tried again.
    std::fs::remove_dir(group).unwrap_or_default();
}
