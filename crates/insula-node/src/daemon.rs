//! The composition root: opens the parts in order, serves, and ends them in the opposite order.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::admission::{Ledger, machine_memory};
use crate::adopt::adopt;
use crate::api;
use crate::attach::{self, Purpose, Tokens};
use crate::audit::Audit;
use crate::catalog::Catalog;
use crate::claims::{IdBlocks, LockStateError, lock_directory};
use crate::config::Config;
use crate::container::facts::FactsDir;
use crate::container::record::Kept;
use crate::container::words::{Ask, Force};
use crate::context::Context;
use crate::directory::Directory;
use crate::events::Events;
use crate::host::Host;
use crate::image_upkeep;
use crate::images::Images;
use crate::name_service::{self, NameChanges};
use crate::notify::notify;
use crate::operations::Operations;
use crate::socket_group::MissingGroupError;
use crate::store::{OpenStoreError, Store};

/// Pause between two looks for tokens that were never used.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(5);
/// Time that long actions have to stop in when the daemon ends.
const OPERATIONS_END_MAX: Duration = Duration::from_secs(10);

/// The daemon could not start, or not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A directory or socket.
    #[error("{what} {path}")]
    File {
        /// Which.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another daemon has the state or run directory.
    #[error(transparent)]
    Lock(#[from] LockStateError),
    /// The group of the sockets.
    #[error(transparent)]
    Group(#[from] MissingGroupError),
    /// The store of intent.
    #[error(transparent)]
    Store(#[from] OpenStoreError),
    /// The store of images.
    #[error(transparent)]
    Images(#[from] insula_image::store::OpenStoreError),
    /// Mounts, namespaces and control groups are root's.
    #[error("it needs root; start it with sudo, or as the service insula")]
    NotRoot,
    /// The runtime or a signal handler.
    #[error("start the daemon's runtime")]
    Runtime(#[source] std::io::Error),
    /// What runs could not be found out, or its servants not be started.
    #[error("{0}")]
    Host(insula_api::Problem),
}

/// Runs the node in the foreground until SIGTERM or SIGINT.
///
/// # Errors
///
/// What kept it from starting; nothing is left behind then.
pub fn run(config: Config) -> Result<(), RunError> {
    if !rustix::process::geteuid().is_root() {
        return Err(RunError::NotRoot);
    }
    // Asked for again where it is used; here, before anything was made.
    config.socket_group.id()?;
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log).unwrap_or_else(|_| "info".into());
    // Whoever runs the node as a part of something else may have its own.
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(colours).with_env_filter(filter).try_init().ok();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("node")
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    let served = runtime.block_on(Box::pin(serve(config)));
    // What did not stop in time ends with the process; the next daemon cleans up after it.
    runtime.shutdown_timeout(OPERATIONS_END_MAX);
    served
}

async fn serve(config: Config) -> Result<(), RunError> {
    if let Err(errno) = insula_kernel::rlimit::allow_all_files() {
        tracing::warn!(%errno, "only few containers can run: the limit of open files cannot be raised");
    }
    make_directory(&config.state_dir)?;
    make_directory(&config.run_dir)?;
    let _state_lock = lock_directory(&config.state_dir, config.name.as_str())?;
    let _run_lock = lock_directory(&config.run_dir, config.name.as_str())?;
    // Here already, so that nothing of it is left when another node has the socket.
    let socket = |source| RunError::File { what: "socket", path: config.socket.clone(), source };
    api::remove_stale(&config.socket).map_err(socket)?;
    let events = Arc::new(Events::new());
    let images = Images::open(&config, events.clone())?;
    let host = crate::machine::connect(&config, images.store()).await.map_err(RunError::Host)?;
    let (context, listener) = match take_over(config, host.clone(), images, events).await {
        Ok(ready) => ready,
        Err(error) => {
            host.end_if_idle().await;
            return Err(error);
        }
    };
    let left = context.clone();
    tokio::task::spawn_blocking(move || left.images.remove_leftovers());
    context.ids.fill();
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Runtime)?;
    notify("READY=1");
    tracing::info!(node = %context.config.name, socket = %context.config.socket.display(), "ready");
    // As tasks: this function runs on a thread of its own, and every connection would have to pass through it.
    let mut serving = JoinSet::new();
    serving.spawn(api::serve(listener.api, api::router(context.clone())));
    serving.spawn(attach::server::serve(context.clone(), listener.attach));
    serving.spawn(expire_tokens(context.clone()));
    serving.spawn(name_service::keep_up(context.clone()));
    serving.spawn(image_upkeep::keep_up(context.clone()));
    tokio::select! {
        _ = serving.join_next() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    notify("STOPPING=1");
    serving.shutdown().await;
    end(&context).await;
    Ok(())
}

/// Makes what is there and what is to be there one again, and listens.
async fn take_over(
    config: Config,
    host: Arc<dyn Host>,
    images: Images,
    events: Arc<Events>,
) -> Result<(Arc<Context>, Listeners), RunError> {
    let (context, records) = open(config, host, images, events)?;
    adopt(&context, records).await.map_err(RunError::Host)?;
    let listeners = listen(&context)?;
    Ok((context, listeners))
}

/// Opens every part that needs no kernel; the rest is `host`.
pub(crate) fn open(
    config: Config,
    host: Arc<dyn Host>,
    images: Images,
    events: Arc<Events>,
) -> Result<(Arc<Context>, Vec<crate::container::record::ContainerRecord>), RunError> {
    let (store, records) = Store::open(&config.state_dir.join("node.redb"))?;
    let held: Vec<_> = records.iter().map(|record| record.ids).chain(host.ids_of_guests()).collect();
    let ids = IdBlocks::open(&config.claims_dir, &config.state_dir, &config.ids, &held)
        .map_err(|source| RunError::File { what: "claims directory", path: config.claims_dir.clone(), source })?;
    let audit = Audit::open(&config.state_dir, config.audit.clone()).map_err(|source| RunError::File {
        what: "audit log in",
        path: config.state_dir.clone(),
        source,
    })?;
    let catalog = Catalog::default();
    images.publish(&catalog);
    let context = Context {
        store,
        facts: FactsDir::new(&config.run_dir),
        host,
        images,
        catalog,
        directory: Directory::default(),
        names: NameChanges::default(),
        ledger: Ledger::new(config.capacity.clone(), machine_memory()),
        ids,
        operations: Operations::new(events.clone()),
        events,
        tokens: Tokens::default(),
        audit,
        config,
    };
    Ok((Arc::new(context), records))
}

/// The two sockets that clients use.
struct Listeners {
    api: tokio::net::UnixListener,
    attach: tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>,
}

fn listen(context: &Context) -> Result<Listeners, RunError> {
    let config = &context.config;
    let wrap = |path: PathBuf| move |source| RunError::File { what: "socket", path, source };
    let attach_path = config.attach_socket();
    let attach = attach::server::listen(&attach_path).map_err(wrap(attach_path.clone()))?;
    let group = config.socket_group.id()?;
    api::open_to_group(&attach_path, group).map_err(wrap(attach_path))?;
    let api = api::bind(&config.socket, group).map_err(wrap(config.socket.clone()))?;
    Ok(Listeners { api, attach })
}

fn make_directory(path: &Path) -> Result<(), RunError> {
    make_private_directory(path).map_err(|source| RunError::File { what: "directory", path: path.to_owned(), source })
}

/// Makes the state or run directory. Sockets in it are for a group, so it can be passed through; it cannot be listed.
pub(crate) fn make_private_directory(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o711).create(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o711))
}

/// Deletes containers that were made for a client who never attached.
async fn expire_tokens(context: Arc<Context>) {
    let mut ticks = tokio::time::interval(EXPIRY_INTERVAL);
    loop {
        ticks.tick().await;
        for purpose in context.tokens.expire() {
            let Purpose::Start(id) = purpose else { continue };
            let Some(handle) = context.directory.get(id) else { continue };
            let snapshot = handle.snapshot();
            if snapshot.kept == Kept::WhileItRuns && snapshot.starts == 0 {
                // If it was started in this very moment the delete is refused, which is right.
                handle.ask(Ask::Delete(Force::No)).await.ok();
            }
        }
    }
}

/// Ends launcher and keeper when nothing needs them; containers go on without the daemon.
async fn end(context: &Context) {
    if tokio::time::timeout(OPERATIONS_END_MAX, context.operations.cancel_all()).await.is_err() {
        tracing::warn!("a long action does not stop");
    }
    let running = context.directory.snapshots().iter().filter(|now| now.is_up()).count();
    let guests = context.host.ids_of_guests();
    let alone = running > 0 || !context.host.end_if_idle().await;
    if !alone {
        name_service::end(context, guests);
    }
    context.directory.close();
    context.ids.give_back_spare();
    tracing::info!(running, alone, "ended");
    for path in [context.config.socket.clone(), context.config.attach_socket()] {
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "socket");
        }
    }
}
