//! Process 1 of a container: starts the main process, takes exec requests, reaps, and ends with the main process.
//!
//! ```text
//!             config           +-----------+  Started, Failed, Ended   status socket -> launcher
//!   launcher ------ fds 0..8 ->| process 1 |------------------------->
//!                              |           |  End                      exit fact (host file)
//!   host root -- exec socket ->|           |------------------------->
//!                              +-----------+
//!          signals (forwarded) -> main process     children of requests     orphans (reaped)
//! ```
//!
//! One thread, one epoll set, no call that can wait for anything of the container: names are resolved and programs
//! started by forked children. Bounded: 256 connections, 128 KiB per message. What is malformed ends its connection.
//!
//! Nothing of the container is trusted: connections from inside the pid namespace are closed unread, and the process
//! is not dumpable, so that container root can neither trace it nor look at its descriptors.

mod session;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use insula_kernel::fd_table;
use insula_kernel::signals::{self, Recipient, SignalFd};
use insula_plan::protocol::PROTOCOL_VERSION;
use insula_plan::protocol::channel::{self, Channel, Wait};
use insula_plan::protocol::init::{
    CONFIG_BYTES_MAX, CONFIG_FD, EXEC_FD, EXIT_FACT_FD, FIRST_FREE_FD, HELD_FDS, InitConfig, InitEvent, STATUS_FD,
};
use insula_plan::protocol::process::{SpawnFailure, Stdio};
use insula_plan::protocol::status::{End, ExitStatus, WallTime};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus};
use rustix::time::Timespec;

use crate::spawn::{self, Spawning};
use insula_kernel::poller::{Interest, Poller, Ready};
use session::Sessions;

/// Exit code when process 1 could not do its work at all.
const OWN_FAILURE: u8 = 125;

/// How long the rest of the container may take to die after it was killed, before process 1 leaves and the kernel
/// does the same once more.
const REAP_WAIT_MAX: Duration = Duration::from_millis(500);

/// Tokens of the fixed descriptors; a session's are its slot's number above these.
const SIGNALS: u64 = 0;
const LISTENER: u64 = 1;
const MAIN_REPORT: u64 = 2;
const FIRST_SESSION: u64 = 16;

/// Why process 1 could not begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// It was not started as process 1 of a container is.
    #[error("descriptor {number} is missing")]
    Descriptor {
        /// Which.
        number: RawFd,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// Its configuration is unreadable.
    #[error("read the configuration")]
    ReadConfig(#[source] Errno),
    /// Its configuration is longer than 4 MiB or not this version's.
    #[error("the configuration is malformed or of another version")]
    Config,
    /// A kernel call was refused.
    #[error("{call}")]
    Kernel {
        /// The call.
        call: &'static str,
        /// Why.
        #[source]
        errno: Errno,
    },
}

/// Runs until the container ends; gives the code to end with.
///
/// Called once, first thing in `main`: it takes over the descriptors of
/// [`insula_plan::protocol::init`] and closes all others.
#[must_use]
pub fn run() -> u8 {
    let status = match take(STATUS_FD) {
        Ok(status) => Channel::from_socket(status),
        Err(error) => return complain(&error),
    };
    let begun = begin(status);
    match begun {
        Ok((process, config)) => process.serve(config),
        Err(error) => complain(&error),
    }
}

/// Standard error is still who started us.
fn complain(error: &BeginError) -> u8 {
    let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    if let Ok(stderr) = fd_table::numbered(2) {
        rustix::io::write(stderr, format!("insula-init: {error}{source}\n").as_bytes()).unwrap_or_default();
    }
    OWN_FAILURE
}

fn take(number: RawFd) -> Result<OwnedFd, BeginError> {
    fd_table::take_inherited(number).map_err(|errno| BeginError::Descriptor { number, errno })
}

fn begin(status: Channel) -> Result<(Process1, InitConfig), BeginError> {
    let kernel = |call| move |errno| BeginError::Kernel { call, errno };
    let config = take(CONFIG_FD)?;
    let listener = take(EXEC_FD)?;
    let exit_fact = take(EXIT_FACT_FD)?;
    let [output, error] = HELD_FDS.map(take);
    let held = [output?, error?];
    fd_table::close_from(FIRST_FREE_FD).map_err(kernel("close_range"))?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(kernel("prctl(PR_SET_DUMPABLE)"))?;
    signals::reset_dispositions();
    let signals = SignalFd::block_all().map_err(kernel("signalfd"))?;
    let config = read_config(&config)?;
    let poller = Poller::new().map_err(kernel("epoll_create"))?;
    poller.add(&signals, SIGNALS, Interest::Read).map_err(kernel("epoll_ctl(signals)"))?;
    poller.add(&listener, LISTENER, Interest::Read).map_err(kernel("epoll_ctl(listener)"))?;
    let main = MainProcess::NotStarted;
    let sessions = Sessions::default();
    Ok((Process1 { poller, signals, status, listener, exit_fact, _held: held, main, sessions }, config))
}

fn read_config(memfd: &OwnedFd) -> Result<InitConfig, BeginError> {
    let length = rustix::fs::fstat(memfd).map_err(BeginError::ReadConfig)?.st_size;
    let length = usize::try_from(length).ok().filter(|&length| length <= CONFIG_BYTES_MAX).ok_or(BeginError::Config)?;
    let mut bytes = vec![0; length];
    let mut done = 0;
    while done < length {
        let offset = u64::try_from(done).map_err(|_| BeginError::Config)?;
        match rustix::io::pread(memfd, &mut bytes[done..], offset).map_err(BeginError::ReadConfig)? {
            0 => return Err(BeginError::Config),
            read => done += read,
        }
    }
    channel::decode::<InitConfig>(&bytes)
        .ok()
        .filter(|config| config.version == PROTOCOL_VERSION)
        .ok_or(BeginError::Config)
}

/// Whoever reads the main process's output must see its end: process 1 keeps no copy. Something harmless has to stand at
/// these numbers, or the next descriptor would.
fn occupy_streams(harmless: BorrowedFd<'_>) {
    for number in 0..=2 {
        fd_table::occupy(number, harmless).unwrap_or_default();
    }
}

#[derive(Debug)]
enum MainProcess {
    /// Not yet, or there is none.
    NotStarted,
    /// Forked; its program is not known to run yet.
    Starting(Spawning),
    Running(Pid),
    /// It ended, or never ran.
    Over(ExitStatus),
}

struct Process1 {
    poller: Poller,
    signals: SignalFd,
    status: Channel,
    listener: OwnedFd,
    exit_fact: OwnedFd,
    /// Only held, at [`HELD_FDS`].
    _held: [OwnedFd; 2],
    main: MainProcess,
    sessions: Sessions,
}

impl Process1 {
    fn serve(mut self, config: InitConfig) -> u8 {
        self.start_main(&config);
        drop(config);
        let mut ready = Vec::new();
        loop {
            if let MainProcess::Over(status) = self.main {
                return self.end(status);
            }
            if self.poller.wait(None, &mut ready).is_err() {
                return OWN_FAILURE;
            }
            for Ready { token } in ready.drain(..) {
                match token {
                    SIGNALS => self.on_signals(),
                    LISTENER => self.sessions.accept(&self.poller, self.listener.as_fd()),
                    MAIN_REPORT => self.on_main_report(),
                    slot => self.sessions.on_ready(&self.poller, slot),
                }
            }
        }
    }

    fn start_main(&mut self, config: &InitConfig) {
        let Some(main) = &config.main else {
            occupy_streams(self.poller.as_fd());
            return self.tell_launcher(
                &InitEvent::Started { pid: rustix::process::getpid().as_raw_pid().unsigned_abs() },
                &[],
            );
        };
        let streams = match (main.stdio, fd_table::numbered(0), fd_table::numbered(1), fd_table::numbered(2)) {
            (Stdio::Given, Ok(input), Ok(output), Ok(error)) => Some([input, output, error]),
            _ => None,
        };
        let spawned = spawn::spawn(main, streams).and_then(|spawning| {
            let watched = self.poller.add(&spawning.report, MAIN_REPORT, Interest::Read);
            watched.map(|()| spawning).map_err(|errno| SpawnFailure::Kernel {
                call: "epoll_ctl(report)".to_owned(),
                errno: errno.raw_os_error(),
            })
        });
        match spawned {
            Ok(spawning) => self.main = MainProcess::Starting(spawning),
            Err(failure) => self.main_failed(failure),
        }
        occupy_streams(self.poller.as_fd());
    }

    fn on_main_report(&mut self) {
        let MainProcess::Starting(spawning) = &mut self.main else { return };
        match spawn::outcome(spawning.report.as_fd()) {
            None => {}
            Some(Ok(())) => {
                self.poller.remove(&spawning.report);
                let (pid, terminal) = (spawning.pid, spawning.terminal.take());
                self.main = MainProcess::Running(pid);
                if let Some(master) = &terminal {
                    // Without it the terminal only hangs up when launcher and keeper die together.
                    fd_table::occupy(HELD_FDS[0], master.as_fd()).unwrap_or_default();
                }
                let terminal: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
                let started = InitEvent::Started { pid: pid.as_raw_nonzero().get().unsigned_abs() };
                self.tell_launcher(&started, &terminal);
            }
            Some(Err(failure)) => self.main_failed(failure),
        }
    }

    fn main_failed(&mut self, failure: SpawnFailure) {
        let status = ExitStatus::Exited(failure.exit_code());
        self.write_exit_fact(End { status, at: WallTime::now() });
        self.tell_launcher(&InitEvent::Failed(failure), &[]);
        self.main = MainProcess::Over(status);
    }

    fn on_signals(&mut self) {
        // One look at the children serves any number of SIGCHLD.
        let mut reap = false;
        while let Ok(Some(signal)) = self.signals.take() {
            if i32::from(signal.number) == rustix::process::Signal::CHILD.as_raw() {
                reap = true;
            } else if let MainProcess::Running(pid) = self.main {
                // It may be a zombie by now; nobody else can have its number before it is reaped here.
                signals::send(Recipient::Process(pid), signal.number).unwrap_or_default();
            }
        }
        if reap {
            self.reap();
        }
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            self.reaped(pid, status);
        }
    }

    fn reaped(&mut self, pid: Pid, status: WaitStatus) {
        let Some(status) = ExitStatus::from_wait(status) else { return };
        let end = End { status, at: WallTime::now() };
        if matches!(&self.main, MainProcess::Starting(spawning) if spawning.pid == pid) {
            // It is dead, so its report is complete.
            self.on_main_report();
        }
        match self.main {
            MainProcess::Running(main) if main == pid => {
                // The fact first: whoever is told may look for it.
                self.write_exit_fact(end);
                self.tell_launcher(&InitEvent::Ended(end), &[]);
                self.main = MainProcess::Over(status);
            }
            _ => self.sessions.reaped(&self.poller, pid, end),
        }
    }

    /// The launcher may be dead; then the fact is what counts.
    fn tell_launcher(&self, event: &InitEvent, fds: &[BorrowedFd<'_>]) {
        self.status.send(event, fds, Wait::Never).unwrap_or_default();
    }

    /// Nobody can be told if the run directory is full; process 1's own exit code still says it.
    fn write_exit_fact(&self, end: End) {
        rustix::io::pwrite(&self.exit_fact, &channel::encode(&end), 0).unwrap_or_default();
    }

    /// Kills what is left, tells those who wait for it, and gives the code to end with.
    fn end(mut self, status: ExitStatus) -> u8 {
        self.poller.remove(&self.listener);
        self.sessions.refuse_waiting(&self.poller, self.listener.as_fd());
        let deadline = Instant::now() + REAP_WAIT_MAX;
        let mut killed = false;
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => self.reaped(pid, status),
                // Only now: to send a signal to everybody the kernel looks at each task of the machine. Without a child
                // there is nobody, because every orphan is one; who entered from outside is killed by the kernel.
                Ok(None) if !killed => {
                    signals::send(Recipient::Everybody, session::KILL).unwrap_or_default();
                    killed = true;
                }
                Ok(None) if self.wait_for_signal(deadline) => {}
                Ok(None) | Err(_) => break,
            }
        }
        status.code()
    }

    /// Whether a signal came before the deadline; all that came are taken.
    fn wait_for_signal(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
        let mut fds = [PollFd::new(&self.signals, PollFlags::IN)];
        let came = !left.is_zero() && rustix::event::poll(&mut fds, Some(&timeout)).is_ok_and(|count| count > 0);
        while let Ok(Some(_)) = self.signals.take() {}
        came
    }
}
