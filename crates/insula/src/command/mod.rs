//! What each command does: ask the node, show the answer.

mod container;
mod copy;
mod image;
mod image_signature;
mod inspect;
mod manual;
mod node;
mod operation;
mod run;
mod stream;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use futures_util::StreamExt;

use crate::args::{Cli, Command, DEFAULT_SOCKET, NodeCommand, TemplateCommand};
use crate::client::Client;
use crate::failure::Failure;
use crate::render::{Printer, tell_failure};

pub use manual::reference;

/// Requests about different containers that are under way at once.
const PARALLEL_MAX: usize = 16;

/// What every command needs.
#[derive(Debug)]
pub(crate) struct Session {
    /// The node.
    pub(crate) client: Client,
    /// Standard output.
    pub(crate) printer: Printer,
}

/// Which exit codes a command's failures have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codes {
    /// 1 to 8.
    Plain,
    /// 125, 126, 127: what the command's own code cannot be confused with.
    Foreground,
}

impl Codes {
    /// Those of `command`.
    #[must_use]
    pub fn of(command: &Command) -> Self {
        match command {
            Command::Run(run) if run.detach => Self::Plain,
            Command::Start(start) if !start.attach && !start.interactive => Self::Plain,
            Command::Run(_) | Command::Start(_) | Command::Exec(_) | Command::Shell(_) | Command::Attach(_) => {
                Self::Foreground
            }
            _ => Self::Plain,
        }
    }

    /// Those of words that could not be parsed, as far as they tell.
    #[must_use]
    pub fn of_words<'a>(words: impl Iterator<Item = &'a str>) -> Self {
        let mut words = words.skip(1).peekable();
        let mut verb = None;
        let mut detached = false;
        while let Some(word) = words.next() {
            match (verb, word) {
                (None, "--socket" | "--format") => drop(words.next()),
                (None, word) if word.starts_with('-') => {}
                (None, word) => verb = Some(word),
                (Some(_), "--") => break,
                (Some(_), "-d" | "--detach") => detached = true,
                (Some(_), _) => {}
            }
        }
        match verb {
            Some("run") if !detached => Self::Foreground,
            Some("exec" | "shell" | "attach") => Self::Foreground,
            _ => Self::Plain,
        }
    }

    /// The exit code of `failure`.
    #[must_use]
    pub fn code(self, failure: &Failure) -> u8 {
        match self {
            Self::Plain => failure.exit_code(),
            Self::Foreground => failure.foreground_exit_code(),
        }
    }

    /// The exit code of words that could not be parsed.
    #[must_use]
    pub fn usage_code(self) -> u8 {
        match self {
            Self::Plain => 2,
            Self::Foreground => 125,
        }
    }
}

/// Does what `cli` says and returns the exit code of the program.
///
/// # Errors
///
/// Why it did not do it; nothing of it has been said yet.
pub fn execute(cli: Cli) -> Result<u8, Failure> {
    let printer = Printer { format: cli.global.format, quiet: cli.global.quiet };
    match cli.command {
        // What needs no node needs no event loop of ours either.
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { directory } => manual::man(&directory),
        Command::Reference => crate::render::print(&reference()).map(|()| 0),
        Command::Node(NodeCommand::Run(args)) => node::run(args, cli.global.socket),
        Command::Node(NodeCommand::Restore(args)) => node::restore(args, printer),
        Command::Node(NodeCommand::Tune(args)) => node::tune(&args, printer),
        command => {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
            let socket = cli.global.socket.unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET));
            let mut session = Session { client: Client::new(&socket), printer };
            let result = runtime.block_on(Box::pin(dispatch(&mut session, command)));
            // A thread that still reads our standard input must not be waited for.
            runtime.shutdown_background();
            result
        }
    }
}

async fn dispatch(session: &mut Session, command: Command) -> Result<u8, Failure> {
    match command {
        Command::Run(args) => run::run(session, *args).await,
        Command::Create(args) => run::create(session, *args).await,
        Command::Exec(args) => run::exec(session, args).await,
        Command::Shell(args) => run::shell(session, args).await,
        Command::Attach(args) => run::attach(session, args).await,
        Command::Start(args) => run::start(session, args).await,
        Command::Stop(args) => container::stop(session, args, "stop").await,
        Command::Restart(args) => container::stop(session, args, "restart").await,
        Command::Kill(args) => container::kill(session, args).await,
        Command::Pause(args) => container::plain_verb(session, args, "pause").await,
        Command::Resume(args) => container::plain_verb(session, args, "resume").await,
        Command::Delete(args) => container::delete(session, args).await,
        Command::Rename(args) => container::rename(session, args).await,
        Command::Set(args) => container::set(session, args).await,
        Command::Prune(args) => container::prune(session, args).await,
        Command::Upgrade(args) => container::upgrade(session, args).await,
        Command::Rollback(args) => container::rollback(session, args).await,
        Command::Cp(args) => copy::copy(session, args).await,
        Command::List(args) => inspect::list(session, args).await,
        Command::Show(args) => inspect::show(session, args).await,
        Command::Top(args) => inspect::top(session, args).await,
        Command::Port(args) => inspect::port(session, args).await,
        Command::Whois(args) => inspect::whois(session, args).await,
        Command::Wait(args) => inspect::wait(session, args).await,
        Command::Stats(args) => stream::stats(session, args).await,
        Command::Logs(args) => stream::logs(session, args).await,
        Command::Events(args) => stream::events(session, args).await,
        Command::Image(command) => image::execute(session, command).await,
        Command::Node(NodeCommand::Backup { file }) => node::backup(session, &file).await,
        Command::Template(TemplateCommand::List) => node::templates(session).await,
        Command::Template(TemplateCommand::Show { name }) => node::template(session, &name).await,
        Command::Version => node::version(session).await,
        Command::Doctor | Command::Node(NodeCommand::Doctor) => node::doctor(session).await,
        // Handled before there was an event loop.
        Command::Completions { .. }
        | Command::Man { .. }
        | Command::Reference
        | Command::Node(NodeCommand::Run(_) | NodeCommand::Restore(_) | NodeCommand::Tune(_)) => Ok(0),
    }
}

/// Does something with each of several objects, some at once, and prints each one's name when it is done, in the
/// order given. What is named twice is named once: both at once would stand in each other's way.
///
/// # Errors
///
/// The only one's failure; or, of several, how many failed after each failure was told.
async fn each<T, F>(
    names: &[String],
    work: impl Fn(String) -> F,
    done: impl Fn(&str, T) -> Result<(), Failure>,
) -> Result<u8, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut seen = HashSet::new();
    let names: Vec<&String> = names.iter().filter(|name| seen.insert(*name)).collect();
    let mut results = futures_util::stream::iter(names.iter().copied().cloned().map(&work)).buffered(PARALLEL_MAX);
    let mut first = None;
    let mut failed = 0;
    let mut index = 0;
    while let Some(result) = results.next().await {
        let name = &names[index];
        index += 1;
        match result {
            Ok(value) => done(name, value)?,
            Err(failure) if names.len() == 1 => return Err(failure),
            Err(failure) => {
                failed += 1;
                first.get_or_insert(failure.exit_code());
                tell_failure(&failure);
            }
        }
    }
    match first {
        None => Ok(0),
        Some(first) => Err(Failure::Partly { failed, all: names.len(), first }),
    }
}

/// The path of a container that the user named, whatever the user wrote.
fn container_path(name: &str) -> String {
    insula_api::paths::container(&crate::client::encoded(name))
}

/// The path of a verb on a container that the user named.
fn verb_path(name: &str, verb: &str) -> String {
    insula_api::paths::container_verb(&crate::client::encoded(name), verb)
}

/// `path` as seen from the root, without looking at the disk.
///
/// # Errors
///
/// The working directory is gone.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|source| Failure::File { action: "find", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_cannot_be_parsed_still_tell_which_exit_codes_are_meant() {
        let codes = |line: &str| Codes::of_words(line.split(' '));
        for line in
            ["insula run --bad", "insula --socket x exec", "insula --format json run x -- -d", "insula -q shell"]
        {
            assert_eq!(codes(line), Codes::Foreground, "{line}");
        }
        for line in
            ["insula run -d --bad", "insula list --bad", "insula", "insula create run", "insula --socket run list"]
        {
            assert_eq!(codes(line), Codes::Plain, "{line}");
        }
    }
}
