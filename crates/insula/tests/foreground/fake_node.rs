//! A node that is no node: its API and attach socket, with processes of this machine instead of containers.

use std::fs::File;
use std::io::{BufRead, BufReader, IoSlice, IoSliceMut, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use insula_api::attach::{AttachAnswer, AttachRequest, AttachStream, AttachTo};
use insula_api::{CreatedContainer, Problem, ProblemCode};
use insula_plan::protocol::channel::{Channel, Wait, encode};
use insula_plan::protocol::init::{InitEvent, InitRequest};
use insula_plan::protocol::status::{End, ExitStatus, WallTime};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use rustix::pty::OpenptFlags;
use serde_json::{Value, json};

/// The node; ends with the test.
#[derive(Debug)]
pub(crate) struct FakeNode {
    directory: tempfile::TempDir,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Requests seen, as `METHOD path`.
    requests: Mutex<Vec<String>>,
    /// What the next attachment runs, and whether as an exec.
    next: Mutex<Option<(Vec<String>, Purpose)>>,
    /// Process of the last attachment.
    running: Mutex<Option<Pid>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Start { tty: bool },
    Exec { tty: bool },
}

impl FakeNode {
    pub(crate) fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("insula-fake").tempdir().unwrap();
        let shared = Arc::new(Shared::default());
        let api = UnixListener::bind(directory.path().join("insula.sock")).unwrap();
        let flags = SocketFlags::CLOEXEC;
        let attach = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let address = SocketAddrUnix::new(directory.path().join("attach.sock")).unwrap();
        rustix::net::bind(&attach, &address).unwrap();
        rustix::net::listen(&attach, 16).unwrap();
        let for_api = shared.clone();
        thread::spawn(move || {
            for stream in api.incoming().flatten() {
                let shared = for_api.clone();
                thread::spawn(move || serve_api(&stream, &shared));
            }
        });
        let for_attach = shared.clone();
        thread::spawn(move || {
            while let Ok(socket) = rustix::net::accept_with(&attach, SocketFlags::CLOEXEC) {
                let shared = for_attach.clone();
                thread::spawn(move || serve_attachment(&socket, &shared));
            }
        });
        Self { directory, shared }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("insula.sock")
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// `insula` with this node's socket and these words.
    pub(crate) fn insula(&self, words: &[&str]) -> Command {
        let mut command = Command::new(insula());
        command.arg("--socket").arg(self.socket()).args(words).env_remove("INSULA_SOCKET");
        command
    }
}

/// The program under test.
pub(crate) fn insula() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_insula"))
}

fn serve_api(stream: &UnixStream, shared: &Shared) {
    let mut reader = BufReader::new(stream);
    while let Some((method, path, body)) = read_request(&mut reader) {
        shared.requests.lock().unwrap().push(format!("{method} {path}"));
        let (status, kind, answer) = answer(shared, &method, &path, &body);
        let text =
            format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
        if (&*stream).write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<(String, String, Value)> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((method, path, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Creates the one container: what is attached next is its start.
fn create(shared: &Shared, body: &Value) -> Result<Value, Problem> {
    let spec = &body["spec"];
    if spec["image"] == "missing" {
        return Err(Problem::new(ProblemCode::NotFound, "image missing does not exist"));
    }
    let tty = spec["tty"].as_bool().unwrap_or(false);
    *shared.next.lock().unwrap() = Some((words(&spec["command"]), Purpose::Start { tty }));
    Ok(json!({
        "id": "0b7ad0a1-3a5a-4c7f-9a55-6a6d4c1f8f10", "name": "c", "image": "debian@12",
        "warnings": ["version 11 is unknown; 12 runs"], "attach_token": "secret",
    }))
}

fn answer(shared: &Shared, method: &str, path: &str, body: &Value) -> (u16, &'static str, String) {
    let json = "application/json";
    let refused = |code: ProblemCode, detail: &str| {
        let problem = Problem::new(code, detail).with_remedy("do something else");
        (problem.status, "application/problem+json", serde_json::to_string(&problem).unwrap())
    };
    match (method, path) {
        ("POST", "/v1/containers") => match create(shared, body) {
            Ok(created) => (201, json, created.to_string()),
            Err(problem) => refused(problem.code, &problem.detail),
        },
        ("POST", "/v1/containers/c/exec") => {
            let tty = !body["terminal"].is_null();
            *shared.next.lock().unwrap() = Some((words(&body["command"]), Purpose::Exec { tty }));
            (200, json, json!({"attach_token": "secret"}).to_string())
        }
        ("POST", "/v1/containers/c/kill") => {
            let signal: insula_model::Signal = body["signal"].as_str().unwrap().parse().unwrap();
            let running = shared.running.lock().unwrap().unwrap();
            let signal = Signal::from_named_raw(i32::from(signal.number())).unwrap();
            kill_process(running, signal).unwrap();
            (200, json, "{}".to_owned())
        }
        ("DELETE", "/v1/containers/gone") => refused(ProblemCode::NotFound, "container gone does not exist"),
        ("DELETE", "/v1/containers/busy") => refused(ProblemCode::Conflict, "container busy runs"),
        ("DELETE", _) => (204, json, String::new()),
        ("GET", "/v1/containers/c/logs?follow=true&tail=2") => {
            let line =
                |stream: &str, text: &str| json!({"time": "2026-01-01T00:00:00Z", "stream": stream, "text": text});
            let lines = format!("{}\n{}\n", line("stdout", "to out\n"), line("stderr", "to err\n"));
            (200, "application/jsonl", lines)
        }
        _ => refused(ProblemCode::NotFound, "nothing there"),
    }
}

fn serve_attachment(socket: &OwnedFd, shared: &Shared) {
    let mut buffer = vec![0; 65536];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let received = rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(given) = message {
            fds.extend(given);
        }
    }
    let request: AttachRequest = serde_json::from_slice(&buffer[..received.bytes]).unwrap();
    let created = match &request.to {
        AttachTo::Token(_) => None,
        AttachTo::Run(container) => {
            shared.requests.lock().unwrap().push("run".to_owned());
            match create(shared, &serde_json::to_value(container).unwrap()) {
                Ok(created) => Some(serde_json::from_value(created).unwrap()),
                Err(problem) => return send(socket, &AttachAnswer::Refused(problem), &[]),
            }
        }
    };
    let (command, purpose) = shared.next.lock().unwrap().take().unwrap();
    if command.first().is_some_and(|program| program == "no-such-program") {
        let problem = Problem::new(ProblemCode::CommandNotFound, "program `no-such-program` is not in the container");
        send(socket, &AttachAnswer::Refused(problem), &[]);
        return;
    }
    match purpose {
        Purpose::Start { tty } => serve_start((socket, created), shared, &command, streams(&request, fds, tty)),
        Purpose::Exec { tty } => serve_exec(socket, &command, streams(&request, fds, tty)),
    }
}

struct Streams {
    stdin: Stdio,
    stdout: Stdio,
    stderr: Stdio,
    master: Option<OwnedFd>,
}

/// Copies what a terminal shows to the client's pipe, as the keeper does.
fn show(master: &OwnedFd, to: OwnedFd) {
    let (mut from, mut to) = (File::from(master.try_clone().unwrap()), File::from(to));
    thread::spawn(move || std::io::copy(&mut from, &mut to));
}

fn streams(request: &AttachRequest, mut fds: Vec<OwnedFd>, tty: bool) -> Streams {
    if tty {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
        match request.streams[..] {
            [] => {}
            [AttachStream::Stdout] => show(&master, fds.remove(0)),
            _ => panic!("a terminal's streams are the pty's"),
        }
        let open = || File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        return Streams { stdin: open().into(), stdout: open().into(), stderr: open().into(), master: Some(master) };
    }
    let mut streams = Streams { stdin: Stdio::null(), stdout: Stdio::null(), stderr: Stdio::null(), master: None };
    for (stream, fd) in request.streams.iter().zip(fds) {
        assert!(!rustix::termios::isatty(&fd), "a terminal came along");
        match stream {
            AttachStream::Stdin => streams.stdin = fd.into(),
            AttachStream::Stdout => streams.stdout = fd.into(),
            AttachStream::Stderr => streams.stderr = fd.into(),
            AttachStream::File => panic!("no file was asked for"),
        }
    }
    streams
}

fn spawn(command: &[String], streams: Streams) -> (Child, Option<OwnedFd>) {
    // The new session's leader takes the pty as its controlling terminal, as a container's process does.
    let mut wrapped = if streams.master.is_some() {
        let mut wrapped = Command::new("setsid");
        wrapped.args(["--ctty", "--wait"]).args(command);
        wrapped
    } else {
        let mut plain = Command::new(&command[0]);
        plain.args(&command[1..]);
        plain
    };
    let child = wrapped.stdin(streams.stdin).stdout(streams.stdout).stderr(streams.stderr).spawn().unwrap();
    drop(wrapped);
    (child, streams.master)
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap()
}

fn status(child: &mut Child) -> ExitStatus {
    let status = child.wait().unwrap();
    match status.code() {
        Some(code) => ExitStatus::Exited(u8::try_from(code).unwrap()),
        None => ExitStatus::Signaled(u8::try_from(status.signal().unwrap()).unwrap()),
    }
}

fn serve_start(
    (socket, created): (&OwnedFd, Option<CreatedContainer>),
    shared: &Shared,
    command: &[String],
    streams: Streams,
) {
    // Stands for process 1: it ends after the command's end was written, and with the test if the command goes on.
    let mut stand_in = Command::new("cat");
    let mut init = stand_in.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pidfd = pidfd_open(pid(&init), PidfdFlags::empty()).unwrap();
    let mut end_file = tempfile::tempfile().unwrap();
    let (mut child, master) = spawn(command, streams);
    *shared.running.lock().unwrap() = Some(pid(&child));
    let mut fds = vec![pidfd.as_fd(), end_file.as_fd()];
    fds.extend(master.as_ref().map(AsFd::as_fd));
    let pid = Some(child.id());
    let answer = AttachAnswer::Attached { pid, end_file: true, created, warnings: Vec::new() };
    send(socket, &answer, &fds);
    drop(master);
    let end = End { status: status(&mut child), at: WallTime(0) };
    end_file.rewind().unwrap();
    end_file.write_all(&encode(&end)).unwrap();
    init.kill().unwrap();
    init.wait().unwrap();
}

fn serve_exec(socket: &OwnedFd, command: &[String], streams: Streams) {
    let (ours, theirs) = Channel::pair().unwrap();
    let (mut child, master) = spawn(command, streams);
    let mut fds = vec![theirs.as_fd()];
    fds.extend(master.as_ref().map(AsFd::as_fd));
    let answer = AttachAnswer::Attached { pid: None, end_file: false, created: None, warnings: Vec::new() };
    send(socket, &answer, &fds);
    drop((theirs, master));
    let ours = Arc::new(ours);
    let (requests, target) = (ours.clone(), pid(&child));
    thread::spawn(move || {
        while let Ok(request) = requests.receive::<InitRequest>(Wait::Forever) {
            if let InitRequest::Signal(number) = request.message {
                kill_process(target, Signal::from_named_raw(i32::from(number)).unwrap()).unwrap();
            }
        }
    });
    let end = End { status: status(&mut child), at: WallTime(0) };
    ours.send(&InitEvent::Ended(end), &[], Wait::Forever).unwrap();
}

fn send(socket: &OwnedFd, answer: &AttachAnswer, fds: &[BorrowedFd<'_>]) {
    let message = serde_json::to_vec(answer).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL).unwrap();
}
