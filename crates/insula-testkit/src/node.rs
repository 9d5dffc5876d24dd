//! A node for one test.

use std::ffi::OsStr;
use std::fmt::Write;
use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::busybox::{BUSYBOX, archive, archive_with_init};
use crate::finished::{Finished, run_bounded, wait_bounded};
use crate::host::{Leftovers, Owned};
use crate::programs::{program, require_root};
use crate::report::ProbeReport;
use crate::{PATIENCE, eventually};

/// Longest that the node's other programs may take to end after the daemon.
const END_WAIT: Duration = Duration::from_secs(10);

/// Lines of the daemon's log that a failed test shows.
const LOG_LINES_SHOWN: usize = 60;

/// How a node differs from an ordinary one.
#[derive(Debug, Clone, Default)]
pub struct NodeOptions {
    /// Lines of its configuration file (TOML).
    pub config: String,
}

/// A daemon with a name and directories of its own. Ends with everything it has when dropped, and fails the test if
/// something of it is left on the host.
#[derive(Debug)]
pub struct Node {
    owned: Owned,
    daemon: Option<Child>,
    /// Where the daemon says that it is ready, and that it ends.
    notify: UnixDatagram,
}

impl Node {
    /// Starts a node and waits until it is ready.
    ///
    /// # Panics
    ///
    /// Not root, programs not built, or the daemon did not become ready.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&NodeOptions::default())
    }

    /// Starts a node with `options` and waits until it is ready.
    ///
    /// # Panics
    ///
    /// As for [`start`](Self::start).
    #[must_use]
    pub fn start_with(options: &NodeOptions) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        require_root();
        let name = format!("insulat{}n{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = PathBuf::from("/tmp").join(&name);
        std::fs::create_dir(&directory).unwrap();
        let notify = UnixDatagram::bind(directory.join("notify.sock")).unwrap();
        notify.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut node = Self { owned: Owned { name, directory }, daemon: None, notify };
        node.configure(options);
        node.start_daemon();
        node
    }

    /// Writes its configuration, for the next start of its daemon.
    ///
    /// # Panics
    ///
    /// The file cannot be written.
    pub fn configure(&self, options: &NodeOptions) {
        let config = format!("log = \"debug\"\n{}", options.config);
        std::fs::write(self.owned.directory.join("node.toml"), config).unwrap();
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.owned.name
    }

    /// A directory for the test's own files; removed with the node.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.owned.directory
    }

    /// Where it keeps what survives a reboot.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.owned.directory.join("state")
    }

    /// Where it keeps sockets and facts.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.owned.directory.join("run")
    }

    /// Where its API is.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("insula.sock")
    }

    /// Starts the daemon (again) and waits until it is ready.
    ///
    /// # Panics
    ///
    /// It runs already, or did not become ready.
    pub fn start_daemon(&mut self) {
        assert!(self.daemon.is_none(), "the daemon runs already");
        // What an earlier daemon said is of no meaning for the next.
        self.notify.set_nonblocking(true).unwrap();
        while self.notify.recv(&mut [0; 16]).is_ok() {}
        self.notify.set_nonblocking(false).unwrap();
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let child = Command::new(program("insula"))
            .args(["node", "run", "--name", self.name(), "--config"])
            .arg(self.owned.directory.join("node.toml"))
            .arg("--state-dir")
            .arg(self.state_dir())
            .arg("--run-dir")
            .arg(self.run_dir())
            .arg("--socket")
            .arg(self.socket())
            .env("NOTIFY_SOCKET", self.owned.directory.join("notify.sock"))
            .env_remove("INSULA_SOCKET")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemon = Some(child);
        let deadline = Instant::now() + PATIENCE;
        let mut message = [0; 4096];
        loop {
            match self.notify.recv(&mut message) {
                Ok(length) if message[..length].windows(7).any(|words| words == b"READY=1") => return,
                _ => {}
            }
            let ended = self.daemon.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the daemon ended ({ended:?}) before it was ready\n{}", self.log_tail());
            assert!(Instant::now() < deadline, "the daemon did not become ready\n{}", self.log_tail());
        }
    }

    /// Process id of the daemon.
    ///
    /// # Panics
    ///
    /// It does not run.
    #[must_use]
    pub fn daemon_pid(&self) -> Pid {
        Pid::from_child(self.daemon.as_ref().unwrap())
    }

    /// Whether the daemon was started and not killed since.
    #[must_use]
    pub fn has_daemon(&self) -> bool {
        self.daemon.is_some()
    }

    /// Kills the daemon without a word.
    ///
    /// # Panics
    ///
    /// It does not run.
    pub fn kill_daemon(&mut self) {
        let mut child = self.daemon.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks the daemon to end, and waits for it.
    ///
    /// # Panics
    ///
    /// It does not run, or did not end.
    pub fn stop_daemon(&mut self) {
        let mut child = self.daemon.take().unwrap();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let ended = wait_bounded(&mut child, PATIENCE);
        if !ended {
            child.kill().unwrap();
        }
        child.wait().unwrap();
        assert!(ended, "the daemon did not end on SIGTERM\n{}", self.log_tail());
    }

    /// What there is of it once all its programs run: the name service starts after the daemon is ready.
    ///
    /// # Panics
    ///
    /// The name service does not start, as where the configuration turns it off.
    #[must_use]
    pub fn at_rest(&self) -> Leftovers {
        eventually("the node's programs run", || self.servant("insula-guest"));
        self.on_host()
    }

    /// Elements of all sets and maps of its packet filter table: addresses and ports of containers, names of links.
    ///
    /// # Panics
    ///
    /// `nft` cannot be run.
    pub fn table_elements(&self) -> usize {
        let Some((family, name)) = self.on_host().tables.into_iter().next() else { return 0 };
        let listed = Command::new("nft").args(["list", "table", &family, &name]).output().unwrap();
        let text = String::from_utf8_lossy(&listed.stdout);
        let lists = text.split("elements = {").skip(1).filter_map(|rest| rest.split('}').next());
        lists.map(|list| list.split(',').count()).sum()
    }

    /// Process id of one of the node's other programs (`insula-launcher`, `insula-keeper`, `insula-guest`), if it runs.
    #[must_use]
    pub fn servant(&self, program: &str) -> Option<Pid> {
        let found = Leftovers::of(&self.owned).processes;
        let is = |command: &str| {
            let first = command.split(' ').next().unwrap_or_default();
            Path::new(first).file_name() == Some(OsStr::new(program))
        };
        found.iter().find(|(_, command)| is(command)).and_then(|(pid, _)| Pid::from_raw(*pid))
    }

    /// `insula` for this node, not started yet.
    #[must_use]
    pub fn insula<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Command {
        let mut command = Command::new(program("insula"));
        command.env("INSULA_SOCKET", self.socket()).args(words);
        command
    }

    /// Runs `insula` to its end.
    ///
    /// # Panics
    ///
    /// It took longer than [`PATIENCE`].
    #[track_caller]
    pub fn run<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Finished {
        self.run_with_input(words, b"")
    }

    /// Runs `insula` with `input` to its end.
    ///
    /// # Panics
    ///
    /// It took longer than [`PATIENCE`].
    #[track_caller]
    pub fn run_with_input<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>, input: &[u8]) -> Finished {
        run_bounded(self.insula(words), input, PATIENCE)
    }

    /// Runs `insula`, which must succeed.
    ///
    /// # Panics
    ///
    /// It failed or took too long.
    #[track_caller]
    pub fn ok<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Finished {
        self.run(words).ok()
    }

    /// Runs `insula`, which must end with `code`, and returns what it said on standard error.
    ///
    /// # Panics
    ///
    /// It ended otherwise or took too long.
    #[track_caller]
    pub fn fails<W: AsRef<OsStr>>(&self, code: i32, words: impl IntoIterator<Item = W>) -> String {
        self.run(words).with_code(code).stderr
    }

    /// Runs `insula --format json`, which must succeed, and returns what it printed.
    ///
    /// # Panics
    ///
    /// It failed, took too long, or printed no JSON.
    #[track_caller]
    pub fn json<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Value {
        let mut command = self.insula(["--format", "json"]);
        command.args(words);
        run_bounded(command, b"", PATIENCE).ok().json()
    }

    /// Everything about a container.
    ///
    /// # Panics
    ///
    /// There is none of that name.
    #[track_caller]
    #[must_use]
    pub fn show(&self, container: &str) -> Value {
        self.json(["show", container])
    }

    /// Waits until a container is in `state`.
    ///
    /// # Panics
    ///
    /// It was not within [`PATIENCE`].
    #[track_caller]
    pub fn wait_for_state(&self, container: &str, state: &str) {
        eventually(&format!("{container} is {state}"), || (self.show(container)["state"] == state).then_some(()));
    }

    /// Imports the small image of tests, `busybox@1`.
    ///
    /// # Panics
    ///
    /// The import failed.
    pub fn import_busybox(&self) {
        let path = self.owned.directory.join("busybox.tar");
        if !path.exists() {
            std::fs::write(&path, archive()).unwrap();
        }
        let _ = self.ok([OsStr::new("image"), OsStr::new("import"), OsStr::new(BUSYBOX), path.as_os_str()]);
    }

    /// Imports `system@1`: the small image with an init of its own, which is this shell script.
    ///
    /// # Panics
    ///
    /// The import failed.
    pub fn import_system(&self, init: &str) {
        let path = self.owned.directory.join("system.tar");
        std::fs::write(&path, archive_with_init(init)).unwrap();
        let _ = self.ok([OsStr::new("image"), OsStr::new("import"), OsStr::new("system@1"), path.as_os_str()]);
    }

    /// What the probe sees in a running container.
    ///
    /// # Panics
    ///
    /// The container does not run or has no probe.
    #[track_caller]
    #[must_use]
    pub fn probe(&self, container: &str) -> ProbeReport {
        let finished = self.ok(["exec", container, "/bin/insula-probe"]);
        serde_json::from_str(&finished.stdout).unwrap()
    }

    /// What the probe sees in a container that is made for it.
    ///
    /// # Panics
    ///
    /// The container did not run.
    #[track_caller]
    #[must_use]
    pub fn probe_run(&self, options: &[&str]) -> ProbeReport {
        let finished = self.ok([&["run", "--rm"], options, &["busybox", "/bin/insula-probe"]].concat());
        serde_json::from_str(&finished.stdout).unwrap()
    }

    /// What is there of this node now.
    #[must_use]
    pub fn on_host(&self) -> Leftovers {
        Leftovers::of(&self.owned)
    }

    fn log_path(&self) -> PathBuf {
        self.owned.directory.join("daemon.log")
    }

    /// The last lines of the daemon's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let mut tail = String::from("--- end of the daemon's log\n");
        for line in &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
            writeln!(tail, "{line}").unwrap();
        }
        tail
    }

    /// Ends the node in order, as far as it goes.
    fn end_in_order(&mut self) {
        let Some(child) = &mut self.daemon else { return };
        if child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        let mut list = self.insula(["list", "--quiet"]);
        list.stdin(Stdio::null()).stderr(Stdio::null());
        let names =
            list.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        if !names.is_empty() {
            let mut delete = self.insula(["delete", "--force"]);
            delete.args(names.lines()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            if let Ok(mut deleting) = delete.spawn() {
                wait_bounded(&mut deleting, PATIENCE);
                let _ = deleting.kill();
                let _ = deleting.wait();
            }
        }
        if let Some(mut child) = self.daemon.take() {
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
            wait_bounded(&mut child, END_WAIT);
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Removes a directory with everything in it. Image files are marked immutable, which holds for root too.
fn remove_tree(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            remove_tree(&entry.path());
        } else if kind.is_file() && std::fs::remove_file(entry.path()).is_err() {
            make_mutable(&entry.path());
        }
    }
    // What stays is seen as a directory of that name; there is nobody to tell in a drop.
    let _ = std::fs::remove_dir_all(directory);
}

fn make_mutable(path: &Path) {
    let Ok(file) = File::open(path) else { return };
    if let Ok(flags) = ioctl_getflags(&file) {
        let _ = ioctl_setflags(&file, flags - IFlags::IMMUTABLE);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let in_order = self.daemon.is_some();
        let failing = std::thread::panicking();
        if failing {
            eprintln!("{}", self.log_tail());
        }
        self.end_in_order();
        if let Some(mut child) = self.daemon.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let deadline = Instant::now() + END_WAIT;
        let mut left = self.on_host();
        while in_order && !left.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
            left = self.on_host();
        }
        let log = self.log_tail();
        // What is killed gives other things free, and a parent may start another before its turn.
        for _ in 0..20 {
            let now = self.on_host();
            if now.is_empty() {
                break;
            }
            now.remove();
        }
        remove_tree(&self.owned.directory);
        assert!(failing || !in_order || left.is_empty(), "the node left on the host:\n{left}{log}");
    }
}
