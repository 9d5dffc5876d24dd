//! The conversation with the launcher, without blocking a thread.
//!
//! ```text
//!  call ── op, descriptors ──> launcher          one task reads events and gives each to who waits for it:
//!       <── Outcome ──┐                            outcomes by operation, exits by container
//!                     └── reader task <── events
//! ```
//!
//! Calls are sent by the caller itself, so nothing is handed between tasks on the way of a start. When the launcher
//! goes away, everybody who waits for an outcome is told; exits are waited for on, because the next launcher knows
//! what runs and what ended.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use insula_api::{Problem, ProblemCode};
use insula_model::ContainerId;
use insula_plan::protocol::PROTOCOL_VERSION;
use insula_plan::protocol::channel::{Channel, ReceiveError, Received, SendError, Wait};
use insula_plan::protocol::facts::EndedFact;
use insula_plan::protocol::keeper::KeeperAnswer;
use insula_plan::protocol::launcher::{LauncherCall, LauncherEvent, LauncherOutcome, LauncherRequest, OpId};
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};

use super::failure::{failure_problem, lost};
use crate::attach::server::watch as watch_fd;
use crate::host::Exit;

/// Longest wait for a launcher's successor.
const SUCCESSOR_WAIT_MAX: Duration = Duration::from_secs(15);

/// How often a busy launcher is asked to become another build.
const UPGRADE_TRIES: u32 = 200;
/// Pause between two tries.
const UPGRADE_PAUSE: Duration = Duration::from_millis(50);

/// Outcome of a call with its descriptors.
pub(super) type Outcome = Received<LauncherOutcome>;

/// One connection to a launcher.
#[derive(Debug)]
struct Connection {
    channel: Channel,
    ready: AsyncFd<OwnedFd>,
    /// Nobody reads from it any more. Written and read under the lock of [`State`].
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<Arc<Connection>>,
    /// Process number of the launcher there.
    launcher: Option<u32>,
    last_op: u64,
    calls: HashMap<OpId, oneshot::Sender<Result<Outcome, Problem>>>,
    exits: HashMap<ContainerId, oneshot::Sender<Exit>>,
}

/// The daemon's end of the conversation.
#[derive(Debug, Default)]
pub(super) struct Link {
    state: Mutex<State>,
    connected: watch::Sender<bool>,
}

impl Link {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock would be between two map operations.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a new connection and says hello. A launcher that runs another file than `program` is asked to become it,
    /// with containers, connection and process number as they are. Returns when the launcher welcomed us.
    ///
    /// # Errors
    ///
    /// It speaks another version and cannot become ours, or went away again.
    pub(super) async fn take(self: &Arc<Self>, channel: Channel, program: &Path) -> Result<(), Problem> {
        let ready = channel.as_fd().try_clone_to_owned().and_then(watch_fd);
        let ready = ready.map_err(|error| lost(&format!("watch the launcher's socket: {error}")))?;
        let connection = Arc::new(Connection { channel, ready, closed: AtomicBool::new(false) });
        tokio::spawn(read(self.clone(), connection.clone()));
        let (mut version, pid) = self.greet(&connection).await?;
        if runs_another_build(pid, program) {
            tracing::info!(pid, version, program = %program.display(), "the launcher is of another build: replaced");
            match self.upgrade(&connection, program).await {
                Ok(()) => version = self.greet(&connection).await?.0,
                // It does what it did for the daemon before.
                Err(problem) if version == PROTOCOL_VERSION => {
                    tracing::warn!(detail = problem.detail, "the launcher stays of another build");
                }
                Err(problem) => tracing::error!(detail = problem.detail, "replace the launcher"),
            }
        }
        if version != PROTOCOL_VERSION {
            let detail =
                format!("the launcher (pid {pid}) speaks version {version} of the protocol, not {PROTOCOL_VERSION}");
            let remedy = "install all programs of one build together and restart the daemon; if the launcher is newer, \
                          run the newer build";
            return Err(Problem::new(ProblemCode::NotSupported, detail).with_remedy(remedy));
        }
        self.publish(connection, pid)
    }

    /// Says hello; what the launcher speaks, and its process number.
    async fn greet(&self, connection: &Arc<Connection>) -> Result<(u16, u32), Problem> {
        let hello = LauncherRequest::Hello { version: PROTOCOL_VERSION };
        let (_, welcome) = self.send_on(connection, hello, &[]).await?;
        match welcome.await.map_err(|_| lost("the launcher ended"))??.message {
            LauncherOutcome::Welcome { version, pid, running } => {
                tracing::info!(pid, version, running, "launcher");
                Ok((version, pid))
            }
            _ => Err(lost("the launcher did not welcome us")),
        }
    }

    /// Has the launcher become `program`, when starts that a daemon before had begun are done.
    async fn upgrade(&self, connection: &Arc<Connection>, program: &Path) -> Result<(), Problem> {
        let file = std::fs::File::open(program)
            .map_err(|error| Problem::new(ProblemCode::Internal, format!("open {}: {error}", program.display())))?;
        for _ in 1..UPGRADE_TRIES {
            let (_, outcome) = self.send_on(connection, LauncherRequest::Upgrade, &[file.as_fd()]).await?;
            match outcome.await.map_err(|_| lost("the launcher ended while it became another build"))? {
                Ok(_) => return Ok(()),
                // What a failure of kind `Busy` is to a user.
                Err(problem) if problem.code == ProblemCode::Conflict => tokio::time::sleep(UPGRADE_PAUSE).await,
                Err(problem) => return Err(problem),
            }
        }
        Err(Problem::new(ProblemCode::Conflict, "the launcher was busy all the time"))
    }

    /// Lets everybody send: not before, because the hello is the first word.
    fn publish(&self, connection: Arc<Connection>, pid: u32) -> Result<(), Problem> {
        let mut state = self.state();
        if connection.closed.load(Ordering::Relaxed) {
            return Err(lost("the launcher ended"));
        }
        state.connection = Some(connection);
        state.launcher = Some(pid);
        self.connected.send_replace(true);
        Ok(())
    }

    /// Process number of the launcher, or of the last one.
    pub(super) fn launcher(&self) -> Option<u32> {
        self.state().launcher
    }

    /// Waits until there is no connection.
    pub(super) async fn ended(&self) {
        // The sender is in here too, so the wait cannot fail.
        self.connected.subscribe().wait_for(|connected| !connected).await.ok();
    }

    /// Sends a request and waits for its outcome; a failure is an error.
    ///
    /// # Errors
    ///
    /// The launcher refused, failed or is gone.
    pub(super) async fn call(&self, request: LauncherRequest, fds: &[BorrowedFd<'_>]) -> Result<Outcome, Problem> {
        self.send(request, fds).await?.1.await.map_err(|_| lost("the launcher ended"))?
    }

    /// Sends a request; what comes back is received later.
    ///
    /// # Errors
    ///
    /// The launcher is gone, or the request too large.
    pub(super) async fn send(
        &self,
        request: LauncherRequest,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(OpId, oneshot::Receiver<Result<Outcome, Problem>>), Problem> {
        let connection = self.connection().await?;
        self.send_on(&connection, request, fds).await
    }

    /// The connection, or the next one: a launcher that died has a successor in a moment.
    async fn connection(&self) -> Result<Arc<Connection>, Problem> {
        let mut connected = self.connected.subscribe();
        let found = async {
            loop {
                // The sender is in here too, so the wait cannot fail.
                connected.wait_for(|connected| *connected).await.ok();
                if let Some(connection) = self.state().connection.clone() {
                    return connection;
                }
            }
        };
        let found = tokio::time::timeout(SUCCESSOR_WAIT_MAX, found);
        found.await.map_err(|_| lost("the launcher is not there"))
    }

    async fn send_on(
        &self,
        connection: &Arc<Connection>,
        request: LauncherRequest,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(OpId, oneshot::Receiver<Result<Outcome, Problem>>), Problem> {
        let (answer, answered) = oneshot::channel();
        let op = {
            let mut state = self.state();
            state.last_op += 1;
            let op = OpId(state.last_op);
            state.calls.insert(op, answer);
            op
        };
        let call = LauncherCall { op, request };
        loop {
            match connection.channel.send(&call, fds, Wait::Never) {
                Ok(()) => return Ok((op, answered)),
                Err(SendError::WouldBlock) => match connection.ready.writable().await {
                    Ok(mut ready) => ready.clear_ready(),
                    Err(error) => return Err(self.unsent(op, &format!("wait for the launcher: {error}"))),
                },
                Err(error) => {
                    if matches!(error, SendError::Closed) {
                        // Known here before its end is read: whoever tries again waits for the successor.
                        self.closed(connection);
                    }
                    return Err(self.unsent(op, &format!("send to the launcher: {error}")));
                }
            }
        }
    }

    fn unsent(&self, op: OpId, why: &str) -> Problem {
        self.state().calls.remove(&op);
        lost(why)
    }

    /// Done when `container` ended. To be called before its start is sent.
    pub(super) fn expect_exit(&self, container: ContainerId) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        self.state().exits.insert(container, sender);
        receiver
    }

    /// Nobody waits for the exit of `container` any more.
    pub(super) fn forget_exit(&self, container: ContainerId) {
        self.state().exits.remove(&container);
    }

    /// Containers whose exit somebody waits for.
    pub(super) fn expected_exits(&self) -> Vec<ContainerId> {
        self.state().exits.keys().copied().collect()
    }

    /// Tells who waits for it that `container` ended.
    pub(super) fn exited(&self, container: ContainerId, exit: Exit) {
        if let Some(sender) = self.state().exits.remove(&container) {
            // Who waited may be gone; the end is also a fact in the run directory.
            sender.send(exit).ok();
        }
    }

    fn heard(&self, Received { message, fds }: Received<LauncherEvent>) {
        match message {
            LauncherEvent::Outcome { op, outcome } => {
                let Some(answer) = self.state().calls.remove(&op) else { return };
                let result = match outcome {
                    LauncherOutcome::Failed(failure) | LauncherOutcome::Kept(KeeperAnswer::Failed(failure)) => {
                        Err(failure_problem(&failure))
                    }
                    message => Ok(Received { message, fds }),
                };
                answer.send(result).ok();
            }
            LauncherEvent::Exited { container, end } => self.exited(container, exit_of(&end)),
            LauncherEvent::LogDrained { .. } => {}
            LauncherEvent::KeeperRestarted => tracing::warn!("the keeper died; a new one has its place"),
        }
    }

    fn closed(&self, connection: &Arc<Connection>) {
        let mut state = self.state();
        if connection.closed.swap(true, Ordering::Relaxed) {
            return;
        }
        // None is there when it closed before the launcher answered the hello.
        if state.connection.as_ref().is_none_or(|now| Arc::ptr_eq(now, connection)) {
            state.connection = None;
            // Dropping the senders tells everybody who waits for an outcome.
            state.calls.clear();
            self.connected.send_replace(false);
        }
    }
}

/// How a container ended, in the node's words.
pub(super) fn exit_of(end: &EndedFact) -> Exit {
    Exit {
        code: end.status.map(|status| i32::from(status.code())),
        reason: end.unknown_because.clone(),
        at: time_of(end.at.0),
    }
}

/// A moment given in nanoseconds since 1970.
pub(super) fn time_of(nanoseconds: u64) -> jiff::Timestamp {
    jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// Whether the process runs another file than `program`: a package that is installed anew is another one, whatever its
/// version says.
fn runs_another_build(pid: u32, program: &Path) -> bool {
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let runs = identity(Path::new(&format!("/proc/{pid}/exe")));
    runs.zip(identity(program)).is_some_and(|(runs, wanted)| runs != wanted)
}

async fn read(link: Arc<Link>, connection: Arc<Connection>) {
    loop {
        let Ok(mut ready) = connection.ready.readable().await else { break };
        let received = ready.try_io(|_| {
            connection.channel.receive::<LauncherEvent>(Wait::Never).map_err(|error| match error {
                ReceiveError::WouldBlock => std::io::ErrorKind::WouldBlock.into(),
                error => std::io::Error::other(error),
            })
        });
        match received {
            Ok(Ok(event)) => link.heard(event),
            // Nothing is there any more; the kernel says when there is.
            Err(_) => {}
            Ok(Err(error)) => {
                let closed = error.get_ref().and_then(|inner| inner.downcast_ref::<ReceiveError>());
                if !matches!(closed, Some(ReceiveError::Closed)) {
                    tracing::error!(%error, "launcher");
                }
                break;
            }
        }
    }
    link.closed(&connection);
}
