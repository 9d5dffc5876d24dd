//! The launcher: the one privileged process with one thread that starts containers, and their parent.
//!
//! ```text
//!   daemon ── calls ──> launcher ── fork ──> worker: carries a plan out, reports, ends
//!          <─ events ──    │  ^                 │ clone3(CLONE_PARENT)
//!                          │  └── SIGCHLD ── container's process 1
//!                          ├── keeper (descriptors that must not close)
//!                          └── guest services (what faces containers, without any right)
//! ```
//!
//! One epoll loop; nothing slow happens in it: plans and sweeps are done by workers, a bounded number at a time. What
//! it learns goes into facts before anybody is told, so that a launcher that replaces a dead one, or a daemon that
//! was away, knows it too.

mod containers;
mod daemon;
mod guest;
mod images;
mod join;
mod joined;
mod keeper_link;
mod mirror;
mod prune;
mod requests;
mod respawn;
mod upgrade;
mod worker;

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use insula_kernel::signals::SignalFd;
use insula_plan::protocol::channel::{self, Channel, ConnectError};
use insula_plan::protocol::facts;
use insula_plan::protocol::launcher::{LauncherOutcome, OpId};
use insula_plan::protocol::run_dir::RunDir;
use insula_plan::protocol::status::ExitStatus;
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus};
use rustix::thread::UnshareFlags;

use crate::sealed::{self, SealError};
use containers::Containers;
use daemon::Daemon;
use guest::Guest;
use images::{ImageMounts, MountImageError};
use insula_kernel::poller::{Interest, Poller, Ready};
use joined::Joined;
use keeper_link::{KeeperLink, KeeperLinkError};
use requests::Waiting;
pub use upgrade::RESUME_ARGUMENT;
use upgrade::Resumed;
use worker::Workers;

/// Tokens of the fixed descriptors; what comes and goes is numbered above these.
const SIGNALS: u64 = 0;
const LISTENER: u64 = 1;
const DAEMON: u64 = 2;
const KEEPER: u64 = 3;
/// Workers: this and their number.
const FIRST_WORKER: u64 = 1 << 32;
/// Containers' status sockets: this and their number.
const FIRST_STATUS: u64 = 2 << 32;
/// Containers' pidfds, of those that are not our children: this and their number.
const FIRST_PIDFD: u64 = 3 << 32;
/// Connections and pidfds of joined processes: this and twice their number, and one more.
const FIRST_JOINED: u64 = 4 << 32;

/// How long after a signal of a child all children are looked at.
const LOOK_AFTER: Duration = Duration::from_millis(5);

/// How long nothing has to happen before a worker is made for the next start.
const QUIET: Duration = Duration::from_millis(2);

/// Where things are.
#[derive(Debug, Clone)]
pub struct LauncherConfig {
    /// The node's run directory.
    pub run_dir: PathBuf,
    /// Directory of `insula-init`, `insula-keeper` and `insula-guest`.
    pub programs: PathBuf,
}

/// The launcher could not begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// The kernel refused a call.
    #[error("{call}")]
    Kernel {
        /// Which.
        call: &'static str,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// The run directory cannot be used.
    #[error("make {}", path.display())]
    RunDir {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// Its socket.
    #[error("listen for the daemon")]
    Listen(#[source] ConnectError),
    /// Process 1's program.
    #[error("take the program of process 1")]
    Program(#[source] SealError),
    /// The keeper.
    #[error("reach the keeper")]
    Keeper(#[source] KeeperLinkError),
    /// Mounts that an earlier launcher left.
    #[error("find the mounted images")]
    Images(#[source] MountImageError),
}

/// Everything the launcher holds.
#[derive(Debug)]
pub(crate) struct Launcher {
    run: RunDir,
    poller: Poller,
    signals: SignalFd,
    listener: OwnedFd,
    /// Held by the one launcher of a run directory for as long as it lives.
    lock: OwnedFd,
    init_program: OwnedFd,
    daemon: Daemon,
    keeper: KeeperLink,
    guest: Guest,
    images: ImageMounts,
    containers: Containers,
    workers: Workers,
    joined: Joined,
    waiting: VecDeque<Waiting>,
    /// When all children are looked at: a signal tells of one, and may stand for several.
    look_at_children: Option<Instant>,
    /// By `SIGTERM`.
    asked_to_end: bool,
    ending: bool,
}

/// Whether the loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// It does.
    Go,
    /// The launcher ends.
    End,
}

impl Launcher {
    /// Prepares everything: a mount namespace, the keeper, the socket. Afterwards a daemon can connect.
    ///
    /// # Errors
    ///
    /// See [`BeginError`].
    pub(crate) fn begin(config: &LauncherConfig, resumed: Option<Resumed>) -> Result<Self, BeginError> {
        let kernel = |call| move |errno| BeginError::Kernel { call, errno };
        let run = RunDir::new(&config.run_dir);
        make_dir(&run.containers())?;
        // Every container holds descriptors here: without this some 200 of them are all there can be.
        insula_kernel::rlimit::allow_all_files().map_err(kernel("prlimit64(RLIMIT_NOFILE)"))?;
        let signals = SignalFd::block_all().map_err(kernel("signalfd"))?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(kernel("prctl(subreaper)"))?;
        let (lock, listener, taken_over) = match resumed {
            Some(Resumed { listener, lock, daemon, op }) => (lock, Some(listener), Some((daemon, op))),
            None => (take_lock(&run)?, None, None),
        };
        let keeper = reach_keeper(&run, &config.programs)?;
        let images = ImageMounts::adopt(run.path().join("images")).map_err(BeginError::Images)?;
        let init_program = sealed::program(&config.programs.join("insula-init")).map_err(BeginError::Program)?;
        let listener = match listener {
            Some(listener) => listener,
            None => channel::listen(&run.launcher_socket()).map_err(BeginError::Listen)?,
        };
        let poller = Poller::new().map_err(kernel("epoll_create1"))?;
        let add = |fd, token| poller.add(fd, token, Interest::Read).map_err(kernel("epoll_ctl"));
        add(signals.as_fd(), SIGNALS)?;
        add(listener.as_fd(), LISTENER)?;
        add(keeper.as_fd(), KEEPER)?;
        let containers = Containers::adopt(&run, &poller, &keeper);
        let joined = Joined::adopt(&keeper, &poller);
        // A fact that cannot be read was not written; the next daemon says anew what is wanted.
        let wanted = facts::read(&run.guest_fact()).ok().flatten();
        let guest = Guest::new((config.programs.join("insula-guest"), run.path().to_owned()), wanted, Instant::now());
        let mut launcher = Self {
            run,
            poller,
            signals,
            listener,
            lock,
            init_program,
            daemon: Daemon::default(),
            keeper,
            guest,
            images,
            containers,
            workers: Workers::default(),
            joined,
            waiting: VecDeque::new(),
            // Children of the program before may have ended unseen.
            look_at_children: Some(Instant::now()),
            asked_to_end: false,
            ending: false,
        };
        if let Some((daemon, op)) = taken_over {
            launcher.take_over(daemon, op);
        }
        Ok(launcher)
    }

    /// Goes on for the daemon of the program before.
    fn take_over(&mut self, daemon: Option<Channel>, op: OpId) {
        if let Some(daemon) = daemon {
            self.daemon.replace(daemon, &self.poller);
        }
        self.answer(self.daemon.asker(op), Ok(LauncherOutcome::Done));
    }

    /// The loop; returns when the launcher was told to end.
    ///
    /// # Errors
    ///
    /// The kernel does not report any more what is ready.
    pub(crate) fn run(mut self) -> Result<(), Errno> {
        let mut ready: Vec<Ready> = Vec::new();
        loop {
            let now = Instant::now();
            if self.look_at_children.take_if(|due| *due <= now).is_some() {
                self.reap_all();
            }
            self.start_keeper_if_due(now);
            self.guest.start_if_due(&self.keeper, now);
            let now = Instant::now();
            let quiet = self.workers.wants_spare().then_some(QUIET);
            let look = self.look_at_children.map(|due| due.saturating_duration_since(now));
            let pauses = [self.keeper.pause(now), self.guest.pause(now), look, quiet];
            self.poller.wait(pauses.into_iter().flatten().min(), &mut ready)?;
            if quiet.is_some() && ready.is_empty() {
                self.workers.make_spare();
            }
            for Ready { token } in std::mem::take(&mut ready) {
                if self.dispatch(token) == Flow::End {
                    return Ok(());
                }
            }
            if self.asked_to_end {
                // Containers go on, as after any other death of a launcher; without them nobody has anything to do.
                if self.containers.alive_count() == 0 {
                    self.end_others();
                }
                return Ok(());
            }
        }
    }

    fn dispatch(&mut self, token: u64) -> Flow {
        match token {
            SIGNALS => self.reap(),
            LISTENER => self.accept(),
            DAEMON => return self.daemon_ready(),
            KEEPER => self.keeper_ready(),
            FIRST_JOINED.. => self.joined_ready(token - FIRST_JOINED),
            FIRST_PIDFD.. => self.stranger_ended(token - FIRST_PIDFD),
            FIRST_STATUS.. => self.status_ready(token - FIRST_STATUS),
            FIRST_WORKER.. => self.worker_ready(token - FIRST_WORKER),
            _ => {}
        }
        Flow::Go
    }

    /// Takes the ended children that signals name.
    fn reap(&mut self) {
        while let Ok(Some(signal)) = self.signals.take() {
            if i32::from(signal.number) == rustix::process::Signal::TERM.as_raw() {
                self.asked_to_end = true;
                continue;
            }
            if let Ok(Some((pid, status))) = rustix::process::waitpid(signal.sender, WaitOptions::NOHANG) {
                self.child_ended(pid, status);
            }
            self.look_at_children.get_or_insert_with(|| Instant::now() + LOOK_AFTER);
        }
    }

    /// Takes every ended child: workers, containers, and what was re-parented to us. For each call the kernel looks at
    /// all children, which with many containers takes longer than anything else here.
    fn reap_all(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            self.child_ended(pid, status);
        }
    }

    fn child_ended(&mut self, pid: Pid, status: WaitStatus) {
        if self.workers.ended(pid) {
            // Its report, or the end of its socket, is read when the poller says so.
            return;
        }
        match self.containers.by_pid(pid) {
            Some(id) => self.container_ended(id, ExitStatus::from_wait(status)),
            None if self.joined_ended(pid, status) || self.guest.ended(pid, Instant::now()) => {}
            // Its worker's report may still be under way.
            None => self.containers.remember_end(pid, status),
        }
    }

    fn accept(&mut self) {
        while let Ok(Some(channel)) = channel::accept(self.listener.as_fd()) {
            let peer = insula_kernel::peer::peer_credentials(&channel);
            if !peer.is_ok_and(|peer| peer.uid.is_root()) {
                continue;
            }
            self.daemon.replace(channel, &self.poller);
        }
    }
}

/// One launcher per run directory: a second one would replace the first one's socket.
fn take_lock(run: &RunDir) -> Result<OwnedFd, BeginError> {
    use rustix::fs::{FlockOperation, Mode, OFlags};
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let path = run.path().join("launcher.lock");
    let lock = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
    let lock = lock.map_err(|errno| BeginError::Kernel { call: "open(launcher.lock)", errno })?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|errno| BeginError::Kernel { call: "lock launcher.lock: another launcher runs here", errno })?;
    Ok(lock)
}

/// The keeper that runs, in the mount namespace that it has stayed in and that holds the images' one mount each; or a
/// new one in a new mount namespace.
fn reach_keeper(run: &RunDir, programs: &Path) -> Result<KeeperLink, BeginError> {
    let kernel = |call| move |errno| BeginError::Kernel { call, errno };
    if let Some(mut keeper) = KeeperLink::find(run, programs).map_err(BeginError::Keeper)? {
        // First, because the mounts are those of the keeper's namespace.
        keeper.enter_mount_namespace().map_err(BeginError::Keeper)?;
        keeper.succeed_older().map_err(BeginError::Keeper)?;
        return Ok(keeper);
    }
    own_mount_namespace().map_err(kernel("unshare(mount)"))?;
    prune::prune(run.path());
    KeeperLink::start(run, programs).map_err(BeginError::Keeper)
}

/// A mount namespace of our own that takes what the host mounts and gives nothing back.
fn own_mount_namespace() -> Result<(), Errno> {
    use rustix::mount::{MountPropagationFlags, mount_change};
    insula_kernel::namespace::unshare(UnshareFlags::NEWNS)?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM)
}

pub(crate) fn make_dir(path: &Path) -> Result<(), BeginError> {
    std::fs::create_dir_all(path).map_err(|cause| BeginError::RunDir { path: path.to_owned(), cause })
}

/// Goes on in the place of another build of the launcher, in the same process. Returns when it was told to end.
///
/// # Errors
///
/// See [`BeginError`].
pub fn resume(config: &LauncherConfig, state: std::os::fd::RawFd) -> Result<(), BeginError> {
    let launcher = Launcher::begin(config, Some(Resumed::take(state)?))?;
    launcher.run().map_err(|errno| BeginError::Kernel { call: "epoll_wait", errno })
}

/// Begins and detaches: returns in the caller's process when a daemon can connect, and goes on in a new one.
///
/// # Errors
///
/// See [`BeginError`].
pub fn run(config: &LauncherConfig) -> Result<(), BeginError> {
    use insula_kernel::fork::{Fork, exit_now, fork};
    let kernel = |call| move |errno| BeginError::Kernel { call, errno };
    make_dir(&config.run_dir)?;
    let (ready, tell) = rustix::pipe::pipe().map_err(kernel("pipe"))?;
    if let Fork::Parent(_) = fork().map_err(kernel("fork"))? {
        drop(tell);
        let mut byte = [0];
        // The end without a byte: the other process said why on the error output they share.
        return match rustix::io::read(&ready, &mut byte).map_err(kernel("read"))? {
            1 => Ok(()),
            _ => Err(BeginError::Kernel { call: "begin", errno: Errno::CHILD }),
        };
    }
    drop(ready);
    rustix::process::setsid().map_err(kernel("setsid"))?;
    // A keeper that lives longer than the hosts' memory lasts holds what cannot be had again. Without the right to
    // lower it, it stays as it is; workers take it back for what they make.
    std::fs::write("/proc/self/oom_score_adj", "-900").unwrap_or_default();
    let launcher = Launcher::begin(config, None)?;
    rustix::io::write(&tell, b"r").map_err(kernel("write"))?;
    drop(tell);
    let ended = launcher.run();
    exit_now(u8::from(ended.is_err()))
}
