//! Terminals of main processes: they stay when their client goes, and their output is the container's log.
//!
//! A master that nobody reads stops its writers when it is full, so the keeper reads it like a pipe, from the start
//! on and whether or not a client looks on; clients get copies, and write to a master of their own.
//!
//! Init systems open `/dev/console` anew for each message. Without a master that fails with `EIO`, for which systemd
//! waits a second each time. A master has an end whenever nobody has the other side open, so of a console the keeper
//! holds that too; of a terminal the main process does.

use std::os::fd::{AsFd, OwnedFd};

use insula_api::{Problem, ProblemCode};
use insula_plan::protocol::keeper::{FdName, KeeperRequest, LogStream, TeeSpec, WhenSlow};
use insula_plan::protocol::launcher::LauncherRequest;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};

use super::Machine;
use super::start::LogPipes;
use crate::host::StartOrder;

/// Name of the master that clients who attach are given.
pub(super) const TERMINAL: &str = "terminal";

/// What a master is to its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Master {
    /// Of the terminal of a main process.
    Terminal,
    /// Of the console of the image's own init.
    Console,
}

impl Machine {
    /// Lets the keeper hold and read a master until the container is swept, and copy it to `client`.
    ///
    /// # Errors
    ///
    /// The other side cannot be opened, or launcher or keeper are gone.
    pub(super) async fn keep_master(
        &self,
        order: &StartOrder,
        (kind, master): (Master, &OwnedFd),
        client: Option<OwnedFd>,
    ) -> Result<(), Problem> {
        let wrong = |error: &dyn std::fmt::Display| {
            let detail = format!("start container {}: terminal: {error}", order.name);
            Problem::new(ProblemCode::StartFailed, detail)
        };
        let (part, held) = match kind {
            Master::Terminal => (TERMINAL, master.try_clone().map_err(|error| wrong(&error))?),
            Master::Console => {
                let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
                ("console", ioctl_tiocgptpeer(master, flags).map_err(|error| wrong(&error))?)
            }
        };
        let name = FdName::of_container(order.id, part).map_err(|error| wrong(&error))?;
        self.link.call(LauncherRequest::Keep(KeeperRequest::Put { name }), &[held.as_fd()]).await?;
        let tee = TeeSpec { stream: LogStream::Output, when_slow: WhenSlow::Block };
        let mut fds = vec![self.log_dir(order)?, master.try_clone().map_err(|error| wrong(&error))?];
        let tees = client.iter().map(|_| tee).collect();
        fds.extend(client);
        self.start_log(order, LogPipes { streams: vec![LogStream::Output], tees, fds }).await
    }
}
