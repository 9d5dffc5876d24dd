//! Waiting for many descriptors at once: epoll with tokens.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

/// Descriptors that are reported at a time; the rest is reported by the next wait.
const READY_MAX: usize = 64;

/// What a descriptor is watched for. An end or an error of its other side is always reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Something to read.
    Read,
    /// Room to write.
    Write,
    /// Nothing but its end.
    End,
}

/// A descriptor that is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// What it was added with.
    pub token: u64,
}

/// A set of watched descriptors. A descriptor must be removed before its last copy elsewhere outlives it here.
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poller {
    /// An empty set.
    ///
    /// # Errors
    ///
    /// The process has no descriptor left.
    pub fn new() -> Result<Self, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, events: Vec::with_capacity(READY_MAX) })
    }

    /// Watches a descriptor, level-triggered.
    ///
    /// # Errors
    ///
    /// - `EPERM`: a regular file or directory, which is always ready.
    /// - `EEXIST`: it is watched already.
    pub fn add(&self, source: impl AsFd, token: u64, interest: Interest) -> Result<(), Errno> {
        epoll::add(&self.epoll, source, EventData::new_u64(token), flags(interest))
    }

    /// Changes what it is watched for.
    ///
    /// # Errors
    ///
    /// - `ENOENT`: it is not watched.
    pub fn change(&self, source: impl AsFd, token: u64, interest: Interest) -> Result<(), Errno> {
        epoll::modify(&self.epoll, source, EventData::new_u64(token), flags(interest))
    }

    /// Stops watching it; one that is not watched is no error.
    pub fn remove(&self, source: impl AsFd) {
        // ENOENT is the only answer for an open descriptor, and it is what was wanted.
        epoll::delete(&self.epoll, source).unwrap_or_default();
    }

    /// Waits until a descriptor is ready or the time is over; `None` waits for ever. At most 64 at a time.
    ///
    /// # Errors
    ///
    /// None are expected.
    pub fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<Ready>) -> Result<(), Errno> {
        ready.clear();
        self.events.clear();
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno),
        }
        ready.extend(self.events.iter().map(|event| Ready { token: event.data.u64() }));
        Ok(())
    }
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poller").field("epoll", &self.epoll).finish_non_exhaustive()
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

fn flags(interest: Interest) -> EventFlags {
    match interest {
        Interest::Read => EventFlags::IN,
        Interest::Write => EventFlags::OUT,
        Interest::End => EventFlags::empty(),
    }
}
