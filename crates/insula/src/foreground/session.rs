//! One attachment from its request to the end of what runs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use insula_api::CreatedContainer;
use insula_api::attach::{AttachAnswer, AttachStream, AttachTo};
use insula_kernel::signals::SignalFd;
use insula_plan::protocol::channel::{Channel, ReceiveError, Wait};
use insula_plan::protocol::init::{InitEvent, InitRequest};
use insula_plan::protocol::status::{End, ExitStatus};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::attach::{Attached, Connection, socket_beside};
use super::copy::{Copies, Way};
use super::streams::{Input, Streams};
use super::terminal::{RawMode, copy_window_size};
use super::{ForegroundError, kernel};

/// Longest wait, after a container ended, for more of its outputs or their end. All that could write is dead by then;
/// what is waited for is the node's copying.
const OUTPUT_END_WAIT: Duration = Duration::from_secs(10);

/// Longest record of a main process's end, in bytes.
const END_BYTES_MAX: usize = 256;

/// Signals that are passed on: HUP, INT, QUIT, USR1, USR2, TERM.
const FORWARDED: [u8; 6] = [1, 2, 3, 10, 12, 15];
/// Signals that end the wait for a start when they come a second time.
const INTERRUPTING: [u8; 4] = [1, 2, 3, 15];
const SIGTSTP: u8 = 20;
const SIGWINCH: u8 = 28;

/// What the attachment is to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A container's main process.
    Container,
    /// A further process in a container.
    Exec,
}

/// Something the caller has to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// We got a signal that is meant for what runs.
    Signal(u8),
    /// The detach keys were typed.
    Detached,
    /// What ran ended with this code; all its output has been written.
    Ended(u8),
}

/// How the end is learnt.
#[derive(Debug)]
enum Watch {
    /// Process 1 of a container, and the file that its main process's end is written to.
    Process { pidfd: OwnedFd, end_file: Option<OwnedFd> },
    /// The connection to a container's process 1 about a further process; for one that `joined` the container of an
    /// image's own init, with this number on the host, to the launcher in its place.
    Exec { channel: Channel, joined: Option<u32> },
    /// Only the node tells.
    Node,
}

/// An attachment under way.
#[derive(Debug)]
pub struct Session {
    subject: Subject,
    connection: Option<Connection>,
    watch: Watch,
    copies: Copies,
    master: Option<Arc<OwnedFd>>,
    signals: SignalFd,
    /// Signals that came during the start.
    early: Vec<u8>,
    // Last: the terminal is given back after everything else.
    raw: Option<RawMode>,
}

/// An attachment that has begun.
#[derive(Debug)]
pub struct Begun {
    /// It.
    pub session: Session,
    /// The container that the request created.
    pub created: Option<CreatedContainer>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Standard streams of an attachment.
#[derive(Debug)]
pub enum Stdio<'a> {
    /// Three descriptors, given or copied.
    Streams(Streams),
    /// Those of a container that runs already: copies of its outputs, and perhaps a pipe that it reads.
    Attached {
        /// The outputs.
        outputs: Streams,
        /// Whether what is typed goes in.
        input: Input,
    },
    /// A pty of the container's.
    Terminal {
        /// Whether what is typed goes in.
        input: Input,
        /// Keys that leave it.
        detach_keys: &'a [u8],
    },
}

impl Session {
    /// Attaches, which starts what does not run yet, and begins to copy.
    ///
    /// From here on this process's signals are taken from a descriptor and no other thread may have been started.
    ///
    /// # Errors
    ///
    /// The node is not there, or what is attached to did not start: `Refused` says why.
    pub fn start(
        api_socket: &Path,
        to: AttachTo,
        subject: Subject,
        stdio: Stdio<'_>,
    ) -> Result<Begun, ForegroundError> {
        let signals = SignalFd::block_all().map_err(kernel("take signals from a descriptor"))?;
        let connection = Connection::open(&socket_beside(api_socket))?;
        // What a container's terminal shows comes through a pipe of ours, a command's from the master.
        let mut shown = None;
        match &stdio {
            Stdio::Streams(streams) | Stdio::Attached { outputs: streams, .. } => {
                let (kinds, fds) = streams.given();
                connection.request(to, kinds, &fds)?;
            }
            Stdio::Terminal { .. } if subject == Subject::Container => {
                let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(kernel("make a pipe"))?;
                connection.request(to, vec![AttachStream::Stdout], &[write.as_fd()])?;
                shown = Some(read);
            }
            Stdio::Terminal { .. } => connection.request(to, Vec::new(), &[])?,
        }
        let early = wait_for_start(&connection, &signals)?;
        let Attached { process, end_file, created, warnings, fds } = connection.attached()?;
        let mut fds = fds.into_iter();
        let watch = match subject {
            // A start that went back to the last good image is followed by the node alone.
            Subject::Container => match fds.next() {
                Some(pidfd) => Watch::Process { pidfd, end_file: if end_file { fds.next() } else { None } },
                None => Watch::Node,
            },
            Subject::Exec => {
                let missing = ForegroundError::Incomplete { what: "the connection to the container" };
                let channel = Channel::from_socket(fds.next().ok_or(missing)?);
                Watch::Exec { channel, joined: process }
            }
        };
        // A command's children may live on with its outputs open, and nobody waits for those.
        let last_wait = if subject == Subject::Exec { Duration::ZERO } else { OUTPUT_END_WAIT };
        let (copies, master, raw) = match stdio {
            Stdio::Streams(streams) => (streams.start(last_wait)?, None, None),
            Stdio::Attached { mut outputs, input } => {
                if let Some(to) = fds.next().filter(|_| input == Input::Passed) {
                    outputs.copy_input(to)?;
                }
                (outputs.start(last_wait)?, None, None)
            }
            Stdio::Terminal { input, detach_keys } => {
                let master = fds.next().ok_or(ForegroundError::Incomplete { what: "the terminal" })?;
                let (master, shown) = (Arc::new(master), shown.map(Arc::new));
                start_terminal((master, shown), (input, detach_keys), last_wait)?
            }
        };
        let session = Self { subject, connection: Some(connection), watch, copies, master, signals, early, raw };
        Ok(Begun { session, created, warnings })
    }

    /// Waits for the next thing to act on.
    ///
    /// # Errors
    ///
    /// `Unknown`: it ended and nobody can say how.
    pub fn wait(&mut self) -> Result<Happening, ForegroundError> {
        if let Some(signal) = self.early.pop() {
            return Ok(Happening::Signal(signal));
        }
        loop {
            let ready = self.poll()?;
            if ready.detached {
                return Ok(Happening::Detached);
            }
            if ready.signal
                && let Some(signal) = self.take_signal()?
            {
                return Ok(Happening::Signal(signal));
            }
            let mut end = None;
            if ready.watched {
                end = self.end_seen()?;
            }
            if end.is_none() && ready.connection {
                end = self.end_told()?;
            }
            if let Some(code) = end {
                self.drain()?;
                return Ok(Happening::Ended(code));
            }
        }
    }

    /// Passes a signal on to a further process; `false` for a container's main process, whose signals go through
    /// the API.
    pub fn forward(&self, signal: u8) -> bool {
        if let Watch::Exec { channel, .. } = &self.watch {
            // A process that is gone needs no signal; its end is about to be seen.
            let _ = channel.send(&InitRequest::Signal(signal), &[], Wait::Never);
        }
        self.subject == Subject::Exec
    }

    fn poll(&self) -> Result<Ready, ForegroundError> {
        let signals = self.signals.as_fd();
        let detached = self.copies.detached_fd();
        let mut fds = vec![PollFd::new(&signals, PollFlags::IN), PollFd::new(&detached, PollFlags::IN)];
        let watched = match &self.watch {
            Watch::Process { pidfd, .. } => Some(pidfd.as_fd()),
            Watch::Exec { channel, .. } => Some(channel.as_fd()),
            Watch::Node => None,
        };
        let connection = self.connection.as_ref().map(AsFd::as_fd);
        if let Some(fd) = &watched {
            fds.push(PollFd::new(fd, PollFlags::IN));
        }
        if let Some(fd) = &connection {
            fds.push(PollFd::new(fd, PollFlags::IN));
        }
        poll_for(&mut fds)?;
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let after_watched = if watched.is_some() { 3 } else { 2 };
        Ok(Ready {
            signal: ready[0],
            detached: ready[1],
            watched: watched.is_some() && ready[2],
            connection: connection.is_some() && ready[after_watched],
        })
    }

    /// The next signal that is meant for what runs. The others are dealt with here.
    fn take_signal(&mut self) -> Result<Option<u8>, ForegroundError> {
        while let Some(taken) = self.signals.take().map_err(kernel("read a signal"))? {
            match taken.number {
                SIGWINCH => {
                    if let Some(master) = &self.master {
                        copy_window_size(master.as_fd());
                    }
                }
                SIGTSTP if self.raw.is_none() => {
                    // What the blocked signal would have done.
                    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP)
                        .map_err(kernel("stop this program"))?;
                }
                number if FORWARDED.contains(&number) => return Ok(Some(number)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// The end as the kernel or process 1 tells it.
    fn end_seen(&mut self) -> Result<Option<u8>, ForegroundError> {
        match &self.watch {
            Watch::Process { end_file, .. } => {
                let code = end_file.as_ref().and_then(|file| read_end(file.as_fd())).map(ExitStatus::code);
                if code.is_none() {
                    if self.connection.is_none() {
                        return Err(unknown("process 1 ended without a word, and the node is gone"));
                    }
                    // The process stays readable; only the node is asked from here on.
                    self.watch = Watch::Node;
                }
                Ok(code)
            }
            Watch::Exec { channel, joined } => match channel.receive::<InitEvent>(Wait::Never) {
                Ok(received) => Ok(match received.message {
                    InitEvent::Ended(end) => Some(end.status.code()),
                    InitEvent::Started { .. } | InitEvent::Failed(_) => None,
                    InitEvent::EndedUnseen => {
                        let reason = "the node's launcher died meanwhile, and this kernel does not remember how the \
                                      command ended";
                        return Err(unknown(reason));
                    }
                }),
                Err(ReceiveError::WouldBlock) => Ok(None),
                Err(_) if let Some(process) = joined => Err(unknown(&format!(
                    "the node's launcher and keeper died before the command, which goes on as process {process} of \
                     this machine"
                ))),
                // Process 1 is gone, and with it the kernel killed every process of the container.
                Err(_) => Ok(Some(ExitStatus::Signaled(9).code())),
            },
            Watch::Node => Ok(None),
        }
    }

    /// The end as the node tells it.
    fn end_told(&mut self) -> Result<Option<u8>, ForegroundError> {
        let Some(connection) = &self.connection else { return Ok(None) };
        match connection.receive()? {
            Some((AttachAnswer::Ended { exit_code: Some(code), .. }, _)) => {
                Ok(Some(u8::try_from(code & 0xff).unwrap_or(u8::MAX)))
            }
            Some((AttachAnswer::Ended { exit_code: None, reason }, _)) => {
                Err(unknown(&reason.unwrap_or_else(|| "the node does not know it".to_owned())))
            }
            Some(_) => Ok(None),
            None => {
                self.connection = None;
                match self.watch {
                    Watch::Node => Err(unknown("the node ended")),
                    _ => Ok(None),
                }
            }
        }
    }

    /// Waits until all output has been written, or a signal says that nobody wants it.
    fn drain(&mut self) -> Result<(), ForegroundError> {
        self.copies.expect_no_more();
        while !self.copies.outputs_are_done() {
            let (signals, done) = (self.signals.as_fd(), self.copies.done_fd());
            let mut fds = [PollFd::new(&signals, PollFlags::IN), PollFd::new(&done, PollFlags::IN)];
            poll_for(&mut fds)?;
            let signal = !fds[0].revents().is_empty();
            if signal && self.take_signal()?.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// What [`Session::poll`] found.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools, reason = "one answer of poll(2) per descriptor")]
struct Ready {
    signal: bool,
    detached: bool,
    watched: bool,
    connection: bool,
}

fn poll_for(fds: &mut [PollFd<'_>]) -> Result<(), ForegroundError> {
    match poll(fds, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(kernel("wait for the container")(errno)),
    }
}

/// Waits for the answer to an attach request. Signals that come meanwhile are returned for what will run; a second
/// one of those that end programs ends the wait.
fn wait_for_start(connection: &Connection, signals: &SignalFd) -> Result<Vec<u8>, ForegroundError> {
    let mut early = Vec::new();
    loop {
        let mut fds = [PollFd::new(connection, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        poll_for(&mut fds)?;
        if !fds[0].revents().is_empty() {
            return Ok(early);
        }
        while let Some(taken) = signals.take().map_err(kernel("read a signal"))? {
            if INTERRUPTING.contains(&taken.number) && early.iter().any(|signal| INTERRUPTING.contains(signal)) {
                return Err(ForegroundError::Interrupted { signal: taken.number });
            }
            if FORWARDED.contains(&taken.number) {
                early.push(taken.number);
            }
        }
    }
}

type Terminal = (Copies, Option<Arc<OwnedFd>>, Option<RawMode>);

/// Copies between our terminal and a master; what it shows is read from `shown` if that is there.
fn start_terminal(
    (master, shown): (Arc<OwnedFd>, Option<Arc<OwnedFd>>),
    (input, keys): (Input, &[u8]),
    last_wait: Duration,
) -> Result<Terminal, ForegroundError> {
    let own =
        |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(kernel("duplicate a standard stream"));
    copy_window_size(master.as_fd());
    let from = shown.unwrap_or_else(|| Arc::clone(&master));
    let mut ways = vec![Way::Output { from, to: own(std::io::stdout().as_fd())? }];
    let mut raw = None;
    if input == Input::Passed {
        raw = RawMode::enter()?;
        let from = own(std::io::stdin().as_fd())?;
        ways.push(Way::Typing { from, to: Arc::clone(&master), keys: keys.to_vec() });
    }
    Ok((Copies::start(ways, last_wait)?, Some(master), raw))
}

/// The end in the file that process 1 wrote, if it wrote one.
fn read_end(file: BorrowedFd<'_>) -> Option<ExitStatus> {
    let mut bytes = [0; END_BYTES_MAX];
    let length = rustix::io::pread(file, &mut bytes, 0).ok()?;
    let end: End = insula_plan::protocol::channel::decode(&bytes[..length]).ok()?;
    Some(end.status)
}

fn unknown(reason: &str) -> ForegroundError {
    ForegroundError::Unknown { reason: reason.to_owned() }
}
