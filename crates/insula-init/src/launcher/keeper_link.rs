//! The launcher's side of the keeper: started once, found again, replaced when it dies.
//!
//! Each holds the other's descriptors. What passes through here on its way to the keeper is duplicated into a mirror,
//! and a keeper that takes a dead one's place is given the mirror; a launcher that takes a dead one's place fills its
//! mirror from the keeper's `Export`.

use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use insula_kernel::fork::{Fork, exit_now, fork};
use insula_kernel::{execute, fd_table};
use insula_plan::protocol::channel::{self, Channel, ConnectError, ReceiveError, Received, SendError, Wait};
use insula_plan::protocol::keeper::{FdName, KeeperAnswer, KeeperCall, KeeperMessage, KeeperRequest};
use insula_plan::protocol::launcher::WAITING_MAX;
use insula_plan::protocol::run_dir::RunDir;
use insula_plan::protocol::{ContainerId, PROTOCOL_VERSION, can_succeed};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::daemon::Asker;
use super::mirror::Mirror;
use super::respawn::Respawn;

/// The keeper is not there as it should be.
#[derive(Debug, thiserror::Error)]
pub enum KeeperLinkError {
    /// Its socket could not be made or reached.
    #[error("the keeper's socket")]
    Socket(#[source] ConnectError),
    /// It was not told.
    #[error("tell the keeper")]
    Send(#[source] SendError),
    /// It did not answer.
    #[error("hear from the keeper")]
    Receive(#[source] ReceiveError),
    /// It answered something else.
    #[error("the keeper did not welcome us")]
    NotWelcome,
    /// It is of a build that this one does not know.
    #[error("the keeper speaks version {theirs} of the protocol, not {PROTOCOL_VERSION}; start the newer build")]
    Version {
        /// What it speaks.
        theirs: u16,
    },
    /// The kernel refused a call.
    #[error("{call}")]
    Kernel {
        /// Which.
        call: &'static str,
        /// Why.
        #[source]
        errno: Errno,
    },
}

/// Calls that the keeper has not answered, at most; further ones wait here. Their answers fit into the connection, so a
/// launcher that has much to say before it listens (a container of 256 joined processes ends) is not hung up on.
const ASKED_MAX: usize = 64;

/// A call that the keeper has not answered yet.
#[derive(Debug)]
struct Pending {
    /// Who asked; `None` for what the launcher itself keeps.
    asker: Option<Asker>,
    request: KeeperRequest,
    fds: Vec<OwnedFd>,
}

/// The connection and the mirror.
#[derive(Debug)]
pub(crate) struct KeeperLink {
    channel: Channel,
    /// Its process, once it has said which it is.
    process: Option<OwnedFd>,
    /// What it speaks.
    version: u16,
    program: PathBuf,
    socket: PathBuf,
    mirror: Mirror,
    pending: HashMap<u64, Pending>,
    /// Calls that wait for answers to others, or for the next keeper.
    held: VecDeque<Pending>,
    respawn: Respawn,
    /// What it said while an answer was waited for.
    said: VecDeque<KeeperMessage>,
    last_number: u64,
}

/// Something the keeper said.
#[derive(Debug)]
pub(crate) enum Heard {
    /// To whom this answer goes, with its descriptors.
    Answer(Asker, KeeperAnswer, Vec<OwnedFd>),
    /// A log ended.
    Drained(ContainerId),
    /// Nothing for anybody.
    Nothing,
}

impl KeeperLink {
    /// A keeper that runs already, with everything it keeps; `None` when nobody listens.
    ///
    /// # Errors
    ///
    /// One is there, but does not speak as it should. A second one beside it would read from the same pipes.
    pub(crate) fn find(run: &RunDir, programs: &Path) -> Result<Option<Self>, KeeperLinkError> {
        let socket = run.keeper_socket();
        let Ok(channel) = Channel::connect(&socket) else { return Ok(None) };
        let mut link = Self::welcome(channel, programs.join("insula-keeper"), socket)?;
        link.import()?;
        Ok(Some(link))
    }

    /// A new keeper.
    pub(crate) fn start(run: &RunDir, programs: &Path) -> Result<Self, KeeperLinkError> {
        let (program, socket) = (programs.join("insula-keeper"), run.keeper_socket());
        spawn(&program, &socket)?;
        let channel = Channel::connect(&socket).map_err(KeeperLinkError::Socket)?;
        Self::welcome(channel, program, socket)
    }

    fn welcome(channel: Channel, program: PathBuf, socket: PathBuf) -> Result<Self, KeeperLinkError> {
        let pending = HashMap::new();
        let mirror = Mirror::default();
        let (held, said) = (VecDeque::new(), VecDeque::new());
        let mut respawn = Respawn::default();
        respawn.began(Instant::now());
        let mut link = Self {
            channel,
            process: None,
            version: PROTOCOL_VERSION,
            program,
            socket,
            mirror,
            pending,
            held,
            respawn,
            said,
            last_number: 0,
        };
        link.greet()?;
        Ok(link)
    }

    fn greet(&mut self) -> Result<(), KeeperLinkError> {
        self.version = PROTOCOL_VERSION;
        loop {
            let answer = self.ask(KeeperRequest::Hello { version: self.version }, &[])?.message;
            let KeeperAnswer::Welcome { version, pid } = answer else { return Err(KeeperLinkError::NotWelcome) };
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(KeeperLinkError::NotWelcome)?;
            let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
                .map_err(|errno| KeeperLinkError::Kernel { call: "pidfd_open(keeper)", errno })?;
            self.process = Some(pidfd);
            if version == self.version {
                return Ok(());
            }
            // One of an older build is asked, in its own words, for what it holds, and then replaced.
            if self.version != PROTOCOL_VERSION || !can_succeed(version) {
                return Err(KeeperLinkError::Version { theirs: version });
            }
            self.version = version;
        }
    }

    /// Puts a keeper of this build in the place of an older one. To be called when what it holds was imported.
    ///
    /// # Errors
    ///
    /// The new one did not begin.
    pub(crate) fn succeed_older(&mut self) -> Result<(), KeeperLinkError> {
        if self.version == PROTOCOL_VERSION {
            return Ok(());
        }
        self.kill();
        while self.channel.receive::<KeeperMessage>(Wait::Forever).is_ok() {}
        self.replace()
    }

    /// Asks and waits for the answer: only while the launcher begins or replaces a keeper. One call at a time, because
    /// the keeper hangs up on who does not take its answers.
    fn ask(
        &mut self,
        request: KeeperRequest,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Received<KeeperAnswer>, KeeperLinkError> {
        self.last_number += 1;
        let number = self.last_number;
        self.channel.send(&KeeperCall { number, request }, fds, Wait::Forever).map_err(KeeperLinkError::Send)?;
        loop {
            let Received { message, fds } = self.channel.receive(Wait::Forever).map_err(KeeperLinkError::Receive)?;
            match message {
                KeeperMessage::Answer { number: answered, answer } if answered == number => {
                    return Ok(Received { message: answer, fds });
                }
                KeeperMessage::Answer { .. } => return Err(KeeperLinkError::NotWelcome),
                message => self.said.push_back(message),
            }
        }
    }

    /// Fills the mirror with what the keeper has.
    fn import(&mut self) -> Result<(), KeeperLinkError> {
        let mut after = 0;
        loop {
            let Received { message, fds } = self.ask(KeeperRequest::Export { after }, &[])?;
            match message {
                KeeperAnswer::Stored { cursor, name } => {
                    after = cursor;
                    self.mirror.follow(KeeperRequest::Put { name }, fds);
                }
                KeeperAnswer::Log { cursor, log } => {
                    after = cursor;
                    self.mirror.follow(KeeperRequest::LogStart(log), fds);
                }
                KeeperAnswer::End => return Ok(()),
                _ => return Err(KeeperLinkError::NotWelcome),
            }
        }
    }

    /// A copy of what the keeper stores under this name.
    pub(crate) fn stored(&self, name: &FdName) -> Option<BorrowedFd<'_>> {
        self.mirror.stored(name)
    }

    /// Everything that the keeper stores under a name.
    pub(crate) fn all_stored(&self) -> impl Iterator<Item = (&FdName, BorrowedFd<'_>)> {
        self.mirror.all_stored()
    }

    /// Goes to the mount namespace that the keeper has stayed in.
    pub(crate) fn enter_mount_namespace(&self) -> Result<(), KeeperLinkError> {
        let process = self.process.as_ref().ok_or(KeeperLinkError::NotWelcome)?;
        move_into_thread_name_spaces(process.as_fd(), ThreadNameSpaceType::MOUNT)
            .map_err(|errno| KeeperLinkError::Kernel { call: "setns(mount)", errno })
    }

    /// Ends it. Two keepers would read from the same pipes.
    fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            // It may have ended already.
            rustix::process::pidfd_send_signal(&process, Signal::KILL).unwrap_or_default();
        }
    }

    /// Passes a request on; its answer is heard later. It waits while the keeper has enough to answer, and between two
    /// keepers for the next one.
    ///
    /// # Errors
    ///
    /// The keeper does not read: then it waits for its disk, and nothing of ours waits for it. Or too much waits already.
    /// What was to be passed on is lost.
    pub(crate) fn pass_on(
        &mut self,
        request: KeeperRequest,
        fds: Vec<OwnedFd>,
        asker: Option<Asker>,
    ) -> Result<(), SendError> {
        let call = Pending { asker, request, fds };
        if self.takes_calls() && self.held.is_empty() {
            return self.call(call);
        }
        if self.held.len() >= WAITING_MAX {
            return Err(SendError::WouldBlock);
        }
        self.held.push_back(call);
        Ok(())
    }

    /// Whether it is there and has not enough to answer.
    fn takes_calls(&self) -> bool {
        !self.is_gone() && self.pending.len() < ASKED_MAX
    }

    fn call(&mut self, Pending { asker, request, fds }: Pending) -> Result<(), SendError> {
        self.last_number += 1;
        let number = self.last_number;
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let call = KeeperCall { number, request };
        self.channel.send(&call, &borrowed, Wait::Never)?;
        self.pending.insert(number, Pending { asker, request: call.request, fds });
        Ok(())
    }

    /// The next thing it says; an error is its death.
    pub(crate) fn hear(&mut self) -> Result<Heard, ReceiveError> {
        let Received { message, fds } = match self.said.pop_front() {
            Some(message) => Received { message, fds: Vec::new() },
            None => self.channel.receive(Wait::Never)?,
        };
        match message {
            KeeperMessage::Drained { container } => {
                self.mirror.log_ended(container);
                Ok(Heard::Drained(container))
            }
            KeeperMessage::RunsDrained { container } => {
                self.mirror.runs_ended(container);
                Ok(Heard::Nothing)
            }
            KeeperMessage::Answer { number, answer } => {
                let Some(pending) = self.pending.remove(&number) else { return Ok(Heard::Nothing) };
                if !matches!(answer, KeeperAnswer::Failed(_)) {
                    self.mirror.follow(pending.request, pending.fds);
                }
                Ok(pending.asker.map_or(Heard::Nothing, |asker| Heard::Answer(asker, answer, fds)))
            }
        }
    }

    /// Puts a new keeper in the place of a dead one and gives it everything.
    pub(crate) fn replace(&mut self) -> Result<(), KeeperLinkError> {
        spawn(&self.program, &self.socket)?;
        self.channel = Channel::connect(&self.socket).map_err(KeeperLinkError::Socket)?;
        self.greet()?;
        self.said.clear();
        let mut mirror = std::mem::take(&mut self.mirror);
        let mut given = mirror.over_requests().try_for_each(|(request, fds)| self.ask(request, &fds).map(drop));
        // Up to here it knows of no other runs.
        for message in self.said.drain(..) {
            if let KeeperMessage::Drained { container } = message {
                mirror.runs_ended(container);
            }
        }
        if given.is_ok() {
            given = mirror.requests().try_for_each(|(request, fds)| self.ask(request, &fds).map(drop));
        }
        // What it does not take (a log directory that is gone) is not kept by it; the mirror tries again next time.
        self.mirror = mirror;
        given?;
        self.respawn.began(Instant::now());
        Ok(())
    }

    /// It died or hung up, or no other could be started. Those who asked it, or waited for the next one, are to be told.
    pub(crate) fn died(&mut self, now: Instant) -> Vec<Asker> {
        self.kill();
        self.respawn.died(now);
        let asked = self.pending.drain().map(|(_, pending)| pending);
        asked.chain(self.held.drain(..)).filter_map(|pending| pending.asker).collect()
    }

    /// Asks what waited, as far as the keeper takes it; those whose request was lost.
    pub(crate) fn ask_held(&mut self) -> Vec<Asker> {
        let mut lost = Vec::new();
        while self.takes_calls()
            && let Some(call) = self.held.pop_front()
        {
            let asker = call.asker;
            lost.extend(self.call(call).err().and(asker));
        }
        lost
    }

    /// Whether the last one died and there is no other yet.
    fn is_gone(&self) -> bool {
        self.respawn.pause(Instant::now()).is_some()
    }

    /// Whether another one is to be started now.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.respawn.is_due(now)
    }

    /// How long the loop may wait before another one is due.
    pub(crate) fn pause(&self, now: Instant) -> Option<Duration> {
        self.respawn.pause(now)
    }

    /// Whether answers are missing, or the keeper is.
    pub(crate) fn is_busy(&self) -> bool {
        !self.pending.is_empty() || self.is_gone()
    }

    /// Tells it to end.
    pub(crate) fn shut_down(&mut self) {
        self.last_number += 1;
        let call = KeeperCall { number: self.last_number, request: KeeperRequest::Shutdown };
        // One that is gone needs not be told.
        self.channel.send(&call, &[], Wait::Forever).unwrap_or_default();
    }
}

impl AsFd for KeeperLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// Starts the keeper's program with its listener; it can be connected to at once.
fn spawn(program: &Path, socket: &Path) -> Result<(), KeeperLinkError> {
    let kernel = |call| move |errno| KeeperLinkError::Kernel { call, errno };
    let listener = channel::listen(socket).map_err(KeeperLinkError::Socket)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(kernel("open(/dev/null)"))?;
    let path = CString::new(program.as_os_str().as_bytes()).map_err(|_| kernel("execve(keeper)")(Errno::INVAL))?;
    if let Fork::Child = fork().map_err(kernel("fork"))? {
        let error_output = std::io::stderr();
        let fds = [null.as_fd(), null.as_fd(), error_output.as_fd(), listener.as_fd()];
        let arranged = rustix::process::setsid().map(drop).and_then(|()| fd_table::replace(&fds, fds.len()));
        if arranged.is_ok() {
            // What it returns is the reason; the connection that nobody accepts tells the launcher enough.
            let _reason = execute::execute(&path, &[c"insula-keeper".to_owned()], &[]);
        }
        exit_now(127)
    }
    Ok(())
}
