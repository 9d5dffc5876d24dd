//! The ways by which a process reaches for another one, or for the wire: a container is judged by trying them.
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::Pid;

use crate::capability::last_errno;

/// How to become a process's tracer, or to cease to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    /// `PTRACE_ATTACH`: the process stops.
    Attach,
    /// `PTRACE_SEIZE`: it goes on.
    Seize,
    /// `PTRACE_DETACH`: one that stopped goes on without a tracer.
    Detach,
}

/// `ptrace(2)`
///
/// # Errors
///
/// `EPERM` without the right or of a process that is traced already, `ESRCH` if there is none or, of a detach, if it is
/// not stopped.
///
/// Source: ptrace(2).
pub fn trace(pid: Pid, how: Trace) -> Result<(), Errno> {
    let request = match how {
        Trace::Attach => libc::PTRACE_ATTACH,
        Trace::Seize => libc::PTRACE_SEIZE,
        Trace::Detach => libc::PTRACE_DETACH,
    };
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: none of these requests reads or writes memory of the caller.
    let result = unsafe { libc::ptrace(request, pid.as_raw_nonzero().get(), nothing, nothing) };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

/// `process_vm_readv(2)` of one range; how much was read.
///
/// # Errors
///
/// `EPERM` without the right, `EFAULT` if nothing is at the address.
///
/// Source: `process_vm_readv`(2).
pub fn read_memory_of(pid: Pid, address: usize, into: &mut [u8]) -> Result<usize, Errno> {
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let remote = libc::iovec { iov_base: std::ptr::without_provenance_mut(address), iov_len: into.len() };
    // SAFETY: `local` is the exclusively borrowed `into`; `remote` is an address of the other process only.
    let result =
        unsafe { libc::process_vm_readv(pid.as_raw_nonzero().get(), &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(result).map_err(|_| last_errno())
}

/// A socket of whole frames on the link with this index. What is written to it goes out as it is.
///
/// # Errors
///
/// `EPERM` without `CAP_NET_RAW`, `ENODEV` without such a link.
///
/// Source: packet(7).
pub fn frame_socket(link: i32) -> Result<OwnedFd, Errno> {
    /// `ETH_P_ALL` in network order would listen; 0 only sends.
    const SENDS_ONLY: u16 = 0;
    let socket = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let address = libc::sockaddr_ll {
        sll_family: AddressFamily::PACKET.as_raw(),
        sll_protocol: SENDS_ONLY,
        sll_ifindex: link,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or_default();
    // SAFETY: `address` lives through the call and `length` is its size.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if result < 0 { Err(last_errno()) } else { Ok(socket) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_where_it_is_and_no_process_traces_itself_or_nobody() {
        let secret = *b"something of this process";
        let mut read = [0; 25];
        let own = rustix::process::getpid();
        assert_eq!(read_memory_of(own, secret.as_ptr().addr(), &mut read), Ok(secret.len()));
        assert_eq!(read, secret);
        let nobody = Pid::from_raw(i32::MAX).unwrap();
        assert_eq!(trace(nobody, Trace::Attach), Err(Errno::SRCH));
        assert_eq!(trace(own, Trace::Seize), Err(Errno::PERM), "nobody traces itself");
    }
}
