//! The launcher's side of the keeper: started once, found again, replaced when it dies.
//!
//! Each holds the other's descriptors. What passes through here on its way to the keeper is duplicated into a mirror,
//! and a keeper that takes a dead one's place is given the mirror; a launcher that takes a dead one's place fills its
//! mirror from the keeper's `Export`.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use insula_kernel::fork::{Fork, exit_now, fork};
use insula_kernel::{execute, fd_table};
use insula_plan::protocol::channel::{self, Channel, ConnectError, ReceiveError, Received, SendError, Wait};
use insula_plan::protocol::keeper::{FdName, KeeperAnswer, KeeperCall, KeeperMessage, KeeperRequest, LogStart};
use insula_plan::protocol::run_dir::RunDir;
use insula_plan::protocol::{ContainerId, PROTOCOL_VERSION};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::daemon::Asker;

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
    /// It answered something else, or speaks another version.
    #[error("the keeper did not welcome us")]
    NotWelcome,
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

/// What the keeper keeps, once more.
#[derive(Debug, Default)]
struct Mirror {
    stored: BTreeMap<FdName, OwnedFd>,
    logs: BTreeMap<ContainerId, (LogStart, Vec<OwnedFd>)>,
}

/// The connection and the mirror.
#[derive(Debug)]
pub(crate) struct KeeperLink {
    channel: Channel,
    pid: Pid,
    program: PathBuf,
    socket: PathBuf,
    mirror: Mirror,
    askers: HashMap<u64, Asker>,
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
    /// A keeper that runs already, with everything it keeps.
    pub(crate) fn find(run: &RunDir, programs: &Path) -> Option<Self> {
        let socket = run.keeper_socket();
        let channel = Channel::connect(&socket).ok()?;
        let mut link = Self::welcome(channel, programs.join("insula-keeper"), socket).ok()?;
        link.import().ok()?;
        Some(link)
    }

    /// A new keeper.
    pub(crate) fn start(run: &RunDir, programs: &Path) -> Result<Self, KeeperLinkError> {
        let (program, socket) = (programs.join("insula-keeper"), run.keeper_socket());
        spawn(&program, &socket)?;
        let channel = Channel::connect(&socket).map_err(KeeperLinkError::Socket)?;
        Self::welcome(channel, program, socket)
    }

    fn welcome(channel: Channel, program: PathBuf, socket: PathBuf) -> Result<Self, KeeperLinkError> {
        let call = KeeperCall { number: 1, request: KeeperRequest::Hello { version: PROTOCOL_VERSION } };
        channel.send(&call, &[], Wait::Forever).map_err(KeeperLinkError::Send)?;
        let answer = channel.receive::<KeeperMessage>(Wait::Forever).map_err(KeeperLinkError::Receive)?;
        let KeeperMessage::Answer { answer: KeeperAnswer::Welcome { version: PROTOCOL_VERSION, pid }, .. } =
            answer.message
        else {
            return Err(KeeperLinkError::NotWelcome);
        };
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(KeeperLinkError::NotWelcome)?;
        let (mirror, askers) = (Mirror::default(), HashMap::new());
        Ok(Self { channel, pid, program, socket, mirror, askers, last_number: 1 })
    }

    /// Fills the mirror with what the keeper has.
    fn import(&mut self) -> Result<(), KeeperLinkError> {
        let mut after = 0;
        loop {
            self.last_number += 1;
            let call = KeeperCall { number: self.last_number, request: KeeperRequest::Export { after } };
            self.channel.send(&call, &[], Wait::Forever).map_err(KeeperLinkError::Send)?;
            let Received { message, fds } = self.channel.receive(Wait::Forever).map_err(KeeperLinkError::Receive)?;
            let KeeperMessage::Answer { answer, .. } = message else { continue };
            match answer {
                KeeperAnswer::Stored { cursor, name } => {
                    after = cursor;
                    self.mirror.stored.extend(fds.into_iter().next().map(|fd| (name, fd)));
                }
                KeeperAnswer::Log { cursor, log } => {
                    after = cursor;
                    self.mirror.logs.insert(log.container, (log, fds));
                }
                KeeperAnswer::End => return Ok(()),
                _ => return Err(KeeperLinkError::NotWelcome),
            }
        }
    }

    /// Goes to the mount namespace that the keeper has stayed in.
    pub(crate) fn enter_mount_namespace(&self) -> Result<(), KeeperLinkError> {
        let kernel = |call| move |errno| KeeperLinkError::Kernel { call, errno };
        let pidfd = rustix::process::pidfd_open(self.pid, PidfdFlags::empty()).map_err(kernel("pidfd_open(keeper)"))?;
        move_into_thread_name_spaces(pidfd.as_fd(), ThreadNameSpaceType::MOUNT).map_err(kernel("setns(mount)"))
    }

    /// Passes a request on; its answer is heard later.
    pub(crate) fn pass_on(&mut self, request: KeeperRequest, fds: Vec<OwnedFd>, asker: Asker) -> Result<(), SendError> {
        self.last_number += 1;
        let number = self.last_number;
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        self.channel.send(&KeeperCall { number, request: request.clone() }, &borrowed, Wait::Forever)?;
        self.askers.insert(number, asker);
        self.mirror.follow(request, fds);
        Ok(())
    }

    /// The next thing it says; an error is its death.
    pub(crate) fn hear(&mut self) -> Result<Heard, ReceiveError> {
        let Received { message, fds } = self.channel.receive::<KeeperMessage>(Wait::Never)?;
        Ok(match message {
            KeeperMessage::Drained { container } => {
                self.mirror.logs.remove(&container);
                Heard::Drained(container)
            }
            KeeperMessage::Answer { number, answer } => match self.askers.remove(&number) {
                Some(asker) => Heard::Answer(asker, answer, fds),
                None => Heard::Nothing,
            },
        })
    }

    /// Puts a new keeper in the place of a dead one and gives it everything.
    pub(crate) fn replace(&mut self) -> Result<(), KeeperLinkError> {
        spawn(&self.program, &self.socket)?;
        let channel = Channel::connect(&self.socket).map_err(KeeperLinkError::Socket)?;
        let fresh = Self::welcome(channel, self.program.clone(), self.socket.clone())?;
        self.channel = fresh.channel;
        self.pid = fresh.pid;
        self.last_number = fresh.last_number;
        for (name, fd) in &self.mirror.stored {
            self.last_number += 1;
            let call = KeeperCall { number: self.last_number, request: KeeperRequest::Put { name: name.clone() } };
            self.channel.send(&call, &[fd.as_fd()], Wait::Forever).map_err(KeeperLinkError::Send)?;
        }
        for (log, fds) in self.mirror.logs.values() {
            self.last_number += 1;
            let call = KeeperCall { number: self.last_number, request: KeeperRequest::LogStart(log.clone()) };
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            self.channel.send(&call, &fds, Wait::Forever).map_err(KeeperLinkError::Send)?;
        }
        Ok(())
    }

    /// Those who still wait for an answer of a keeper that died.
    pub(crate) fn take_askers(&mut self) -> Vec<Asker> {
        self.askers.drain().map(|(_, asker)| asker).collect()
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

impl Mirror {
    fn follow(&mut self, request: KeeperRequest, fds: Vec<OwnedFd>) {
        match request {
            KeeperRequest::Put { name } => self.stored.extend(fds.into_iter().next().map(|fd| (name, fd))),
            KeeperRequest::Remove { name } => {
                self.stored.remove(&name);
            }
            KeeperRequest::RemoveContainer { container } => {
                let front = format!("{container}/");
                self.stored.retain(|name, _| !name.as_str().starts_with(&front));
                self.logs.remove(&container);
            }
            KeeperRequest::LogStart(log) => {
                self.logs.insert(log.container, (log, fds));
            }
            KeeperRequest::Hello { .. }
            | KeeperRequest::Take { .. }
            | KeeperRequest::List { .. }
            | KeeperRequest::Tee { .. }
            | KeeperRequest::Flush { .. }
            | KeeperRequest::LogState { .. }
            | KeeperRequest::Export { .. }
            | KeeperRequest::Shutdown => {}
        }
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
