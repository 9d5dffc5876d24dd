//! Tells the service manager that the daemon is ready: one datagram, as sd_notify(3) sends it.

use std::os::unix::net::UnixDatagram;

/// Sends `state`, such as `READY=1`, to the socket that `NOTIFY_SOCKET` names; without one nothing happens.
pub(crate) fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let result = UnixDatagram::unbound().and_then(|socket| {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::ffi::OsStrExt;
        match path.as_bytes().strip_prefix(b"@") {
            Some(name) => {
                let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
                socket.send_to_addr(state.as_bytes(), &address)
            }
            None => socket.send_to(state.as_bytes(), &path),
        }
    });
    if let Err(error) = result {
        tracing::warn!(%error, "notify the service manager");
    }
}
