//! Connections: accepted, bounded in number and patience, named by their peer's credentials.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::fs::Gid;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tower::ServiceExt;

use crate::audit::Caller;

/// Connections at a time; further clients wait to be accepted.
const CONNECTIONS_MAX: usize = 4_096;
/// Time a client has to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes the socket at `path`, mode 0660, group `group` if there is one. A stale socket is replaced.
///
/// # Errors
///
/// As [`remove_stale`], and the file system's.
pub(crate) fn bind(path: &Path, group: Option<Gid>) -> io::Result<UnixListener> {
    remove_stale(path)?;
    // Bound under another name, so that nobody connects before the mode is right.
    let new = path.with_extension("new");
    remove_stale(&new)?;
    let listener = UnixListener::bind(&new)?;
    open_to_group(&new, group)?;
    std::fs::rename(&new, path)?;
    Ok(listener)
}

/// Removes a socket at which nobody answers; everything else stays.
///
/// # Errors
///
/// - `AddrInUse`: somebody answers there, such as a node of another name that was given the same socket.
/// - `AlreadyExists`: something else than a socket is there.
/// - Others are the file system's.
pub(crate) fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "it is there and no socket; name another path"));
        }
        Ok(_) => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&probe, &SocketAddrUnix::new(path)?) {
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path),
        Err(Errno::NOENT) => Ok(()),
        // A queue that is full is somebody's, too.
        Ok(()) | Err(Errno::AGAIN) => {
            let told = "another node answers there; end it first, or name another with --socket or INSULA_SOCKET";
            Err(io::Error::new(ErrorKind::AddrInUse, told))
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Gives a socket file mode 0660 and the group `group`, if there is one.
///
/// # Errors
///
/// The file system's.
pub(crate) fn open_to_group(path: &Path, group: Option<Gid>) -> io::Result<()> {
    if group.is_some() {
        rustix::fs::chown(path, None, group)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
}

/// Accepts connections until the task is dropped.
pub(crate) async fn serve(listener: UnixListener, router: Router) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    connection(stream, router).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors or memory: what is connected goes on, new ones wait a moment.
                tracing::warn!(%error, "accept on the API socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: UnixStream, router: Router) {
    let caller = stream
        .peer_cred()
        .ok()
        .map(|credentials| Caller { uid: credentials.uid(), pid: credentials.pid().unwrap_or_default() });
    let service = router.map_request(move |mut request: hyper::Request<hyper::body::Incoming>| {
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        request.map(axum::body::Body::new)
    });
    let result = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .await;
    if let Err(error) = result {
        tracing::debug!(%error, "connection");
    }
}
