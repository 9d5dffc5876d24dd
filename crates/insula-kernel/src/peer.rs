//! Who is at the other end of a unix socket.
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use rustix::process::{Gid, Pid, Uid};

use crate::capability::last_errno;

/// A peer's credentials when it connected (or made the pair), as this process's namespaces show them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Its process; `None` for one outside of this process's pid namespace, which nothing inside can pretend.
    pub pid: Option<Pid>,
    /// Its user; the overflow id (65534) for one that this user namespace does not map.
    pub uid: Uid,
    /// Its group; the overflow id likewise.
    pub gid: Gid,
}

/// `getsockopt(fd, SOL_SOCKET, SO_PEERCRED)`
///
/// # Errors
///
/// - `ENOTSOCK`: no socket.
///
/// Source: unix(7). The number 0 for foreign processes: `pid_vnr()` in net/core/sock.c, `cred_to_ucred()`; rustix's own
/// wrapper has no place for it.
pub fn peer_credentials(socket: impl AsFd) -> Result<PeerCredentials, Errno> {
    let mut credentials = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = libc::socklen_t::try_from(size_of::<libc::ucred>()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the value is a live `struct ucred` of the length given, which is what the option writes.
    let ret = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    if ret != 0 {
        return Err(last_errno());
    }
    Ok(PeerCredentials {
        pid: Pid::from_raw(credentials.pid).filter(|_| credentials.pid > 0),
        uid: Uid::from_raw(credentials.uid),
        gid: Gid::from_raw(credentials.gid),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_pair_is_its_makers() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = peer_credentials(&one).unwrap();
        assert_eq!(peer.pid, Some(rustix::process::getpid()));
        assert_eq!(peer.uid, rustix::process::geteuid());
    }
}
