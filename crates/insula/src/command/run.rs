//! Commands whose standard streams are the user's: `run`, `exec`, `shell`, `attach`, `start --attach`.

use std::path::PathBuf;

use insula_api::attach::AttachTo;
use insula_api::{
    AttachToken, ContainerView, CreateContainer, CreatedContainer, CreatedExec, ExecRequest, KillRequest, ProblemCode,
    StartRequest, paths,
};
use insula_model::{ContainerName, LogMode};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Session, container, container_path, verb_path};
use crate::args::{AttachArgs, CreateArgs, DetachKeys, ExecArgs, NamesArgs, RunArgs, ShellArgs, StartArgs};
use crate::failure::Failure;
use crate::foreground::{
    self, Begun, ForegroundError, Happening, Input, Outputs, Stdio, Streams, Subject, window_size,
};
use crate::render::{Cell, Table, tell};
use crate::spec::{Lifetime, Surroundings, create_request, environment};

/// Shells that `shell` looks for, best first.
const SHELLS: [&str; 2] = ["/bin/bash", "/bin/sh"];

/// The part of an answer to `start` that matters here.
#[derive(Debug, Deserialize)]
struct Started {
    #[serde(default)]
    attach_token: Option<AttachToken>,
    #[serde(default)]
    warnings: Vec<String>,
}

/// Which terminal an attachment has.
#[derive(Debug, Clone, Copy)]
enum Terminal<'a> {
    /// None; the outputs go to these too.
    None(Outputs),
    /// One, left by these keys.
    Pty(&'a DetachKeys),
}

/// `run`
pub(super) async fn run(session: &mut Session, args: RunArgs) -> Result<u8, Failure> {
    let RunArgs { rm, detach, detach_keys, spec } = args;
    let input = if spec.interactive { Input::Passed } else { Input::Absent };
    let request = with_surroundings(|around| create_request(spec, rm.into(), around))?;
    let terminal = match (request.spec.tty, request.spec.log) {
        (true, _) => Terminal::Pty(&detach_keys),
        (false, LogMode::Kept) => Terminal::None(Outputs::Logged),
        (false, LogMode::Discarded) => Terminal::None(Outputs::Direct),
    };
    if detach {
        let created = post(session, &CreateContainer { start: true, ..request }).await?;
        return print_created(session, &created);
    }
    let request = CreateContainer { attach: true, ..request };
    let (to, name) = match AttachTo::Run(Box::new(request.clone())).if_it_fits() {
        Some(to) => (to, None),
        None => {
            let created = post(session, &request).await?;
            let token = created.attach_token.ok_or(ForegroundError::Incomplete { what: "the token" })?;
            (AttachTo::Token(token), Some(created.name))
        }
    };
    follow(session, (to, name.as_ref().map(ContainerName::as_str)), (input, terminal), Subject::Container).await
}

/// `create`
pub(super) async fn create(session: &mut Session, args: CreateArgs) -> Result<u8, Failure> {
    let CreateArgs { rm, spec } = args;
    let request = with_surroundings(|around| create_request(spec, Lifetime::from(rm), around))?;
    let created = post(session, &request).await?;
    print_created(session, &created)
}

fn with_surroundings<T>(make: impl FnOnce(&Surroundings<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
    let directory =
        std::env::current_dir().map_err(|source| Failure::File { action: "find", path: PathBuf::from("."), source })?;
    let variable = |name: &str| std::env::var(name).ok();
    make(&Surroundings { variable: &variable, directory: &directory })
}

async fn post(session: &mut Session, request: &CreateContainer) -> Result<CreatedContainer, Failure> {
    let created: CreatedContainer = session.client.post(paths::CONTAINERS, request).await?;
    warn(&created.warnings);
    Ok(created)
}

fn print_created(session: &Session, created: &CreatedContainer) -> Result<u8, Failure> {
    let mut table = Table::new(["NAME", "ID", "IMAGE"]);
    let (name, id) = (created.name.as_str(), created.id.to_string());
    table.push([Cell::from(name), Cell::from(id), Cell::from(created.image.to_string())]);
    if session.printer.is_for_people() {
        crate::render::print(&format!("{name}\n"))?;
    } else {
        session.printer.value(created, &table)?;
    }
    Ok(0)
}

/// `exec`
pub(super) async fn exec(session: &mut Session, args: ExecArgs) -> Result<u8, Failure> {
    let input = if args.interactive { Input::Passed } else { Input::Absent };
    let request = ExecRequest {
        command: args.command,
        env: with_surroundings(|around| environment(&args.env, &[], around))?,
        workdir: args.workdir,
        user: args.user,
        terminal: args.tty.then(terminal_size),
    };
    let terminal = if args.tty { Terminal::Pty(&args.detach_keys) } else { Terminal::None(Outputs::Outlived) };
    run_exec(session, &args.name, &request, (input, terminal)).await
}

/// `shell`
pub(super) async fn shell(session: &mut Session, args: ShellArgs) -> Result<u8, Failure> {
    // To leave a shell is to hang it up, which nobody means by a key; and ctrl-p is its own.
    let keys = DetachKeys::none();
    let mut refused = None;
    for shell in SHELLS {
        let request = ExecRequest {
            command: vec![shell.to_owned()],
            workdir: args.workdir.clone(),
            user: args.user.clone(),
            terminal: window_size(),
            ..ExecRequest::default()
        };
        // Without a terminal of ours it reads commands from standard input.
        let terminal = match request.terminal {
            Some(_) => Terminal::Pty(&keys),
            None => Terminal::None(Outputs::Outlived),
        };
        match run_exec(session, &args.name, &request, (Input::Passed, terminal)).await {
            Err(failure) if failure.code() == Some(ProblemCode::CommandNotFound) => refused = Some(failure),
            other => return other,
        }
    }
    Err(refused.unwrap_or_else(|| Failure::argument(args.name, "no shell was looked for")))
}

/// Rows and columns of our terminal, or what terminals have when nobody says otherwise.
fn terminal_size() -> (u16, u16) {
    window_size().unwrap_or((24, 80))
}

async fn run_exec(
    session: &mut Session,
    name: &str,
    request: &ExecRequest,
    stdio: (Input, Terminal<'_>),
) -> Result<u8, Failure> {
    let created: CreatedExec = session.client.post(&verb_path(name, "exec"), request).await?;
    follow(session, (AttachTo::Token(created.attach_token), Some(name)), stdio, Subject::Exec).await
}

/// `start`
pub(super) async fn start(session: &mut Session, args: StartArgs) -> Result<u8, Failure> {
    if !args.attach && !args.interactive {
        let names = NamesArgs { names: args.names };
        return container::plain_verb(session, names, "start").await;
    }
    let [name] = &args.names[..] else {
        return Err(Failure::argument("--attach", "only one container can be attached to"));
    };
    let view: ContainerView = session.client.get(&container_path(name)).await?;
    let started: Started = session.client.post(&verb_path(name, "start"), &StartRequest { attach: true }).await?;
    warn(&started.warnings);
    let token = started.attach_token.ok_or(ForegroundError::Incomplete { what: "the token" })?;
    let input = if args.interactive { Input::Passed } else { Input::Absent };
    let stdio = (input, terminal_of(&view, &args.detach_keys));
    follow(session, (AttachTo::Token(token), Some(name)), stdio, Subject::Container).await
}

/// `attach`
pub(super) async fn attach(session: &mut Session, args: AttachArgs) -> Result<u8, Failure> {
    let view: ContainerView = session.client.get(&container_path(&args.name)).await?;
    let created: CreatedExec = session.client.post(&verb_path(&args.name, "attach"), &serde_json::json!({})).await?;
    let input = if args.no_stdin { Input::Absent } else { Input::Passed };
    let stdio = match terminal_of(&view, &args.detach_keys) {
        Terminal::None(outputs) => {
            Stdio::Attached { outputs: Streams::of_this_process(Input::Absent, outputs)?, input }
        }
        Terminal::Pty(keys) => Stdio::Terminal { input, detach_keys: keys.bytes() },
    };
    let to = AttachTo::Token(created.attach_token);
    let begun = foreground::Session::start(session.client.socket(), to, Subject::Container, stdio)?;
    stay(session, &args.name, Subject::Container, begun).await
}

fn terminal_of<'a>(view: &ContainerView, keys: &'a DetachKeys) -> Terminal<'a> {
    if view.spec.tty { Terminal::Pty(keys) } else { Terminal::None(Outputs::Logged) }
}

/// Attaches with our standard streams and stays until the end. What the attachment itself creates has no name before.
async fn follow(
    session: &mut Session,
    (to, name): (AttachTo, Option<&str>),
    (input, terminal): (Input, Terminal<'_>),
    subject: Subject,
) -> Result<u8, Failure> {
    let stdio = match terminal {
        Terminal::None(outputs) => Stdio::Streams(Streams::of_this_process(input, outputs)?),
        Terminal::Pty(keys) => Stdio::Terminal { input, detach_keys: keys.bytes() },
    };
    let mut begun = foreground::Session::start(session.client.socket(), to, subject, stdio)?;
    let mut new = None;
    if let Some(created) = begun.created.take() {
        begun.warnings.splice(0..0, created.warnings);
        new = Some(created.name);
    }
    let name = name.or(new.as_ref().map(ContainerName::as_str));
    let name = name.ok_or(ForegroundError::Incomplete { what: "the container's name" })?;
    stay(session, name, subject, begun).await
}

/// Stays with what was attached to until its end, passing signals on.
async fn stay(
    session: &mut Session,
    name: &str,
    subject: Subject,
    Begun { session: mut attachment, warnings, .. }: Begun,
) -> Result<u8, Failure> {
    warn(&warnings);
    loop {
        match attachment.wait()? {
            Happening::Ended(code) => return Ok(code),
            Happening::Detached => {
                drop(attachment);
                tell(&match subject {
                    Subject::Container => format!("\r\ndetached; `insula attach {name}` comes back"),
                    Subject::Exec => "\r\nleft; the command was hung up (nohup or setsid keep one running)".to_owned(),
                });
                return Ok(0);
            }
            Happening::Signal(number) => {
                if !attachment.forward(number) {
                    signal(session, name, number).await;
                }
            }
        }
    }
}

/// Sends a container a signal that we got. That it has ended meanwhile is about to be seen.
async fn signal(session: &mut Session, name: &str, number: u8) {
    let request = KillRequest { signal: number.to_string().parse().ok() };
    if let Err(error) = session.client.post::<_, IgnoredAny>(&verb_path(name, "kill"), &request).await {
        let failure = Failure::from(error);
        if !matches!(failure.code(), Some(ProblemCode::NotFound | ProblemCode::Conflict)) {
            crate::render::tell_failure(&failure);
        }
    }
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        tell(&format!("warning: {warning}"));
    }
}
