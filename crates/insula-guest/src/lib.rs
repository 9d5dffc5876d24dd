//! What faces containers: the name service of a node, by which its containers find each other.
//!
//! It answers over sockets that the launcher gives it, by a table that the daemon writes
//! ([`insula_plan::protocol::names`]), and passes everything else on to the host's name servers. It is replaced when it
//! dies: it has no state of its own, and the sockets and the table outlive it. What it must not be able to do, it gives
//! up before it reads the first byte of a container.

pub mod answer;
pub mod budget;
pub mod connections;
pub mod flight;
pub mod names;
mod sandbox;
pub mod server;
pub mod stream;

use std::os::fd::RawFd;

use insula_kernel::fd_table;
use rustix::io::Errno;

pub use sandbox::SandboxError;
use server::Server;

/// Where the service finds the table; its sockets follow.
pub const TABLE_FD: RawFd = 3;

/// The service could not begin, or its loop broke.
#[derive(Debug, thiserror::Error)]
pub enum GuestFailure {
    /// A kernel call was refused.
    #[error("{call}")]
    Kernel {
        /// The call.
        call: &'static str,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// Privilege could not be given up.
    #[error("give up privilege")]
    Sandbox(#[source] SandboxError),
}

/// Serves names as the user `id` over `sockets` descriptors after [`TABLE_FD`], until the process that started it dies.
///
/// Called once, first thing in `main`: it takes over the descriptors.
///
/// # Errors
///
/// A descriptor is missing, or the kernel refused a call.
pub fn run(id: u32, sockets: u8) -> Result<(), GuestFailure> {
    let kernel = |call| move |errno| GuestFailure::Kernel { call, errno };
    let parent = rustix::process::getppid();
    let table = fd_table::take_inherited(TABLE_FD).map_err(kernel("fcntl(table)"))?;
    let first = TABLE_FD + 1;
    let numbers = first..first + RawFd::from(sockets);
    let end = numbers.end;
    let doors =
        numbers.map(fd_table::take_inherited).collect::<Result<Vec<_>, _>>().map_err(kernel("fcntl(socket)"))?;
    fd_table::close_from(end).map_err(kernel("close_range"))?;
    sandbox::enter(id, parent).map_err(GuestFailure::Sandbox)?;
    let server = Server::new(table, doors).map_err(kernel("epoll_ctl"))?;
    server.run().map_err(kernel("epoll_wait"))
}
