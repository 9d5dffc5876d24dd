//! The one daemon that is served, if there is one.

use std::os::fd::{AsFd, BorrowedFd};

use insula_plan::protocol::channel::{Channel, ReceiveError, Received, Wait};
use insula_plan::protocol::launcher::{LauncherCall, LauncherEvent, LauncherOutcome, OpId};

use super::DAEMON;
use insula_kernel::poller::{Interest, Poller};

/// The daemon's connection.
#[derive(Debug, Default)]
pub(crate) struct Daemon {
    channel: Option<Channel>,
    /// Counts connections, so that an outcome for one that is gone is not told to the next.
    generation: u64,
}

/// Which connection asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asker {
    generation: u64,
    /// The operation's number there.
    pub(crate) op: OpId,
}

impl Daemon {
    /// The connection's socket, if there is one.
    pub(crate) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    /// Serves this connection from now on.
    pub(crate) fn replace(&mut self, channel: Channel, poller: &Poller) {
        self.forget(poller);
        if poller.add(&channel, DAEMON, Interest::Read).is_ok() {
            self.channel = Some(channel);
        }
    }

    /// Ends the connection; facts keep what happens until the next one.
    pub(crate) fn forget(&mut self, poller: &Poller) {
        if let Some(channel) = self.channel.take() {
            poller.remove(&channel);
        }
        self.generation += 1;
    }

    /// The next call, if one is there.
    pub(crate) fn receive(&self) -> Result<Received<LauncherCall>, ReceiveError> {
        self.channel.as_ref().map_or(Err(ReceiveError::Closed), |channel| channel.receive(Wait::Never))
    }

    /// Who asks with this operation.
    pub(crate) fn asker(&self, op: OpId) -> Asker {
        Asker { generation: self.generation, op }
    }

    /// Answers who asked, if it is still there.
    pub(crate) fn answer(&self, asker: Asker, outcome: LauncherOutcome, fds: &[BorrowedFd<'_>]) {
        if asker.generation == self.generation {
            self.tell(&LauncherEvent::Outcome { op: asker.op, outcome }, fds);
        }
    }

    /// Tells the daemon something. One that does not read is as good as gone: what it misses, it finds in the facts
    /// when it connects again.
    pub(crate) fn tell(&self, event: &LauncherEvent, fds: &[BorrowedFd<'_>]) {
        if let Some(channel) = &self.channel
            && channel.send(event, fds, Wait::Never).is_err()
        {
            // Its end is then reported by the poller, and the connection forgotten there.
            rustix::net::shutdown(channel.as_fd(), rustix::net::Shutdown::Both).unwrap_or_default();
        }
    }
}
