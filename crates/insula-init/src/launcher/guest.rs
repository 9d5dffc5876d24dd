//! The guest services: started with what the keeper holds for them, and again whenever they die.
//!
//! Nothing but the fact in the run directory and the keeper's descriptors says that there are services, so a launcher
//! that takes a dead one's place starts them without a daemon. They die with their launcher (its next one starts them
//! over the same sockets, in whose queues questions wait meanwhile), so none is ever adopted, and none stays behind.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use insula_kernel::fork::{Fork, exit_now, fork};
use insula_kernel::{execute, fd_table, signals};
use insula_plan::protocol::facts::{self, GuestFact};
use insula_plan::protocol::failure::{Failure, FailureKind};
use insula_plan::protocol::launcher::LauncherOutcome;
use insula_plan::protocol::names::GIVEN_NAMES;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, getppid, kill_process, set_parent_process_death_signal};

use super::Launcher;
use super::keeper_link::KeeperLink;
use super::respawn::Respawn;

/// The service, or that there is to be one.
#[derive(Debug)]
pub(crate) struct Guest {
    program: PathBuf,
    run_dir: PathBuf,
    wanted: Option<GuestFact>,
    running: Option<Pid>,
    respawn: Respawn,
}

impl Guest {
    /// A service that is wanted if the fact says so, and is due at once.
    pub(crate) fn new((program, run_dir): (PathBuf, PathBuf), wanted: Option<GuestFact>, now: Instant) -> Self {
        let mut guest = Self { program, run_dir, wanted, running: None, respawn: Respawn::default() };
        guest.revive(now);
        guest
    }

    /// How long the loop may wait before the service is due.
    pub(crate) fn pause(&self, now: Instant) -> Option<Duration> {
        self.respawn.pause(now)
    }

    /// Whether `pid` was the service; then it is due again.
    pub(crate) fn ended(&mut self, pid: Pid, now: Instant) -> bool {
        if self.running.take_if(|running| *running == pid).is_none() {
            return false;
        }
        self.respawn.died(now);
        true
    }

    /// Starts it if it is due. What cannot be started now is tried again later.
    pub(crate) fn start_if_due(&mut self, keeper: &KeeperLink, now: Instant) {
        let Some(wanted) = self.wanted.filter(|_| self.respawn.is_due(now)) else { return };
        match self.spawn(wanted, keeper) {
            Ok(pid) => {
                self.running = Some(pid);
                self.respawn.began(now);
            }
            Err(_) => self.respawn.died(now),
        }
    }

    /// From now on it is wanted as `fact` says; one that runs is replaced.
    fn want(&mut self, fact: GuestFact, now: Instant) {
        self.wanted = Some(fact);
        self.end();
        self.respawn.request(now);
    }

    /// Ends the one that runs, if one does; its end is heard of later.
    fn kill(&self) {
        if let Some(pid) = self.running {
            // It is our child and was not waited for, so the number is its own.
            kill_process(pid, Signal::KILL).unwrap_or_default();
        }
    }

    /// Ends the one that runs and waits until it is gone. None is due.
    pub(crate) fn end(&mut self) {
        self.kill();
        if let Some(pid) = self.running.take() {
            // It cannot put it off: it has no file to wait for, and the signal cannot be held back.
            rustix::process::waitpid(Some(pid), WaitOptions::empty()).map(drop).unwrap_or_default();
        }
        self.respawn.withdraw();
    }

    /// The wanted one is due: this launcher stays after all.
    pub(crate) fn revive(&mut self, now: Instant) {
        if self.wanted.is_some() {
            self.respawn.request(now);
        }
    }
}

impl Launcher {
    /// Runs the services from now on.
    pub(crate) fn serve_guests(&mut self, fact: GuestFact) -> Result<LauncherOutcome, Failure> {
        if !self.guest.program.is_file() {
            return Err(Failure::new(FailureKind::Unknown, format!("{} is missing", self.guest.program.display())));
        }
        if given(&self.keeper).len() < 2 {
            return Err(Failure::new(FailureKind::Malformed, "the keeper holds no table and socket for the services"));
        }
        facts::write(&self.run.guest_fact(), &fact)
            .map_err(|error| Failure::from_error(FailureKind::Kernel, &error))?;
        self.guest.want(fact, Instant::now());
        Ok(LauncherOutcome::Done)
    }

    /// Runs the services no more.
    pub(crate) fn end_guests(&mut self) {
        self.guest.wanted = None;
        self.guest.end();
        facts::remove(&self.run.guest_fact()).unwrap_or_default();
    }
}

/// What the keeper holds for the service: the table, then the sockets; nothing without a table.
fn given(keeper: &KeeperLink) -> Vec<BorrowedFd<'_>> {
    let mut held = GIVEN_NAMES.iter().map(|name| name.parse().ok().and_then(|name| keeper.stored(&name)));
    match held.next().flatten() {
        Some(table) => std::iter::once(table).chain(held.flatten()).collect(),
        None => Vec::new(),
    }
}

impl Guest {
    fn spawn(&self, wanted: GuestFact, keeper: &KeeperLink) -> Result<Pid, Errno> {
        let given = given(keeper);
        let sockets = given.len().checked_sub(1).ok_or(Errno::NOENT)?;
        let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno::INVAL);
        let path = text(self.program.as_os_str().as_bytes())?;
        let (id, count) = (wanted.id.to_string(), sockets.to_string());
        let argv = [b"insula-guest", self.run_dir.as_os_str().as_bytes(), id.as_bytes(), count.as_bytes()];
        let argv = argv.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let launcher = getpid();
        if let Fork::Parent(pid) = fork()? {
            return Ok(pid);
        }
        // Set again by the service itself, whose change of ids ends it; until then this holds.
        let bound = set_parent_process_death_signal(Some(Signal::KILL)).is_ok() && getppid() == Some(launcher);
        // What the launcher may have been spared, what faces containers is not.
        std::fs::write("/proc/self/oom_score_adj", "0").unwrap_or_default();
        let error_output = std::io::stderr();
        let mut fds = vec![null.as_fd(), null.as_fd(), error_output.as_fd()];
        fds.extend(given);
        if bound && fd_table::replace(&fds, fds.len()).is_ok() {
            signals::reset_dispositions();
            signals::unblock_all().unwrap_or_default();
            // What it returns is the reason; its end tells the launcher enough.
            let _reason = execute::execute(&path, &argv, &[]);
        }
        exit_now(127)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_child_is_not_the_service() {
        let now = Instant::now();
        let mut guest = Guest::new(("/nowhere".into(), "/nowhere".into()), Some(GuestFact { id: 7 }), now);
        guest.running = Pid::from_raw(4_000_000);
        assert!(!guest.ended(Pid::from_raw(4_000_001).unwrap(), now));
        assert!(guest.running.is_some());
    }

    #[test]
    fn nothing_is_due_where_nothing_is_wanted() {
        let now = Instant::now();
        assert_eq!(Guest::new(("/nowhere".into(), "/nowhere".into()), None, now).pause(now), None);
    }
}
