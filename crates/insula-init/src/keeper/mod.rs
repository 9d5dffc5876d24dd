//! The keeper: holds what must not close, and writes the containers' logs.
//!
//! ```text
//!   launcher --KeeperCall--> keeper ---> stored descriptors by name
//!            <-answers, Drained-    \--> logs: pipes -> segments, tees
//! ```
//!
//! One thread, one epoll set. It knows nothing that is not in its descriptors and in the log files: a keeper that was
//! killed is replaced by one that is given the same descriptors by the launcher, and a launcher that was killed by one
//! that is given them by the keeper (`Export`).
//!
//! Nothing waits for a peer: an answer that a connection does not take ends the connection, a slow tee holds up only
//! its own stream. A disk that does not answer holds up the keeper, and with it the containers' output once their pipes
//! are full; nothing is lost by that. The work of one turn is bounded: one read of 64 KiB per pipe.
//!
//! It runs as root without any capability and without new privileges: what it may do is what its descriptors allow.

mod container_log;
mod log_files;
mod tee;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use insula_kernel::capability::CapabilitySet;
use insula_kernel::rlimit::{self, Limit, Resource};
use insula_kernel::signals::SignalFd;
use insula_kernel::{fd_table, peer};
use insula_plan::privilege::{PrivilegeStep, PrivilegeStepError};
use insula_plan::protocol::channel::{self, Channel, ReceiveError, Received, SendError, Wait};
use insula_plan::protocol::failure::{Failure, FailureKind};
use insula_plan::protocol::keeper::{
    FdName, KeeperAnswer, KeeperCall, KeeperMessage, KeeperRequest, LogStart, NAMES_PER_ANSWER, STORED_FDS_MAX, TeeSpec,
};
use insula_plan::protocol::{ContainerId, PROTOCOL_VERSION};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use container_log::{Bench, ContainerLog, Flush, READ_BYTES, TEES_MAX};
use insula_kernel::poller::{Interest, Poller, Ready};
use log_files::Moment;

/// Where the keeper finds its listener.
pub const LISTENER_FD: RawFd = 3;

/// Connections at a time; one more is closed.
const CONNECTIONS_MAX: usize = 16;

/// Tokens below this are connections' and fixed ones; a log's begin at this times its number.
const TOKENS_PER_LOG: u64 = 64;
const SIGNALS: u64 = 0;
const LISTENER: u64 = 1;
const FIRST_CONNECTION: u64 = 2;

/// The keeper could not begin, or its loop broke.
#[derive(Debug, thiserror::Error)]
pub enum KeeperFailure {
    /// A kernel call was refused.
    #[error("{call}")]
    Kernel {
        /// The call.
        call: &'static str,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// Its rights could not be given up.
    #[error("give up capabilities")]
    GiveUp(#[source] PrivilegeStepError),
}

/// Runs until it is told to end or gets `SIGTERM`.
///
/// Called once, first thing in `main`: it takes over [`LISTENER_FD`].
///
/// # Errors
///
/// The listener is missing, or the kernel refused a call.
pub fn run() -> Result<(), KeeperFailure> {
    let kernel = |call| move |errno| KeeperFailure::Kernel { call, errno };
    let listener = fd_table::take_inherited(LISTENER_FD).map_err(kernel("fcntl(listener)"))?;
    fd_table::close_from(LISTENER_FD + 1).map_err(kernel("close_range"))?;
    let signals = SignalFd::block_all().map_err(kernel("signalfd"))?;
    let null = rustix::fs::open("/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(kernel("open(/dev/null)"))?;
    rustix::process::chdir("/").map_err(kernel("chdir(/)"))?;
    give_up_rights()?;
    let poller = Poller::new().map_err(kernel("epoll_create"))?;
    poller.add(&signals, SIGNALS, Interest::Read).map_err(kernel("epoll_ctl(signals)"))?;
    poller.add(&listener, LISTENER, Interest::Read).map_err(kernel("epoll_ctl(listener)"))?;
    let keeper = Keeper {
        poller,
        signals,
        listener: Some(listener),
        null,
        buffer: vec![0; READ_BYTES],
        connections: std::array::from_fn(|_| None),
        kept: BTreeMap::new(),
        names: BTreeMap::new(),
        logs: BTreeMap::new(),
        last_number: 0,
    };
    keeper.serve().map_err(kernel("epoll_wait"))
}

fn give_up_rights() -> Result<(), KeeperFailure> {
    if let Ok(now) = rlimit::limit(Resource::NOFILE) {
        // Thousands of containers have thousands of pipes. What the hard limit allows is what there is.
        rlimit::set_limit(Resource::NOFILE, Limit { soft: now.hard, hard: now.hard }).unwrap_or_default();
    }
    let nothing = CapabilitySet::EMPTY.bits();
    for step in [
        PrivilegeStep::NoNewPrivileges,
        PrivilegeStep::LimitBoundingSet { keep: nothing },
        PrivilegeStep::SetCapabilities { keep: nothing },
    ] {
        step.perform().map_err(KeeperFailure::GiveUp)?;
    }
    Ok(())
}

/// Something kept. Its number is its place in an export and never used again.
#[derive(Debug)]
enum Kept {
    Stored(FdName, OwnedFd),
    Log(Box<ContainerLog>),
}

#[derive(Debug)]
struct Connection {
    /// Never used again, as its place is.
    id: u64,
    channel: Channel,
    greeted: bool,
}

struct Keeper {
    poller: Poller,
    signals: SignalFd,
    /// `None` once it goes home.
    listener: Option<OwnedFd>,
    null: OwnedFd,
    buffer: Vec<u8>,
    connections: [Option<Connection>; CONNECTIONS_MAX],
    kept: BTreeMap<u64, Kept>,
    names: BTreeMap<FdName, u64>,
    logs: BTreeMap<ContainerId, u64>,
    last_number: u64,
}

/// Whether the keeper goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goes {
    On,
    Home,
}

/// An answer, with copies of descriptors beside it.
type Answer<'keeper> = Result<(KeeperAnswer, Vec<BorrowedFd<'keeper>>), Failure>;

impl Keeper {
    fn serve(mut self) -> Result<(), Errno> {
        let mut ready = Vec::new();
        loop {
            self.poller.wait(None, &mut ready)?;
            for Ready { token } in ready.drain(..) {
                let goes = match token {
                    SIGNALS => self.on_signals(),
                    LISTENER => {
                        self.accept();
                        Goes::On
                    }
                    token if token < TOKENS_PER_LOG => self.on_call(token - FIRST_CONNECTION),
                    token => {
                        self.on_output(token);
                        self.goes()
                    }
                };
                if goes == Goes::Home {
                    return Ok(());
                }
            }
        }
    }

    fn on_signals(&self) -> Goes {
        let mut goes = Goes::On;
        while let Ok(Some(signal)) = self.signals.take() {
            if i32::from(signal.number) == rustix::process::Signal::TERM.as_raw() {
                goes = Goes::Home;
            }
        }
        goes
    }

    fn accept(&mut self) {
        while let Some(Ok(Some(channel))) = self.listener.as_ref().map(|listener| channel::accept(listener.as_fd())) {
            let is_root = peer::peer_credentials(&channel).is_ok_and(|peer| peer.uid.is_root());
            let free = self.connections.iter().position(Option::is_none).filter(|_| is_root);
            let Some(place) = free else { continue };
            let token = FIRST_CONNECTION + u64::try_from(place).unwrap_or(0);
            if self.poller.add(&channel, token, Interest::Read).is_ok() {
                let id = self.next_number();
                self.connections[place] = Some(Connection { id, channel, greeted: false });
            }
        }
    }

    fn on_call(&mut self, place: u64) -> Goes {
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        let Some(Some(connection)) = self.connections.get_mut(place) else { return Goes::On };
        let Received { message: KeeperCall { number, request }, fds } = match connection.channel.receive(Wait::Never) {
            Ok(received) => received,
            Err(ReceiveError::WouldBlock) => return Goes::On,
            Err(_) => {
                self.hang_up(place);
                return Goes::On;
            }
        };
        match request {
            KeeperRequest::Hello { version } => {
                connection.greeted = version == PROTOCOL_VERSION;
                let pid = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
                self.answer(place, number, Ok((KeeperAnswer::Welcome { version: PROTOCOL_VERSION, pid }, Vec::new())));
            }
            _ if !connection.greeted => {
                self.answer(place, number, Err(Failure::new(FailureKind::Version, "say hello in this version first")));
                self.hang_up(place);
            }
            KeeperRequest::Shutdown => {
                self.answer(place, number, done());
                return self.go_home();
            }
            KeeperRequest::Flush { container } => {
                let connection = connection.id;
                self.flush(container, Flush { connection, number });
            }
            request => self.serve_request(place, number, request, fds),
        }
        Goes::On
    }

    fn serve_request(&mut self, place: usize, number: u64, request: KeeperRequest, fds: Vec<OwnedFd>) {
        match request {
            KeeperRequest::Take { name } => {
                let answer = self.take(&name);
                self.answer_with(place, number, answer.map(|(answer, fds)| (answer, duplicates(&fds))));
            }
            KeeperRequest::Export { after } => {
                let answer = self.export(after);
                self.answer_with(place, number, Ok((answer.0, duplicates(&answer.1))));
            }
            KeeperRequest::List { after } => {
                let names: Vec<FdName> = match &after {
                    None => self.names.keys().take(NAMES_PER_ANSWER + 1).cloned().collect(),
                    Some(after) => {
                        let later = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
                        self.names.range(later).map(|(name, _)| name.clone()).take(NAMES_PER_ANSWER + 1).collect()
                    }
                };
                let more = names.len() > NAMES_PER_ANSWER;
                let names = names.into_iter().take(NAMES_PER_ANSWER).collect();
                self.answer(place, number, Ok((KeeperAnswer::Names { names, more }, Vec::new())));
            }
            KeeperRequest::LogState { container } => {
                let state = self.log(container).map(|log| KeeperAnswer::LogState(log.state()));
                self.answer(place, number, state.map(|state| (state, Vec::new())));
            }
            KeeperRequest::RemoveContainer { container } => {
                self.remove_container(container);
                self.answer(place, number, done());
            }
            request => {
                let changed = self.change(request, fds);
                self.answer(place, number, changed.and_then(|()| done()));
            }
        }
    }

    fn change(&mut self, request: KeeperRequest, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        match request {
            KeeperRequest::Put { name } => self.put(name, fds),
            KeeperRequest::Remove { name } => {
                let number = self.names.remove(&name).ok_or_else(|| unknown_name(&name))?;
                self.kept.remove(&number);
                Ok(())
            }
            KeeperRequest::LogStart(start) => self.start_log(&start, fds),
            KeeperRequest::Tee { container, tee } => self.add_tee(container, tee, fds),
            _ => Err(Failure::new(FailureKind::Malformed, "the keeper does not know this request")),
        }
    }

    fn put(&mut self, name: FdName, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        let mut fds = fds.into_iter();
        let (Some(fd), None) = (fds.next(), fds.next()) else {
            return Err(Failure::new(FailureKind::Malformed, "exactly one descriptor goes with a name"));
        };
        if !self.names.contains_key(&name) && self.names.len() >= STORED_FDS_MAX {
            return Err(Failure::new(FailureKind::Busy, format!("the keeper holds {STORED_FDS_MAX} descriptors")));
        }
        let number = self.next_number();
        if let Some(replaced) = self.names.insert(name.clone(), number) {
            self.kept.remove(&replaced);
        }
        self.kept.insert(number, Kept::Stored(name, fd));
        Ok(())
    }

    fn take(&self, name: &FdName) -> Answer<'_> {
        match self.names.get(name).and_then(|number| self.kept.get(number)) {
            Some(Kept::Stored(_, fd)) => Ok((KeeperAnswer::Done, vec![fd.as_fd()])),
            _ => Err(unknown_name(name)),
        }
    }

    fn export(&self, after: u64) -> (KeeperAnswer, Vec<BorrowedFd<'_>>) {
        match self.kept.range(after.saturating_add(1)..).next() {
            None => (KeeperAnswer::End, Vec::new()),
            Some((&cursor, Kept::Stored(name, fd))) => {
                (KeeperAnswer::Stored { cursor, name: name.clone() }, vec![fd.as_fd()])
            }
            Some((&cursor, Kept::Log(log))) => {
                let (log, fds) = log.export(self.null.as_fd());
                (KeeperAnswer::Log { cursor, log }, fds)
            }
        }
    }

    fn start_log(&mut self, start: &LogStart, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        let now = Moment::now();
        let mut fds = fds.into_iter();
        let expected = 1 + start.streams.len() + start.tees.len();
        let Some(directory) = fds.next().filter(|_| fds.len() + 1 == expected) else {
            let message = format!("a log with these streams and tees takes {expected} descriptors");
            return Err(Failure::new(FailureKind::Malformed, message));
        };
        let number = match self.logs.get(&start.container) {
            Some(&number) => number,
            None => {
                let log = ContainerLog::new(start, directory, now).map_err(|errno| kernel("open the log", errno))?;
                let number = self.next_number();
                self.logs.insert(start.container, number);
                self.kept.insert(number, Kept::Log(Box::new(log)));
                number
            }
        };
        let added = self.with_log(number, |log, bench| {
            for &stream in &start.streams {
                let pipe = fds.next().ok_or(Errno::INVAL)?;
                log.add_stream(stream, pipe)?;
            }
            for (&tee, fd) in start.tees.iter().zip(fds) {
                log.add_tee(bench, tee, fd)?;
            }
            Ok(())
        });
        added.unwrap_or(Err(Errno::NOENT)).map_err(|errno| kernel("begin the log", errno))
    }

    fn add_tee(&mut self, container: ContainerId, tee: TeeSpec, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        let number = *self.logs.get(&container).ok_or_else(|| unknown_log(container))?;
        let Some(fd) = fds.into_iter().next() else {
            return Err(Failure::new(FailureKind::Malformed, "a tee takes one descriptor"));
        };
        let added = self.with_log(number, |log, bench| log.add_tee(bench, tee, fd));
        added.unwrap_or(Err(Errno::NOENT)).map_err(|errno| match errno {
            Errno::NOSPC => Failure::new(FailureKind::Busy, format!("its output is copied {TEES_MAX} times already")),
            errno => kernel("add a tee (pipe, socket or file)", errno),
        })
    }

    fn flush(&mut self, container: ContainerId, flush: Flush) {
        match self.logs.get(&container).copied() {
            // What is not kept any more was written.
            None => self.answer_flushed(vec![flush]),
            Some(number) => {
                self.with_log(number, |log, _| log.flush(flush));
            }
        }
    }

    fn remove_container(&mut self, container: ContainerId) {
        let prefix = format!("{container}/");
        let mine = |name: &&FdName| name.as_str().starts_with(&prefix);
        let names: Vec<FdName> = self.names.keys().filter(mine).cloned().collect();
        for name in names {
            if let Some(number) = self.names.remove(&name) {
                self.kept.remove(&number);
            }
        }
        if let Some(number) = self.logs.get(&container).copied() {
            self.with_log(number, |log, _| log.finish_run());
        }
    }

    /// Takes no more calls, and ends when the readers of what was written have it, or are gone.
    fn go_home(&mut self) -> Goes {
        if let Some(listener) = self.listener.take() {
            self.poller.remove(&listener);
        }
        for place in 0..CONNECTIONS_MAX {
            self.hang_up(place);
        }
        self.names.clear();
        self.kept.retain(|_, kept| matches!(kept, Kept::Log(_)));
        let numbers: Vec<u64> = self.logs.values().copied().collect();
        for number in numbers {
            self.with_log(number, |log, _| log.finish_run());
        }
        self.goes()
    }

    fn goes(&self) -> Goes {
        if self.listener.is_none() && self.logs.is_empty() { Goes::Home } else { Goes::On }
    }

    fn on_output(&mut self, token: u64) {
        let now = Moment::now();
        self.with_log(token / TOKENS_PER_LOG, |log, bench| log.on_ready(bench, token, now));
    }

    /// Does something with a log, and afterwards what follows from how it stands then.
    fn with_log<T>(&mut self, number: u64, act: impl FnOnce(&mut ContainerLog, &mut Bench<'_>) -> T) -> Option<T> {
        let Some(Kept::Log(log)) = self.kept.get_mut(&number) else { return None };
        let mut bench = bench(&self.poller, &mut self.buffer, &self.null, number);
        let now = Moment::now();
        let result = act(log, &mut bench);
        log.settle(&mut bench, now);
        let mut flushed = log.take_flushed();
        let drained = log.take_runs_drained().then(|| log.container());
        if log.is_over()
            && let Some(Kept::Log(log)) = self.kept.remove(&number)
        {
            let container = log.container();
            self.logs.remove(&container);
            flushed.extend(log.end(now));
            self.tell_all(&KeeperMessage::Drained { container });
        } else if let Some(container) = drained {
            self.tell_all(&KeeperMessage::RunsDrained { container });
        }
        self.answer_flushed(flushed);
        Some(result)
    }

    fn log(&self, container: ContainerId) -> Result<&ContainerLog, Failure> {
        match self.logs.get(&container).and_then(|number| self.kept.get(number)) {
            Some(Kept::Log(log)) => Ok(log),
            _ => Err(unknown_log(container)),
        }
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn answer_flushed(&mut self, flushed: Vec<Flush>) {
        for flush in flushed {
            let waits =
                |connection: &Option<Connection>| connection.as_ref().is_some_and(|it| it.id == flush.connection);
            if let Some(place) = self.connections.iter().position(waits) {
                self.answer(place, flush.number, done());
            }
        }
    }

    fn answer(&mut self, place: usize, number: u64, answer: Answer<'_>) {
        let (answer, fds) = answer.unwrap_or_else(|failure| (KeeperAnswer::Failed(failure), Vec::new()));
        self.send(place, &KeeperMessage::Answer { number, answer }, &fds);
    }

    /// As [`answer`](Self::answer), with descriptors that are copies already.
    fn answer_with(
        &mut self,
        place: usize,
        number: u64,
        answer: Result<(KeeperAnswer, Result<Vec<OwnedFd>, Errno>), Failure>,
    ) {
        match answer {
            Err(failure) => self.answer(place, number, Err(failure)),
            Ok((_, Err(errno))) => self.answer(place, number, Err(kernel("dup", errno))),
            Ok((answer, Ok(fds))) => {
                let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
                self.send(place, &KeeperMessage::Answer { number, answer }, &fds);
            }
        }
    }

    fn tell_all(&mut self, message: &KeeperMessage) {
        for place in 0..CONNECTIONS_MAX {
            if self.connections[place].as_ref().is_some_and(|connection| connection.greeted) {
                self.send(place, message, &[]);
            }
        }
    }

    /// A peer that does not read is given up: it connects again and looks at what there is.
    fn send(&mut self, place: usize, message: &KeeperMessage, fds: &[BorrowedFd<'_>]) {
        let Some(Some(connection)) = self.connections.get(place) else { return };
        let sent: Result<(), SendError> = connection.channel.send(message, fds, Wait::Never);
        if sent.is_err() {
            self.hang_up(place);
        }
    }

    fn hang_up(&mut self, place: usize) {
        if let Some(connection) = self.connections.get_mut(place).and_then(Option::take) {
            self.poller.remove(&connection.channel);
        }
    }
}

fn bench<'keeper>(
    poller: &'keeper Poller,
    buffer: &'keeper mut [u8],
    null: &'keeper OwnedFd,
    number: u64,
) -> Bench<'keeper> {
    Bench { poller, buffer, null: null.as_fd(), token: number * TOKENS_PER_LOG }
}

fn duplicates(fds: &[BorrowedFd<'_>]) -> Result<Vec<OwnedFd>, Errno> {
    fds.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 0)).collect()
}

fn done() -> Answer<'static> {
    Ok((KeeperAnswer::Done, Vec::new()))
}

fn unknown_name(name: &FdName) -> Failure {
    Failure::new(FailureKind::Unknown, format!("the keeper holds no descriptor `{}`", name.as_str()))
}

fn unknown_log(container: ContainerId) -> Failure {
    Failure::new(FailureKind::Unknown, format!("the keeper has no log of container {container}"))
}

fn kernel(what: &str, errno: Errno) -> Failure {
    let mut failure = Failure::from_error(FailureKind::Kernel, &errno);
    failure.chain.insert(0, what.to_owned());
    failure
}
