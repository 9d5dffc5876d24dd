//! `image build`: a recipe checked, and its commands run in a container for the store that builds.
//!
//! One container per build, with ids, addresses and a data directory of its own; each command is one start of it over
//! the unfinished image. No list has it: a daemon that finds it at its own start ends it, because no intent names it.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use insula_api::{BuildImage, Problem, ProblemCode};
use insula_image::convert::ConvertError;
use insula_image::recipe::{BuildCause, BuildError, CommandRunner, NetworkAccess, Recipe, RunStep, RunStepError};
use insula_image::recipe::{BusyboxError, LOCK_BYTES_MAX, PackageLock, UnfinishedRoot, layer_bytes};
use insula_image::store::BeginError;
use insula_model::{
    Bytes, ContainerId, ContainerName, ContainerSpec, IdRange, ImageConfig, ImageId, LogMode, MountPlan, NetworkMode,
    RootAccess,
};
use insula_plan::protocol::launcher::ImageKey;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::pipe::PipeFlags;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::container::record::Addresses;
use crate::context::Context;
use crate::host::{Exit, RootSource, StartOrder, Started, Streams, Unfinished};
use crate::import_worker::worker_code;
use crate::machine::Traces;
use crate::operations::Progress;

/// Longest line of a command's output that is kept, in bytes.
const LINE_BYTES_MAX: usize = 512;
/// Last lines of a failed command that its error holds.
const LAST_LINES: usize = 10;
/// Between two looks at what a command has written so far. It may exceed its bound by what it writes meanwhile.
const LAYER_LOOK: Duration = Duration::from_millis(500);
/// Files that every start writes into `/etc`; what commands write to them is not part of the image.
const GENERATED: [&str; 4] = ["hostname", "hosts", "machine-id", "resolv.conf"];

/// Reads a request's recipe and looks whether it can be built at all.
///
/// # Errors
///
/// The recipe is none, its directory is no absolute path, or its version exists already.
pub(crate) fn check(context: &Context, request: &BuildImage) -> Result<Recipe, Problem> {
    let recipe = Recipe::parse(&request.recipe).map_err(|error| {
        let mut problem = Problem::from_chain(ProblemCode::Invalid, &error);
        problem.detail = format!("recipe: {}", problem.detail);
        problem
    })?;
    if !Path::new(&request.directory).is_absolute() {
        let detail = format!("directory `{}` of the recipe is no absolute path", request.directory.escape_debug());
        return Err(Problem::new(ProblemCode::Invalid, detail));
    }
    if context.catalog.get(&recipe.id).is_ok() {
        let begun = BeginError::Exists { id: recipe.id };
        return Err(Problem::from_chain(ProblemCode::Conflict, &begun));
    }
    Ok(recipe)
}

/// Reads the lock of a recipe, if the recipe or the request wants one.
///
/// # Errors
///
/// It cannot be read, or is none.
pub(crate) fn read_lock(request: &BuildImage, recipe: &Recipe) -> Result<Option<PackageLock>, Problem> {
    let beside = || format!("{}.lock", recipe.id.name);
    let Some(name) = recipe.lock.clone().or_else(|| request.locked.then(beside)) else { return Ok(None) };
    let path = Path::new(&request.directory).join(name);
    let shown = path.display();
    let unreadable = |error: std::io::Error| {
        let code = match error.kind() {
            std::io::ErrorKind::NotFound => ProblemCode::NotFound,
            _ => ProblemCode::Invalid,
        };
        Problem::new(code, format!("lock {shown}: {error}"))
            .with_remedy(format!("build once without a lock, then: insula image lock {} > {shown}", recipe.id))
    };
    let mut text = String::new();
    let file = File::open(&path).map_err(unreadable)?;
    file.take(LOCK_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > LOCK_BYTES_MAX {
        return Err(Problem::new(
            ProblemCode::Invalid,
            format!("lock {shown}: it has more than {LOCK_BYTES_MAX} bytes"),
        ));
    }
    let lock = PackageLock::parse(&text);
    lock.map(Some).map_err(|error| Problem::new(ProblemCode::Invalid, format!("lock {shown}: {error}")))
}

/// What a failed build is for whoever asked for it.
pub(crate) fn problem(error: &BuildError) -> Problem {
    let code = match &*error.cause {
        BuildCause::Begin(BeginError::Exists { .. } | BeginError::InFlight { .. }) => ProblemCode::Conflict,
        BuildCause::Cancelled(_) => ProblemCode::Cancelled,
        BuildCause::BaseManifest(_) => ProblemCode::NotFound,
        BuildCause::Bootstrap(insula_image::recipe::BootstrapError::NotInstalled)
        | BuildCause::Busybox(BusyboxError::Missing { .. }) => ProblemCode::NotSupported,
        BuildCause::Lock(_) => ProblemCode::Conflict,
        BuildCause::Run { source: RunStepError::DiskFull { .. }, .. } => ProblemCode::Admission,
        // The mirror may be at fault as well as the recipe.
        BuildCause::Bootstrap(_) | BuildCause::Run { .. } => ProblemCode::StartFailed,
        BuildCause::Begin(_) | BuildCause::File(_) | BuildCause::Publish(_) | BuildCause::Merged(_) => {
            ProblemCode::Internal
        }
        BuildCause::Convert(ConvertError::Worker(error)) => worker_code(&**error),
        _ => ProblemCode::Invalid,
    };
    Problem::from_chain(code, error)
}

/// Where the commands of one build run.
#[derive(Debug)]
struct Site {
    id: ContainerId,
    name: ContainerName,
    ids: IdRange,
    /// None before the first command that reaches the network.
    addresses: Addresses,
    unfinished: Arc<Unfinished>,
}

/// Runs the commands of one build. Blocks: it is for a thread that may.
#[derive(Debug)]
pub(crate) struct Runner {
    context: Arc<Context>,
    progress: Progress,
    runtime: Handle,
    image: ImageId,
    site: Option<Site>,
}

impl Runner {
    /// For the build of `image`; to be made where the runtime is.
    pub(crate) fn new(context: Arc<Context>, progress: Progress, image: ImageId) -> Self {
        Self { context, progress, runtime: Handle::current(), image, site: None }
    }

    /// The place of this build, made before its first command.
    fn site(&mut self, root: &UnfinishedRoot<'_>, network: NetworkAccess) -> Result<&Site, RunStepError> {
        let site = match self.site.take() {
            Some(site) => site,
            None => make_site(&self.context, root)?,
        };
        let site = self.site.insert(site);
        if network == NetworkAccess::Outside && site.addresses.v4.is_none() {
            let claimed = self.context.host.claim_addresses(NetworkMode::Default, Addresses::default());
            site.addresses = claimed.map_err(container)?;
            self.context.names.answer(site.id, site.addresses);
        }
        Ok(site)
    }
}

fn container(error: impl std::error::Error + Send + Sync + 'static) -> RunStepError {
    RunStepError::Container(Box::new(error))
}

fn make_site(context: &Context, root: &UnfinishedRoot<'_>) -> Result<Site, RunStepError> {
    let id = ContainerId::from_uuid(Uuid::new_v4());
    let name = ContainerName::new(format!("build-{}", id.short())).map_err(container)?;
    let image = File::open(root.image).map_err(container)?.into();
    let layer = rustix::fs::open(root.layer, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(container)?;
    let unfinished = Unfinished {
        key: ImageKey(format!("build-{id}")),
        image,
        layer,
        config: ImageConfig { env: root.env.clone(), ..ImageConfig::default() },
        mount_plan: MountPlan { places: Vec::new() },
    };
    let ids = context.ids.take().map_err(container)?;
    Ok(Site { id, name, ids, addresses: Addresses::default(), unfinished: Arc::new(unfinished) })
}

fn spec_of(image: &ImageId, step: &RunStep) -> ContainerSpec {
    let mut spec = ContainerSpec::new(image.clone().into());
    spec.entrypoint = Some(step.command.clone());
    // A name of its own, so that no image holds the accident of a container's name.
    spec.hostname = Some("build".to_owned());
    spec.root = Some(RootAccess::Writable);
    spec.log = LogMode::Discarded;
    spec.network = match step.network {
        NetworkAccess::None => NetworkMode::None,
        NetworkAccess::Outside => NetworkMode::Default,
    };
    spec
}

impl CommandRunner for Runner {
    fn run(&mut self, root: &UnfinishedRoot<'_>, step: &RunStep) -> Result<(), RunStepError> {
        self.progress.output(vec![plain(format!("$ {}", step.shown()).as_bytes())]);
        let mut spec = spec_of(&self.image, step);
        // The node's defaults: a command has the limits of a container that asks for none.
        spec.resources = self.context.config.resolve(&spec).map_err(container)?.resources;
        let spec = Arc::new(spec);
        self.site(root, step.network)?;
        let Some(site) = &self.site else { return Ok(()) };
        self.context.ledger.reserve(site.id, &spec.resources).map_err(container)?;
        let bounds =
            Bounds { timeout: step.timeout, layer: root.layer.to_owned(), layer_bytes_max: root.layer_bytes_max };
        let ended = self.runtime.block_on(run_in(&self.context, &self.progress, (site, spec), &bounds));
        self.context.ledger.release(site.id);
        let ended = ended.and_then(|ended| {
            restore_generated(root.layer).map_err(container)?;
            Ok(ended)
        })?;
        let Ended { exit, last_lines, breach } = ended;
        // What was written since the last look counts too.
        let breach = breach.or(bounds.broken(&self.context));
        if let Some(breach) = breach {
            return Err(breach.of(step, &bounds));
        }
        match exit.code {
            Some(0) => Ok(()),
            Some(code) => {
                Err(RunStepError::Failed { command: step.command.clone(), code, output: last_lines.join("\n") })
            }
            None => {
                let reason = exit.reason.unwrap_or_else(|| "nobody knows how it ended".to_owned());
                Err(container(Problem::new(ProblemCode::Internal, reason)))
            }
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let Some(site) = self.site.take() else { return };
        let context = &self.context;
        self.runtime.block_on(async {
            for undone in
                [context.host.unmount(site.unfinished.key.clone()).await, context.host.remove_data(site.id).await]
            {
                if let Err(problem) = undone {
                    tracing::error!(container = %site.name, detail = problem.detail, "after a build");
                }
            }
        });
        context.names.forget(site.id);
        context.ids.give_back(site.ids);
        context.host.release_addresses(site.addresses);
    }
}

/// What a command may take.
#[derive(Debug, Clone)]
struct Bounds {
    timeout: Duration,
    layer: PathBuf,
    layer_bytes_max: Bytes,
}

/// Which bound a command did not keep.
#[derive(Debug)]
enum Breach {
    Timeout,
    Layer { found: Bytes },
    Disk(Problem),
}

impl Bounds {
    /// What the commands together have taken too much of by now. Blocks while it counts.
    fn broken(&self, context: &Context) -> Option<Breach> {
        if let Err(problem) = context.images.room().check() {
            return Some(Breach::Disk(problem));
        }
        match layer_bytes(&self.layer) {
            Ok(found) if found > self.layer_bytes_max => Some(Breach::Layer { found }),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(%error, layer = %self.layer.display(), "count what a command has written");
                None
            }
        }
    }

    /// Done when the commands have taken too much.
    async fn breach(&self, context: &Arc<Context>) -> Breach {
        loop {
            tokio::time::sleep(LAYER_LOOK).await;
            let (bounds, context) = (self.clone(), context.clone());
            if let Ok(Some(breach)) = tokio::task::spawn_blocking(move || bounds.broken(&context)).await {
                return breach;
            }
        }
    }
}

impl Breach {
    fn of(self, step: &RunStep, bounds: &Bounds) -> RunStepError {
        let command = step.command.clone();
        match self {
            Self::Timeout => RunStepError::TimedOut { command, limit: bounds.timeout },
            Self::Layer { found } => RunStepError::LayerFull { command, found, limit: bounds.layer_bytes_max },
            Self::Disk(problem) => RunStepError::DiskFull { command, source: Box::new(problem) },
        }
    }
}

/// How a command ended.
struct Ended {
    exit: Exit,
    last_lines: Vec<String>,
    /// Why it was ended, if it was.
    breach: Option<Breach>,
}

async fn run_in(
    context: &Arc<Context>,
    progress: &Progress,
    (site, spec): (&Site, Arc<ContainerSpec>),
    bounds: &Bounds,
) -> Result<Ended, RunStepError> {
    let (reader, streams) = output_pipe(site.ids).map_err(container)?;
    let outside = spec.network == NetworkMode::Default;
    let addresses = if outside { site.addresses } else { Addresses::default() };
    let order = StartOrder {
        id: site.id,
        name: site.name.clone(),
        spec: spec.clone(),
        root: RootSource::Unfinished(site.unfinished.clone()),
        files: site.id,
        ids: site.ids,
        addresses,
        streams,
    };
    let ended = match context.host.start(order).await {
        Ok(started) => follow(context, progress, (site, started, reader), bounds).await.map_err(container),
        Err(problem) => not_started(problem),
    };
    // After an end and after a loss of sight alike.
    let swept = context.host.sweep(site.id, Traces { addresses, ports: Vec::new() }).await;
    swept.map_err(container)?;
    ended
}

/// A command that is not there ends as a shell would say it.
fn not_started(problem: Problem) -> Result<Ended, RunStepError> {
    let code = match problem.code {
        ProblemCode::CommandNotFound => 127,
        ProblemCode::CommandNotExecutable => 126,
        _ => return Err(container(problem)),
    };
    let exit = Exit { code: Some(code), reason: None, at: jiff::Timestamp::now() };
    Ok(Ended { exit, last_lines: vec![problem.detail], breach: None })
}

/// A pipe for both outputs of a container with these ids.
fn output_pipe(ids: IdRange) -> std::io::Result<(pipe::Receiver, Streams)> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // Programs open /dev/stdout anew, which asks the pipe's owner.
    rustix::fs::fchown(&writer, Some(Uid::from_raw(ids.base)), Some(Gid::from_raw(ids.base)))?;
    let second: OwnedFd = writer.try_clone()?;
    let streams = Streams::Given { stdin: None, stdout: Some(writer), stderr: Some(second) };
    Ok((pipe::Receiver::from_owned_fd(reader)?, streams))
}

/// Hands a command's output on until it has ended; ends it when the build is cancelled or a bound is not kept.
async fn follow(
    context: &Arc<Context>,
    progress: &Progress,
    (site, started, mut reader): (&Site, Started, pipe::Receiver),
    bounds: &Bounds,
) -> std::io::Result<Ended> {
    let (mut exit, mut lines) = (started.exit, Lines::default());
    let mut buffer = vec![0; 16 << 10];
    let (mut open, mut killed, mut breach) = (true, false, None);
    let mut too_long = std::pin::pin!(tokio::time::sleep(bounds.timeout));
    let mut too_much = std::pin::pin!(bounds.breach(context));
    let exit = loop {
        let kill = tokio::select! {
            got = reader.read(&mut buffer), if open => {
                let got = got?;
                open = got > 0;
                progress.output(lines.take(&buffer[..got]));
                false
            }
            exit = &mut exit => break exit,
            () = progress.cancelled(), if !killed => true,
            () = &mut too_long, if !killed => {
                breach = Some(Breach::Timeout);
                true
            }
            found = &mut too_much, if !killed => {
                breach = Some(found);
                true
            }
        };
        if kill {
            killed = true;
            if let Err(problem) = context.host.kill_all(site.id, started.pid).await {
                tracing::debug!(container = %site.name, detail = problem.detail, "end a command of a build");
            }
        }
    };
    // Everything in the container has ended with its process 1: what is in the pipe is all there will be.
    while open {
        let got = reader.read(&mut buffer).await?;
        open = got > 0;
        progress.output(lines.take(&buffer[..got]));
    }
    let (rest, last_lines) = lines.end();
    progress.output(rest);
    Ok(Ended { exit, last_lines, breach })
}

/// Output cut into lines.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
    last: Vec<String>,
}

impl Lines {
    /// The lines that `bytes` complete.
    fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut whole = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(end) => {
                    self.begun.extend_from_slice(end);
                    whole.push(plain(&std::mem::take(&mut self.begun)));
                }
                None => self.begun.extend_from_slice(piece),
            }
            // A line without an end is cut, and goes on as the next one.
            if self.begun.len() > LINE_BYTES_MAX {
                whole.push(plain(&std::mem::take(&mut self.begun)));
            }
        }
        self.last.extend(whole.iter().cloned());
        let surplus = self.last.len().saturating_sub(LAST_LINES);
        self.last.drain(..surplus);
        whole
    }

    /// What is left, and the last lines of all.
    fn end(mut self) -> (Vec<String>, Vec<String>) {
        let rest = if self.begun.is_empty() { Vec::new() } else { self.take(b"\n") };
        (rest, self.last)
    }
}

/// A line as it can be shown: what follows the last carriage return, without control characters, not too long.
fn plain(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = line.rsplit(|byte| *byte == b'\r').next().unwrap_or_default();
    let text = String::from_utf8_lossy(&line[..line.len().min(LINE_BYTES_MAX)]).into_owned();
    text.replace('\t', "    ").replace(char::is_control, "\u{fffd}")
}

/// Takes the files that a start wrote out of the layer, so that those of the unfinished image show again.
fn restore_generated(layer: &Path) -> std::io::Result<()> {
    for name in GENERATED {
        match std::fs::remove_file(layer.join("u/etc").join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_cut_into_lines_that_a_terminal_can_show() {
        let mut lines = Lines::default();
        assert_eq!(lines.take(b"a\nb"), ["a"]);
        assert_eq!(lines.take(b"c\r\n10%\r100%\n\x1b[2Jx\ty\n"), ["bc", "100%", "\u{fffd}[2Jx    y"]);
        assert_eq!(lines.take(b"end"), Vec::<String>::new());
        assert_eq!(
            lines.end(),
            (vec!["end".to_owned()], ["a", "bc", "100%", "\u{fffd}[2Jx    y", "end"].map(str::to_owned).to_vec())
        );
    }

    #[test]
    fn a_line_that_never_ends_and_many_lines_take_bounded_room() {
        let mut lines = Lines::default();
        for _ in 0..100 {
            for line in lines.take(&[b'x'; 1000]) {
                assert!(line.len() <= LINE_BYTES_MAX);
            }
        }
        assert!(lines.begun.len() <= LINE_BYTES_MAX && lines.last.len() <= LAST_LINES);
    }
}
