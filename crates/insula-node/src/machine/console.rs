//! Terminals of main processes: they stay when their client goes. The console of an image's init is its log as well.
//!
//! Init systems open `/dev/console` anew for each message. Without a master that fails with `EIO`, for which systemd
//! waits a second each time; with a master that nobody reads, writers stop when it is full. So the keeper reads it
//! like a pipe. A master has an end whenever nobody has the other side open, so the keeper holds that too.

use std::os::fd::{AsFd, OwnedFd};

use insula_api::{Problem, ProblemCode};
use insula_model::LogMode;
use insula_plan::protocol::keeper::{FdName, KeeperRequest, LogStart, LogStream, TeeSpec, WhenSlow};
use insula_plan::protocol::launcher::LauncherRequest;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};

use super::Machine;
use crate::host::StartOrder;

impl Machine {
    /// Keeps the main process's terminal open until the container is swept: a client that detaches or dies must not
    /// hang it up.
    ///
    /// # Errors
    ///
    /// Launcher or keeper are gone.
    pub(super) async fn keep_terminal(&self, order: &StartOrder, master: &OwnedFd) -> Result<(), Problem> {
        let name = FdName::of_container(order.id, "terminal").map_err(|error| {
            let detail = format!("start container {}: terminal: {error}", order.name);
            Problem::new(ProblemCode::StartFailed, detail)
        })?;
        self.link.call(LauncherRequest::Keep(KeeperRequest::Put { name }), &[master.as_fd()]).await.map(drop)
    }

    /// Lets the keeper read the console until the container is swept, and copy it to `client`.
    ///
    /// # Errors
    ///
    /// The other side cannot be opened, or launcher or keeper are gone.
    pub(super) async fn keep_console(
        &self,
        order: &StartOrder,
        master: &OwnedFd,
        client: Option<&OwnedFd>,
    ) -> Result<(), Problem> {
        let wrong = |error: &dyn std::fmt::Display| {
            let detail = format!("start container {}: console: {error}", order.name);
            Problem::new(ProblemCode::StartFailed, detail)
        };
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let other_side = ioctl_tiocgptpeer(master, flags).map_err(|error| wrong(&error))?;
        let name = FdName::of_container(order.id, "console").map_err(|error| wrong(&error))?;
        self.link.call(LauncherRequest::Keep(KeeperRequest::Put { name }), &[other_side.as_fd()]).await?;
        let tee = TeeSpec { stream: LogStream::Output, when_slow: WhenSlow::Block };
        let start = LogStart {
            container: order.id,
            streams: vec![LogStream::Output],
            tees: client.iter().map(|_| tee).collect(),
            files: (order.spec.log != LogMode::Discarded).then_some(self.log_bounds),
        };
        let directory = self.log_dir(order)?;
        let mut fds = vec![directory.as_fd(), master.as_fd()];
        fds.extend(client.map(AsFd::as_fd));
        self.link.call(LauncherRequest::Keep(KeeperRequest::LogStart(start)), &fds).await.map(drop)
    }
}
