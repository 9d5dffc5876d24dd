//! Exec connections: one per process that was asked for.
//!
//! ```text
//!   Waiting --Exec--> Starting --report empty--> Running --reaped--> gone (Ended sent)
//!      |                 |  report has failure --> gone (Failed sent)
//!      +-- close or nonsense at any time --> gone; the process is left or killed as the request said
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use insula_kernel::peer::peer_credentials;
use insula_kernel::signals::{self, Recipient};
use insula_plan::protocol::channel::{self, Channel, ReceiveError, Received, Wait};
use insula_plan::protocol::init::{EXEC_CONNECTIONS_MAX, ExecRequest, InitEvent, InitRequest, OnClose};
use insula_plan::protocol::process::{SpawnFailure, Stdio};
use insula_plan::protocol::status::End;
use rustix::io::Errno;
use rustix::process::Pid;

use super::FIRST_SESSION;
use crate::spawn::{self, Spawning, terminal};
use insula_kernel::poller::{Interest, Poller};

/// Connections taken at one time before other descriptors have their turn.
const ACCEPTS_PER_TURN: usize = 16;

/// Host root as a private user namespace shows it.
const OVERFLOW_UID: u32 = 65_534;

/// All exec connections, each in a slot that its tokens name.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    slots: Vec<Option<Session>>,
}

#[derive(Debug)]
struct Session {
    channel: Channel,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Waiting,
    Starting(Spawning, OnClose),
    /// The terminal's master is kept for `Resize`, and no longer than the connection, so that the terminal hangs up
    /// when who asked for it is gone.
    Running(Pid, Option<OwnedFd>, OnClose),
}

/// Whether a session goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goes {
    On,
    Away,
}

impl Sessions {
    /// Takes connections that wait, as many as one turn allows.
    pub(super) fn accept(&mut self, poller: &Poller, listener: BorrowedFd<'_>) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Ok(Some(channel)) = channel::accept(listener) else { return };
            if !is_host_root(channel.as_fd()) {
                continue;
            }
            let Some(index) = self.free_slot() else {
                let limit = u32::try_from(EXEC_CONNECTIONS_MAX).unwrap_or(u32::MAX);
                refuse(&channel, SpawnFailure::Busy { limit });
                continue;
            };
            if poller.add(&channel, connection_token(index), Interest::Read).is_ok() {
                self.slots[index] = Some(Session { channel, stage: Stage::Waiting });
            }
        }
    }

    fn free_slot(&mut self) -> Option<usize> {
        if let Some(index) = self.slots.iter().position(Option::is_none) {
            return Some(index);
        }
        (self.slots.len() < EXEC_CONNECTIONS_MAX).then(|| {
            self.slots.push(None);
            self.slots.len() - 1
        })
    }

    /// Something happened to the descriptor with this token.
    pub(super) fn on_ready(&mut self, poller: &Poller, token: u64) {
        // A token of a slot that was emptied in this turn finds nothing, or a connection without a message.
        let Some(index) = token.checked_sub(FIRST_SESSION).and_then(|slot| usize::try_from(slot / 2).ok()) else {
            return;
        };
        let Some(Some(session)) = self.slots.get_mut(index) else { return };
        let goes = if token == connection_token(index) {
            session.on_message(poller, index)
        } else {
            session.on_report(poller)
        };
        if goes == Goes::Away {
            self.remove(poller, index);
        }
    }

    /// A child ended that is not the main process: perhaps one of a session, perhaps an orphan.
    pub(super) fn reaped(&mut self, poller: &Poller, pid: Pid, end: End) {
        let Some(index) = self.slots.iter().position(|slot| slot.as_ref().is_some_and(|session| session.owns(pid)))
        else {
            return;
        };
        if let Some(Some(session)) = self.slots.get_mut(index) {
            // It is dead, so its report is complete: what it says comes before the end.
            let goes = if matches!(session.stage, Stage::Starting(..)) { session.on_report(poller) } else { Goes::On };
            if goes == Goes::On {
                session.tell(&InitEvent::Ended(end), &[]);
            }
            // Nobody has this number any more, so nothing may be sent to it.
            session.stage = Stage::Waiting;
        }
        self.remove(poller, index);
    }

    /// The container ends: those who have asked for nothing yet, or only just connected, are told.
    pub(super) fn refuse_waiting(&mut self, poller: &Poller, listener: BorrowedFd<'_>) {
        for index in 0..self.slots.len() {
            let Some(Some(session)) = self.slots.get(index) else { continue };
            if matches!(session.stage, Stage::Waiting) {
                refuse(&session.channel, SpawnFailure::Ending);
                self.remove(poller, index);
            }
        }
        for _ in 0..EXEC_CONNECTIONS_MAX {
            let Ok(Some(channel)) = channel::accept(listener) else { return };
            refuse(&channel, SpawnFailure::Ending);
        }
    }

    fn remove(&mut self, poller: &Poller, index: usize) {
        let Some(session) = self.slots.get_mut(index).and_then(Option::take) else { return };
        poller.remove(&session.channel);
        let (pid, on_close) = match &session.stage {
            Stage::Waiting => return,
            Stage::Starting(spawning, on_close) => {
                poller.remove(&spawning.report);
                (spawning.pid, *on_close)
            }
            Stage::Running(pid, _, on_close) => (*pid, *on_close),
        };
        if on_close == OnClose::Kill {
            // It leads a session of its own; not being reaped yet, the number is its own.
            signals::send(Recipient::Group(pid), KILL).unwrap_or_default();
            signals::send(Recipient::Process(pid), KILL).unwrap_or_default();
        }
    }
}

/// The signal that cannot be caught.
pub(super) const KILL: u8 = 9;

impl Session {
    fn owns(&self, child: Pid) -> bool {
        match &self.stage {
            Stage::Waiting => false,
            Stage::Starting(spawning, _) => spawning.pid == child,
            Stage::Running(pid, ..) => *pid == child,
        }
    }

    fn on_message(&mut self, poller: &Poller, index: usize) -> Goes {
        let Received { message, fds } = match self.channel.receive(Wait::Never) {
            Ok(received) => received,
            Err(ReceiveError::WouldBlock) => return Goes::On,
            Err(_) => return Goes::Away,
        };
        match (message, &self.stage) {
            (InitRequest::Exec(request), Stage::Waiting) => self.start(poller, index, &request, &fds),
            (InitRequest::Signal(number), Stage::Running(pid, ..)) => {
                signals::send(Recipient::Process(*pid), number).unwrap_or_default();
                Goes::On
            }
            (InitRequest::Signal(number), Stage::Starting(spawning, _)) => {
                // Blocked until its program runs, and pending then.
                signals::send(Recipient::Process(spawning.pid), number).unwrap_or_default();
                Goes::On
            }
            (InitRequest::Resize(size), Stage::Running(_, Some(master), _)) => {
                terminal::resize(master, size).unwrap_or_default();
                Goes::On
            }
            (InitRequest::Resize(_), Stage::Starting(..) | Stage::Running(..)) => Goes::On,
            (InitRequest::Exec(_), _) | (_, Stage::Waiting) => Goes::Away,
        }
    }

    fn start(&mut self, poller: &Poller, index: usize, request: &ExecRequest, fds: &[OwnedFd]) -> Goes {
        let streams = match (request.process.stdio, fds) {
            (Stdio::Given, [input, output, error]) => Some([input.as_fd(), output.as_fd(), error.as_fd()]),
            _ => None,
        };
        let spawning = match spawn::spawn(&request.process, streams) {
            Ok(spawning) => spawning,
            Err(failure) => {
                refuse(&self.channel, failure);
                return Goes::Away;
            }
        };
        let watched = poller.add(&spawning.report, connection_token(index) + 1, Interest::Read);
        let on_close = if watched.is_ok() { request.on_close } else { OnClose::Kill };
        self.stage = Stage::Starting(spawning, on_close);
        if watched.is_ok() { Goes::On } else { Goes::Away }
    }

    /// The child's report is there, or its end.
    fn on_report(&mut self, poller: &Poller) -> Goes {
        let Stage::Starting(spawning, on_close) = &mut self.stage else { return Goes::On };
        match spawn::outcome(spawning.report.as_fd()) {
            None => Goes::On,
            Some(Ok(())) => {
                poller.remove(&spawning.report);
                let (pid, terminal, on_close) = (spawning.pid, spawning.terminal.take(), *on_close);
                let number = pid.as_raw_nonzero().get().unsigned_abs();
                let fds: Vec<BorrowedFd<'_>> = terminal.iter().map(AsFd::as_fd).collect();
                let told = self.tell(&InitEvent::Started { pid: number }, &fds);
                self.stage = Stage::Running(pid, terminal, on_close);
                told
            }
            Some(Err(failure)) => {
                refuse(&self.channel, failure);
                // It ends by itself and is reaped as an orphan is.
                poller.remove(&spawning.report);
                self.stage = Stage::Waiting;
                Goes::Away
            }
        }
    }

    /// A peer that does not take its answers is as good as gone.
    fn tell(&self, event: &InitEvent, fds: &[BorrowedFd<'_>]) -> Goes {
        if self.channel.send(event, fds, Wait::Never).is_ok() { Goes::On } else { Goes::Away }
    }
}

fn refuse(channel: &Channel, failure: SpawnFailure) {
    // If it cannot be told it sees the connection close.
    channel.send(&InitEvent::Failed(failure), &[], Wait::Never).unwrap_or_default();
}

fn connection_token(index: usize) -> u64 {
    FIRST_SESSION + 2 * u64::try_from(index).unwrap_or(u64::MAX / 4)
}

/// Whether a peer is outside of the container.
///
/// What really keeps the container out is that the socket lies in a host directory that only host root can search.
/// This is the second line: nothing inside a pid namespace can look like a process outside of it. Without an own pid
/// namespace only the user id is left to tell.
fn is_host_root(peer: BorrowedFd<'_>) -> bool {
    let credentials: Result<_, Errno> = peer_credentials(peer);
    let namespaced = rustix::process::getpid() == Pid::INIT;
    credentials.is_ok_and(|peer| match peer.pid {
        None => true,
        Some(_) => !namespaced && [0, OVERFLOW_UID].contains(&peer.uid.as_raw()),
    })
}
