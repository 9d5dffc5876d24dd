//! Serves the attach socket: one task per connection, one attachment per connection.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use insula_api::attach::{AttachAnswer, AttachRequest, AttachStream, AttachTo};
use insula_api::{CreateContainer, CreatedContainer, Problem, ProblemCode, paths};
use insula_kernel::peer::peer_credentials;
use insula_model::ContainerId;
use jiff::Timestamp;
use rustix::fs::FileType;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;

use super::packet::{self, PacketError};
use super::{Purpose, exec_order, running};
use crate::api::create_and_tell;
use crate::audit::{AuditLine, Caller};
use crate::container::command::Answer;
use crate::container::handle::ContainerHandle;
use crate::context::Context;
use crate::host::{AttachOrder, Onlooker, Streams};

/// Connections at a time; further clients wait to be accepted.
const CONNECTIONS_MAX: usize = 8_192;
/// Time a client has to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes the listener; a stale socket is replaced. Who may connect is set by the caller.
///
/// # Errors
///
/// The file system's.
pub(crate) fn listen(path: &Path) -> std::io::Result<AsyncFd<OwnedFd>> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    // Until the caller opens it up nobody but root may connect.
    rustix::fs::fchmod(&socket, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 1_024)?;
    watch(socket)
}

/// Lets the runtime say when `fd` is ready.
///
/// # Errors
///
/// The kernel has no room for another watched descriptor.
#[expect(deprecated, reason = "its successor is unsafe; an OwnedFd keeps its descriptor as long as it is watched")]
pub(crate) fn watch(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}

/// Accepts connections until the task is dropped.
pub(crate) async fn serve(context: Arc<Context>, listener: AsyncFd<OwnedFd>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match accept(&listener).await {
            Ok(socket) => {
                let context = context.clone();
                tokio::spawn(async move {
                    if let Err(error) = connection(&context, &socket).await {
                        tracing::debug!(error = %error, "attach");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors or memory: what is connected goes on, new ones wait a moment.
                tracing::warn!(%error, "accept on the attach socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn accept(listener: &AsyncFd<OwnedFd>) -> std::io::Result<AsyncFd<OwnedFd>> {
    loop {
        let mut ready = listener.readable().await?;
        match rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => return watch(socket),
            Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

async fn connection(context: &Arc<Context>, socket: &AsyncFd<OwnedFd>) -> Result<(), PacketError> {
    let received = tokio::time::timeout(REQUEST_TIMEOUT, packet::receive::<AttachRequest>(socket)).await;
    let (request, fds) = match received {
        Ok(Ok(received)) => received,
        Ok(Err(PacketError::Form(error))) => {
            let problem = Problem::new(ProblemCode::Invalid, format!("attach request: {error}"));
            return packet::send(socket, &AttachAnswer::Refused(problem), &[]).await;
        }
        Ok(Err(error)) => return Err(error),
        Err(_) => return Ok(()),
    };
    let given = match GivenFds::sort(&request.streams, fds) {
        Ok(given) => given,
        Err(problem) => return packet::send(socket, &AttachAnswer::Refused(problem), &[]).await,
    };
    let token = match request.to {
        AttachTo::Token(token) => token,
        AttachTo::Run(create) => return run(context, socket, *create, given).await,
    };
    let purpose = context.tokens.redeem(&token);
    let result = match purpose {
        None => Err(Problem::new(ProblemCode::Denied, "the attach token is unknown, used or too old")),
        Some(Purpose::Start(id)) => {
            return match context.directory.get(id) {
                Some(handle) => start(socket, handle, given, None).await,
                None => {
                    let problem = Problem::new(ProblemCode::NotFound, format!("container {id} does not exist"));
                    packet::send(socket, &AttachAnswer::Refused(problem), &[]).await
                }
            };
        }
        Some(Purpose::Attach(id)) => return attach(context, socket, id, given).await,
        Some(Purpose::Exec(id, request)) => exec(context, id, *request, given).await,
        Some(Purpose::Transfer(sender)) => transfer(sender, given),
    };
    match result {
        Ok((answer, fds)) => packet::send(socket, &answer, &fds).await,
        Err(problem) => packet::send(socket, &AttachAnswer::Refused(problem), &[]).await,
    }
}

/// A client's descriptors by their use.
#[derive(Debug, Default)]
struct GivenFds {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    file: Option<OwnedFd>,
}

impl GivenFds {
    fn sort(streams: &[AttachStream], fds: Vec<OwnedFd>) -> Result<Self, Problem> {
        if streams.len() != fds.len() {
            let detail = format!("attach request names {} streams and brings {} descriptors", streams.len(), fds.len());
            return Err(Problem::new(ProblemCode::Invalid, detail));
        }
        let mut given = Self::default();
        for (stream, fd) in streams.iter().zip(fds) {
            check_kind(*stream, &fd)?;
            let place = match stream {
                AttachStream::Stdin => &mut given.stdin,
                AttachStream::Stdout => &mut given.stdout,
                AttachStream::Stderr => &mut given.stderr,
                AttachStream::File => &mut given.file,
            };
            if place.replace(fd).is_some() {
                return Err(Problem::new(ProblemCode::Invalid, "attach request names a stream twice"));
            }
        }
        Ok(given)
    }

    fn streams(self, terminal: bool) -> Streams {
        match self {
            Self { stdout, .. } if terminal => Streams::Terminal { output: stdout },
            Self { stdin: None, stdout: None, stderr: None, .. } => Streams::Detached,
            Self { stdin, stdout, stderr, .. } => Streams::Given { stdin, stdout, stderr },
        }
    }
}

/// A terminal, a directory or a device would let a container reach back to its client.
fn check_kind(stream: AttachStream, fd: &OwnedFd) -> Result<(), Problem> {
    let stat = rustix::fs::fstat(fd.as_fd())
        .map_err(|errno| Problem::new(ProblemCode::Invalid, format!("attached descriptor: {errno}")))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let taken = match kind {
        FileType::Fifo | FileType::RegularFile => true,
        FileType::Socket => rustix::net::sockopt::socket_type(fd.as_fd()) == Ok(SocketType::STREAM),
        FileType::Directory => stream == AttachStream::File,
        _ => false,
    };
    if taken {
        return Ok(());
    }
    let detail = format!("attached {stream:?} is neither a pipe nor a stream socket nor a regular file ({kind:?})");
    Err(Problem::new(ProblemCode::Invalid, detail).with_remedy("copy terminals and devices through a pipe"))
}

/// Creates a container and starts it: what `POST /v1/containers` with `attach` and its token do, in one message.
async fn run(
    context: &Arc<Context>,
    socket: &AsyncFd<OwnedFd>,
    create: CreateContainer,
    given: GivenFds,
) -> Result<(), PacketError> {
    let result = create_and_tell(context, CreateContainer { attach: true, start: false, ..create }).await;
    let peer = peer_credentials(socket).ok();
    context.audit.note(AuditLine {
        time: Timestamp::now(),
        caller: peer
            .map(|peer| Caller { uid: peer.uid.as_raw(), pid: peer.pid.map_or(0, |pid| pid.as_raw_nonzero().get()) }),
        method: "POST".to_owned(),
        path: paths::CONTAINERS.to_owned(),
        status: result.as_ref().map_or_else(|problem| problem.status, |_| 201),
        lost: 0,
    });
    match result {
        Ok((handle, created)) => start(socket, handle, given, Some(created)).await,
        Err(problem) => packet::send(socket, &AttachAnswer::Refused(problem), &[]).await,
    }
}

/// Starts a container with the client's streams and tells the client of it and of its end.
async fn start(
    socket: &AsyncFd<OwnedFd>,
    handle: ContainerHandle,
    given: GivenFds,
    created: Option<CreatedContainer>,
) -> Result<(), PacketError> {
    let before = handle.snapshot();
    let streams = given.streams(before.spec.tty);
    let answer = match streams {
        // Attached without a single stream: nothing to give, but the client still follows the container.
        Streams::Detached => handle.ask(crate::container::words::Ask::Start).await,
        streams => handle.start_attached(streams).await,
    };
    let (fds, pid, end_file, warnings) = match answer {
        Ok(Answer::Attached(attachment)) => {
            let end_file = attachment.follow.len() > 1;
            let fds = attachment.follow.into_iter().chain(attachment.master).collect();
            (fds, Some(attachment.pid), end_file, Vec::new())
        }
        Ok(Answer::RolledBack) => (Vec::new(), handle.snapshot().facts.pid, false, vec![rolled_back(&handle)]),
        Ok(_) => (Vec::new(), handle.snapshot().facts.pid, false, Vec::new()),
        Err(problem) => return packet::send(socket, &AttachAnswer::Refused(problem), &[]).await,
    };
    let answer = AttachAnswer::Attached { pid, end_file, created, warnings };
    packet::send(socket, &answer, &fds).await?;
    drop(fds);
    relay_end(socket, &handle, before.starts + 1).await
}

fn rolled_back(handle: &ContainerHandle) -> String {
    let snapshot = handle.snapshot();
    let why = snapshot.record.rolled_back.clone().unwrap_or_else(|| "the changed image failed".to_owned());
    format!("{why}; {} runs again", snapshot.record.image)
}

/// Lets a client see a container that runs. Nothing of the container changes by that, so its driver is not asked.
async fn attach(
    context: &Arc<Context>,
    socket: &AsyncFd<OwnedFd>,
    id: ContainerId,
    given: GivenFds,
) -> Result<(), PacketError> {
    let result = match context.directory.get(id) {
        Some(handle) => look_on(context, handle, given).await,
        None => Err(Problem::new(ProblemCode::NotFound, format!("container {id} does not exist"))),
    };
    match result {
        Ok((handle, starts, onlooker)) => {
            let end_file = onlooker.follow.len() > 1;
            let mut fds = onlooker.follow;
            fds.extend(onlooker.input);
            let pid = handle.snapshot().facts.pid;
            let answer = AttachAnswer::Attached { pid, end_file, created: None, warnings: onlooker.warnings };
            packet::send(socket, &answer, &fds).await?;
            drop(fds);
            relay_end(socket, &handle, starts).await
        }
        Err(problem) => packet::send(socket, &AttachAnswer::Refused(problem), &[]).await,
    }
}

async fn look_on(
    context: &Context,
    handle: ContainerHandle,
    given: GivenFds,
) -> Result<(ContainerHandle, u64, Onlooker), Problem> {
    let snapshot = running(&handle)?;
    let order = AttachOrder {
        id: handle.id,
        name: snapshot.record.name.clone(),
        spec: snapshot.spec.clone(),
        stdout: given.stdout,
        stderr: given.stderr,
    };
    let onlooker = context.host.attach(order).await?;
    Ok((handle, snapshot.starts, onlooker))
}

/// Tells the client how the run with this number ended, unless the client leaves before.
async fn relay_end(socket: &AsyncFd<OwnedFd>, handle: &ContainerHandle, run: u64) -> Result<(), PacketError> {
    let ended = handle.wait_for(|now| now.starts >= run && (now.facts.pid.is_none() || now.starts > run));
    tokio::select! {
        snapshot = ended => {
            let facts = &snapshot.facts;
            let answer = AttachAnswer::Ended { exit_code: facts.exit_code, reason: facts.reason.clone() };
            packet::send(socket, &answer, &[]).await
        }
        () = packet::closed(socket) => Ok(()),
    }
}

async fn exec(
    context: &Arc<Context>,
    id: ContainerId,
    request: insula_api::ExecRequest,
    given: GivenFds,
) -> Result<(AttachAnswer, Vec<OwnedFd>), Problem> {
    let handle = context
        .directory
        .get(id)
        .ok_or_else(|| Problem::new(ProblemCode::NotFound, format!("container {id} does not exist")))?;
    let order = exec_order(&handle, request, |terminal| given.streams(terminal))?;
    let started = context.host.exec(order).await?;
    let mut fds = vec![started.status];
    fds.extend(started.master);
    Ok((AttachAnswer::Attached { pid: started.pid, end_file: false, created: None, warnings: Vec::new() }, fds))
}

fn transfer(
    sender: tokio::sync::oneshot::Sender<OwnedFd>,
    given: GivenFds,
) -> Result<(AttachAnswer, Vec<OwnedFd>), Problem> {
    let file = given.file.ok_or_else(|| Problem::new(ProblemCode::Invalid, "attach request brings no file"))?;
    sender.send(file).map_err(|_| Problem::new(ProblemCode::Cancelled, "the operation has ended meanwhile"))?;
    Ok((AttachAnswer::Attached { pid: None, end_file: false, created: None, warnings: Vec::new() }, Vec::new()))
}
