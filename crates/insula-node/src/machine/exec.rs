//! Commands in running containers: through our process 1, or by the launcher where the image brings its own init.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use insula_api::{Problem, ProblemCode};
use insula_image::store::ImageInfo;
use insula_model::ContainerId;
use insula_plan::protocol::channel::{Channel, Wait};
use insula_plan::protocol::init::{ExecRequest, InitClient, InitEvent, OnClose, PendingExec, RunningExec, StdioFds};
use insula_plan::protocol::launcher::{LauncherOutcome, LauncherRequest};
use insula_plan::protocol::process::{ProcessSpec, WindowSize};
use insula_runtime::{MainStreams, Rights, exec_process};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::Machine;
use super::failure::exec_problem;
use super::start::is_full_init;
use crate::attach::server::watch;
use crate::host::{ExecOrder, StartedExec, Streams};

/// Standard streams of a command; all are there, or it has a terminal.
struct CommandStreams {
    main: MainStreams,
    fds: Option<[OwnedFd; 3]>,
}

impl Machine {
    /// Starts a command.
    pub(super) async fn start_exec(self: Arc<Self>, order: ExecOrder) -> Result<StartedExec, Problem> {
        let info = self.info(&order)?;
        let (process, streams) = process_of(&order, &info)?;
        let id = order.id;
        if is_full_init(&order.spec, &info.config) {
            return self.join(id, process, streams, OnClose::Leave).await;
        }
        let (running, status) = self.run_through_init(id, process, streams, OnClose::Leave).await?;
        Ok(StartedExec { pid: None, status, master: running.terminal })
    }

    /// Runs a command without streams to its end.
    pub(super) async fn run_exec_to_end(self: Arc<Self>, order: ExecOrder) -> Result<i32, Problem> {
        let info = self.info(&order)?;
        let (process, streams) = process_of(&order, &info)?;
        let ended = |error| Problem::new(ProblemCode::StartFailed, format!("the command's end was not seen: {error}"));
        if is_full_init(&order.spec, &info.config) {
            let started = self.join(order.id, process, streams, OnClose::Kill).await?;
            return end_of(&Channel::from_socket(started.status)).await.map_err(ended);
        }
        let (_running, status) = self.run_through_init(order.id, process, streams, OnClose::Kill).await?;
        end_of(&Channel::from_socket(status)).await.map_err(ended)
    }

    fn info(&self, order: &ExecOrder) -> Result<Arc<ImageInfo>, Problem> {
        let hold =
            self.images.hold(&order.image).map_err(|error| Problem::from_chain(ProblemCode::NotFound, &error))?;
        Ok(hold.info().clone())
    }

    async fn run_through_init(
        &self,
        id: ContainerId,
        process: ProcessSpec,
        streams: CommandStreams,
        on_close: OnClose,
    ) -> Result<(RunningExec, OwnedFd), Problem> {
        let channel = self.connect_to_init(id)?;
        let internal =
            |error: std::io::Error| Problem::new(ProblemCode::Internal, format!("socket of the command: {error}"));
        // A second handle on the connection, for who follows the command.
        let status = channel.as_fd().try_clone_to_owned().map_err(internal)?;
        let fds = streams.fds.as_ref().map(|[input, output, error]| StdioFds {
            input: input.as_fd(),
            output: output.as_fd(),
            error: error.as_fd(),
        });
        let request = ExecRequest { process, on_close };
        let pending = InitClient::over(channel).request(request, fds).map_err(|error| exec_problem(&error))?;
        Ok((started(pending).await?, status))
    }

    /// Connects to the container's process 1 without waiting: its queue is full only when it does not answer.
    fn connect_to_init(&self, id: ContainerId) -> Result<Channel, Problem> {
        let path = self.run.exec_socket(id);
        let refused = |errno: Errno| {
            let detail = match errno {
                Errno::AGAIN => format!("container {id} does not answer; too many commands wait"),
                Errno::NOENT | Errno::CONNREFUSED => format!("container {id} takes no commands any more: it is ending"),
                errno => format!("connect to process 1 of container {id}: {errno}"),
            };
            Problem::new(ProblemCode::Conflict, detail)
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(refused)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(&path).map_err(refused)?).map_err(refused)?;
        // The socket goes on to the client, who may want to wait on it.
        rustix::io::ioctl_fionbio(&socket, false).map_err(refused)?;
        Ok(Channel::from_socket(socket))
    }

    /// Runs a process by joining the container's namespaces. The launcher is to it what process 1 of ours would be.
    async fn join(
        &self,
        id: ContainerId,
        process: ProcessSpec,
        streams: CommandStreams,
        on_close: OnClose,
    ) -> Result<StartedExec, Problem> {
        let fds: Vec<BorrowedFd<'_>> = streams.fds.iter().flatten().map(AsFd::as_fd).collect();
        let request = LauncherRequest::Join { container: id, process, on_close };
        let outcome = self.link.call(request, &fds).await?;
        let mut fds = outcome.fds.into_iter();
        match (outcome.message, fds.next()) {
            (LauncherOutcome::Joined { process }, Some(status)) => {
                Ok(StartedExec { pid: Some(process.pid), status, master: fds.next() })
            }
            _ => Err(Problem::new(ProblemCode::Internal, "the launcher answered something else to a join")),
        }
    }
}

fn process_of(order: &ExecOrder, info: &ImageInfo) -> Result<(ProcessSpec, CommandStreams), Problem> {
    let invalid = |error: &(dyn std::error::Error + 'static)| Problem::from_chain(ProblemCode::Invalid, error);
    let rights =
        Rights::resolve(&order.spec, is_full_init(&order.spec, &info.config)).map_err(|error| invalid(&error))?;
    let size = order.request.terminal.map_or(WindowSize::DEFAULT, |(rows, columns)| WindowSize { rows, columns });
    let streams = command_streams(order, size)
        .map_err(|errno| Problem::new(ProblemCode::Internal, format!("standard streams of the command: {errno}")))?;
    let request = insula_runtime::ExecRequest {
        command: &order.request.command,
        env: &order.request.env,
        workdir: order.request.workdir.as_ref(),
        user: order.request.user.as_ref(),
    };
    let what = (&order.name, &*order.spec, &info.config);
    let process = exec_process(what, &request, (rights, streams.main)).map_err(|error| invalid(&error))?;
    Ok((process, streams))
}

fn command_streams(order: &ExecOrder, size: WindowSize) -> Result<CommandStreams, Errno> {
    let null = || rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let copy = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 0);
    let given = |fd: &Option<OwnedFd>| fd.as_ref().map_or_else(null, copy);
    Ok(match &order.streams {
        Streams::Terminal { .. } => CommandStreams { main: MainStreams::Terminal(size), fds: None },
        Streams::Detached | Streams::Absent => {
            CommandStreams { main: MainStreams::Given, fds: Some([null()?, null()?, null()?]) }
        }
        Streams::Given { stdin, stdout, stderr } => {
            CommandStreams { main: MainStreams::Given, fds: Some([given(stdin)?, given(stdout)?, given(stderr)?]) }
        }
    })
}

/// Waits for the answer of process 1 without blocking a thread.
async fn started(pending: PendingExec) -> Result<RunningExec, Problem> {
    let ready = pending.as_fd().try_clone_to_owned().and_then(watch);
    let ready = ready.map_err(|error| Problem::new(ProblemCode::Internal, format!("wait for the command: {error}")))?;
    let mut pending = pending;
    loop {
        match pending.try_started().map_err(|error| exec_problem(&error))? {
            Ok(running) => return Ok(running),
            Err(not_yet) => pending = not_yet,
        }
        match ready.readable().await {
            Ok(mut guard) => guard.clear_ready(),
            Err(error) => return Err(Problem::new(ProblemCode::Internal, format!("wait for the command: {error}"))),
        }
    }
}

/// Exit code of the process behind `channel`.
async fn end_of(channel: &Channel) -> Result<i32, String> {
    use insula_plan::protocol::channel::ReceiveError;
    let ready = channel.as_fd().try_clone_to_owned().and_then(watch).map_err(|error| error.to_string())?;
    loop {
        match channel.receive::<InitEvent>(Wait::Never) {
            Ok(received) => match received.message {
                InitEvent::Ended(end) => return Ok(i32::from(end.status.code())),
                InitEvent::Started { .. } => {}
                InitEvent::EndedUnseen => {
                    return Err(
                        "the launcher died meanwhile, and this kernel does not remember how it ended".to_owned()
                    );
                }
                InitEvent::Failed(failure) => return Err(failure.to_string()),
            },
            Err(ReceiveError::WouldBlock) => ready.readable().await.map_err(|error| error.to_string())?.clear_ready(),
            Err(error) => return Err(error.to_string()),
        }
    }
}
