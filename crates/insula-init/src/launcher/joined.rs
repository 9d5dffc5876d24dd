//! Processes that joined containers and run: the launcher is to them what process 1 of ours is to others.
//!
//! ```text
//!   who asked <── connection ── launcher        Signal in, Ended out, as of process 1's exec connections
//!                                  │ pidfd
//!                                  v
//!                               process         its end: SIGCHLD, or the pidfd if it is no child of ours
//!   keeper: a copy of both, named after the container; a launcher that takes a dead one's place goes on with them
//! ```
//!
//! So whoever holds the other end of the connection needs neither the daemon nor this launcher.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use insula_kernel::pidfd_info::{ProcessEnd, process_end};
use insula_kernel::poller::{Interest, Poller};
use insula_kernel::signals::{self, Recipient};
use insula_plan::protocol::ContainerId;
use insula_plan::protocol::channel::{Channel, ReceiveError, Wait};
use insula_plan::protocol::facts::ProcessIdentity;
use insula_plan::protocol::failure::{Failure, FailureKind};
use insula_plan::protocol::init::{EXEC_CONNECTIONS_MAX, InitEvent, InitRequest, OnClose};
use insula_plan::protocol::keeper::{FdName, KeeperRequest};
use insula_plan::protocol::launcher::LauncherOutcome;
use insula_plan::protocol::status::{End, ExitStatus, WallTime};
use rustix::process::{Pid, WaitStatus};

use super::containers::status_of;
use super::daemon::Asker;
use super::keeper_link::KeeperLink;
use super::requests::has_ended;
use super::{FIRST_JOINED, Launcher};

/// The signal that cannot be caught.
const KILL: u8 = 9;

/// A process that joined a container.
#[derive(Debug)]
struct JoinedProcess {
    container: ContainerId,
    process: ProcessIdentity,
    pid: Pid,
    pidfd: OwnedFd,
    channel: Channel,
    on_close: OnClose,
}

/// All of them, each under a number that its tokens are made of.
#[derive(Debug, Default)]
pub(super) struct Joined {
    known: BTreeMap<u64, JoinedProcess>,
    last_number: u64,
}

impl Joined {
    /// Goes on with those that the keeper holds.
    pub(super) fn adopt(keeper: &KeeperLink, poller: &Poller) -> Self {
        let mut found = Self::default();
        for (name, connection) in keeper.all_stored() {
            let Some((container, number, on_close)) = name.container_part().and_then(read_connection) else { continue };
            let Some(adopted) = adopt_one(keeper, (container, number, on_close), connection) else { continue };
            // Not a child of ours, unless this process was the launcher before: then it is heard of twice.
            let token = pidfd_token(found.last_number + 1);
            if poller.add(&adopted.pidfd, token, Interest::Read).is_ok() {
                found.add(adopted, poller);
            }
        }
        found
    }

    fn add(&mut self, joined: JoinedProcess, poller: &Poller) {
        self.last_number += 1;
        // One whose connection cannot be watched gets no signals; its end is told all the same.
        poller.add(&joined.channel, connection_token(self.last_number), Interest::Read).unwrap_or_default();
        self.known.insert(self.last_number, joined);
    }

    /// Whether `container` has as many as it may have.
    pub(super) fn are_too_many(&self, container: ContainerId) -> bool {
        let of_it = self.known.values().filter(|joined| joined.container == container);
        of_it.count() >= EXEC_CONNECTIONS_MAX
    }
}

fn adopt_one(
    keeper: &KeeperLink,
    (container, number, on_close): (ContainerId, u32, OnClose),
    connection: BorrowedFd<'_>,
) -> Option<JoinedProcess> {
    let pid = i32::try_from(number).ok().and_then(Pid::from_raw)?;
    let pidfd = keeper.stored(&pidfd_name(container, number)?)?.try_clone_to_owned().ok()?;
    // If ours has ended, the number may be another's; then only the handle knows.
    let process = ProcessIdentity::of(pid).filter(|_| !has_ended(&pidfd));
    let process = process.unwrap_or(ProcessIdentity { pid: number, start_ticks: 0 });
    let channel = Channel::from_socket(connection.try_clone_to_owned().ok()?);
    Some(JoinedProcess { container, process, pid, pidfd, channel, on_close })
}

impl Launcher {
    /// A worker has made a process in a container. The worker still waits, so the process is there to be looked at.
    pub(super) fn joined(
        &mut self,
        asker: Asker,
        (container, on_close): (ContainerId, OnClose),
        (number, fds): (u32, Vec<OwnedFd>),
    ) {
        let lost = |message: &str| Failure::new(FailureKind::WorkerLost, message);
        let pid = i32::try_from(number).ok().and_then(Pid::from_raw);
        let found = pid.and_then(|pid| ProcessIdentity::of(pid).map(|process| (pid, process)));
        let mut fds = fds.into_iter();
        let (Some((pid, process)), Some(pidfd)) = (found, fds.next()) else {
            return self.answer(asker, Err(lost("the joined process was lost")));
        };
        let (channel, theirs) = match Channel::pair() {
            Ok(pair) => pair,
            Err(errno) => {
                signals::send_by_pidfd(pidfd.as_fd(), KILL).unwrap_or_default();
                return self.answer(asker, Err(Failure::from_error(FailureKind::Kernel, &errno)));
            }
        };
        let joined = JoinedProcess { container, process, pid, pidfd, channel, on_close };
        self.keep_joined(&joined);
        let terminal = fds.next();
        let given: Vec<BorrowedFd<'_>> =
            std::iter::once(theirs.as_fd()).chain(terminal.iter().map(AsFd::as_fd)).collect();
        self.daemon.answer(asker, LauncherOutcome::Joined { process }, &given);
        self.joined.add(joined, &self.poller);
    }

    /// Has the keeper hold what the next launcher needs. If it cannot, all that is lost is how the process ended in
    /// case that this launcher is killed.
    fn keep_joined(&mut self, joined: &JoinedProcess) {
        for (name, fd) in joined.names().into_iter().zip([joined.pidfd.as_fd(), joined.channel.as_fd()]) {
            if let (Some(name), Ok(copy)) = (name, fd.try_clone_to_owned()) {
                self.keeper.pass_on(KeeperRequest::Put { name }, vec![copy], None).unwrap_or_default();
            }
        }
    }

    /// Something happened to the connection or the pidfd with this token, counted from [`FIRST_JOINED`].
    pub(super) fn joined_ready(&mut self, token: u64) {
        let number = token / 2;
        if token.is_multiple_of(2) {
            self.joined_asked(number);
        } else {
            self.stranger_joined_ended(number);
        }
    }

    fn joined_asked(&mut self, number: u64) {
        let Some(joined) = self.joined.known.get(&number) else { return };
        match joined.channel.receive::<InitRequest>(Wait::Never).map(|received| received.message) {
            Ok(InitRequest::Signal(signal)) => signals::send_by_pidfd(joined.pidfd.as_fd(), signal).unwrap_or_default(),
            // Who has a terminal has its master, and says the size there.
            Ok(InitRequest::Resize(_)) | Err(ReceiveError::WouldBlock) => {}
            Ok(InitRequest::Exec(_)) | Err(_) => {
                if joined.on_close == OnClose::Kill {
                    // It leads a session of its own; not being reaped yet, the number is its own.
                    signals::send(Recipient::Group(joined.pid), KILL).unwrap_or_default();
                    signals::send_by_pidfd(joined.pidfd.as_fd(), KILL).unwrap_or_default();
                }
                self.forget_joined(number);
            }
        }
    }

    /// Whether the child that ended had joined a container; who asked for it is told.
    pub(super) fn joined_ended(&mut self, pid: Pid, status: WaitStatus) -> bool {
        let found = self.joined.known.iter().find(|(_, joined)| joined.pid == pid).map(|(&number, _)| number);
        let Some(number) = found else { return false };
        self.tell_joined_end(number, ExitStatus::from_wait(status));
        true
    }

    /// One that an earlier launcher made ended.
    fn stranger_joined_ended(&mut self, number: u64) {
        // It may be a child of this process all the same, see `adopt`.
        self.reap();
        let Some(joined) = self.joined.known.get(&number) else { return };
        let seen = joined.process.zombie_status();
        let remembered = process_end(&joined.pidfd).unwrap_or(ProcessEnd::Forgotten);
        if seen.is_none() && remembered == ProcessEnd::NotYet {
            // Between its end and its being reaped; its handle hangs up when it is.
            self.poller.change(&joined.pidfd, pidfd_token(number), Interest::End).unwrap_or_default();
            return;
        }
        self.tell_joined_end(number, seen.or(status_of(remembered)));
    }

    fn tell_joined_end(&mut self, number: u64, status: Option<ExitStatus>) {
        let Some(joined) = self.joined.known.get(&number) else { return };
        let event = match status {
            Some(status) => InitEvent::Ended(End { status, at: WallTime::now() }),
            None => InitEvent::EndedUnseen,
        };
        // Who asked may be gone.
        joined.channel.send(&event, &[], Wait::Never).unwrap_or_default();
        self.forget_joined(number);
    }

    fn forget_joined(&mut self, number: u64) {
        let Some(joined) = self.joined.known.remove(&number) else { return };
        self.poller.remove(&joined.channel);
        self.poller.remove(&joined.pidfd);
        for name in joined.names().into_iter().flatten() {
            // What stays there is removed with the container.
            self.keeper.pass_on(KeeperRequest::Remove { name }, Vec::new(), None).unwrap_or_default();
        }
    }
}

impl JoinedProcess {
    /// Under which names the keeper holds its pidfd and its connection.
    fn names(&self) -> [Option<FdName>; 2] {
        let pid = self.process.pid;
        [pidfd_name(self.container, pid), connection_name(self.container, pid, self.on_close)]
    }
}

fn pidfd_name(container: ContainerId, pid: u32) -> Option<FdName> {
    FdName::of_container(container, &format!("joined:{pid}")).ok()
}

/// The connection's name says what its end means, which nobody else knows.
fn connection_name(container: ContainerId, pid: u32, on_close: OnClose) -> Option<FdName> {
    FdName::of_container(container, &format!("{}{pid}", front(on_close))).ok()
}

fn front(on_close: OnClose) -> &'static str {
    match on_close {
        OnClose::Leave => "joined-left:",
        OnClose::Kill => "joined-killed:",
    }
}

/// Whose connection has this name, if it is one.
fn read_connection((container, part): (ContainerId, &str)) -> Option<(ContainerId, u32, OnClose)> {
    [OnClose::Leave, OnClose::Kill].into_iter().find_map(|on_close| {
        let number = part.strip_prefix(front(on_close))?.parse().ok()?;
        Some((container, number, on_close))
    })
}

fn connection_token(number: u64) -> u64 {
    FIRST_JOINED + 2 * number
}

fn pidfd_token(number: u64) -> u64 {
    connection_token(number) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connections_name_says_whose_it_is_and_a_pidfds_is_not_taken_for_one() {
        let id: ContainerId = "11111111-2222-4333-8444-555555555555".parse().unwrap();
        for on_close in [OnClose::Leave, OnClose::Kill] {
            let name = connection_name(id, 4711, on_close).unwrap();
            assert_eq!(name.container_part().and_then(read_connection), Some((id, 4711, on_close)));
        }
        assert_eq!(pidfd_name(id, 4711).unwrap().container_part().and_then(read_connection), None);
        assert_eq!("node/claim".parse::<FdName>().unwrap().container_part(), None);
    }
}
