//! What a keeper needs that knows nothing of what runs: launcher and keeper died together, and with them every copy of what
//! they held.
//!
//! Process 1 of ours holds the reading ends of its main process's outputs (or its terminal's master) at numbers that are
//! fixed ([`HELD_FDS`]), so nothing broke meanwhile; here they are taken from it without a word, which also a frozen
//! container allows. Ports are reserved anew. An image's own init holds nothing for us: its console is lost.

use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::Path;

use insula_api::{Problem, ProblemCode};
use insula_model::{ContainerId, LogMode};
use insula_plan::protocol::init::HELD_FDS;
use insula_plan::protocol::keeper::{FdName, KeeperRequest, LogStart, LogStream};
use insula_plan::protocol::launcher::LauncherRequest;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use super::console::TERMINAL;
use super::{Machine, lock};

/// What process 1 holds of one output.
enum Held {
    Pipe(OwnedFd),
    Master(OwnedFd),
}

impl Machine {
    /// Of a container that runs: whether its output is logged.
    pub(super) fn note_output(&self, id: ContainerId, log: LogMode) {
        lock(&self.outputs).insert(id, log);
    }

    /// It ends.
    pub(super) fn forget_output(&self, id: ContainerId) {
        lock(&self.outputs).remove(&id);
    }

    /// Gives a new keeper what it has to have of everything that runs. What cannot be had is said in the daemon's log.
    pub(super) async fn keep_again(&self) {
        let running: Vec<(ContainerId, LogMode)> = lock(&self.outputs).iter().map(|(&id, &log)| (id, log)).collect();
        for (id, log) in running {
            if let Err(problem) = self.keep_output_again(id, log).await {
                tracing::error!(container = %id, detail = problem.detail, "its output is not read any more");
            }
        }
        for (id, ports) in self.network.published() {
            for port in ports {
                if let Err(problem) = self.reserve_port(id, &port).await {
                    tracing::error!(container = %id, %port, detail = problem.detail, "its port is not reserved any more");
                }
            }
        }
    }

    async fn keep_output_again(&self, id: ContainerId, log: LogMode) -> Result<(), Problem> {
        let known = LauncherRequest::Keep(KeeperRequest::LogState { container: id });
        if self.run.join_fact(id).exists() || self.link.call(known, &[]).await.is_ok() {
            return Ok(());
        }
        let (mut streams, mut fds) =
            (Vec::new(), vec![open_log_dir(&self.log_path(id)).map_err(|error| lost(&error))?]);
        for (number, stream) in HELD_FDS.into_iter().zip([LogStream::Output, LogStream::Error]) {
            let held = match self.held_by_process_1(id, number)? {
                Some(Held::Pipe(pipe)) => pipe,
                Some(Held::Master(master)) => {
                    let name = FdName::of_container(id, TERMINAL).map_err(|error| lost(&error))?;
                    self.link.call(LauncherRequest::Keep(KeeperRequest::Put { name }), &[master.as_fd()]).await?;
                    master
                }
                None => continue,
            };
            streams.push(stream);
            fds.push(held);
        }
        if streams.is_empty() {
            return Ok(());
        }
        let files = (log != LogMode::Discarded).then_some(self.log_bounds);
        let start = LogStart { container: id, streams, tees: Vec::new(), files };
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        self.link.call(LauncherRequest::Keep(KeeperRequest::LogStart(start)), &fds).await.map(drop)
    }

    /// What stands at this number of a container's process 1, if it is an output.
    fn held_by_process_1(&self, id: ContainerId, number: RawFd) -> Result<Option<Held>, Problem> {
        let Some(process_1) = lock(&self.pidfds).get(&id).cloned() else { return Ok(None) };
        let held = pidfd_getfd(&*process_1, number, PidfdGetfdFlags::empty()).map_err(|errno| lost(&errno))?;
        let kind = rustix::fs::fstat(&held).map_err(|errno| lost(&errno))?.st_mode;
        Ok(match FileType::from_raw_mode(kind) {
            FileType::Fifo => Some(Held::Pipe(held)),
            FileType::CharacterDevice if rustix::termios::isatty(&held) => Some(Held::Master(held)),
            // Something harmless stands there for an output that nobody is to read.
            _ => None,
        })
    }
}

fn lost(error: &(dyn std::error::Error + 'static)) -> Problem {
    let mut problem = Problem::from_chain(ProblemCode::Internal, error);
    problem.detail = format!("take its outputs from process 1: {}", problem.detail);
    problem
}

/// The directory of a container's log, made if it is not there.
pub(super) fn open_log_dir(path: &Path) -> std::io::Result<OwnedFd> {
    match std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}
