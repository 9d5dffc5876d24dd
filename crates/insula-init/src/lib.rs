//! The small programs with one thread each: launcher, keeper, and process 1 of a container.
//!
//! Each is a blocking loop over one epoll set. Below them are only the kernel and the plan: no policy, no
//! configuration files, no network.

pub mod pid1;
mod poller;
pub mod sealed;
mod spawn;
