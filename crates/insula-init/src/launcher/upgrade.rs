//! Becoming another build of the launcher, in place.
//!
//! The process stays what it is: parent of the containers, in its mount namespace, listening. The new program takes over
//! as after a crash (facts, the keeper's copies), and besides what a crash would cost is handed to it in a sealed
//! memfd: the listener, the lock and the daemon's connection.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Instant;

use insula_kernel::execute::execute_file;
use insula_kernel::fd_table;
use insula_plan::protocol::channel::{self, Channel};
use insula_plan::protocol::failure::{Failure, FailureKind};
use insula_plan::protocol::launcher::OpId;
use insula_plan::protocol::{PROTOCOL_VERSION, can_succeed};
use minicbor::{Decode, Encode};
use rustix::io::{Errno, FdFlags};

use super::daemon::Asker;
use super::{BeginError, Launcher};
use crate::sealed;

/// First argument of a launcher that takes over in place; the number of the memfd follows.
pub const RESUME_ARGUMENT: &str = "--resume";

/// Longest hand-over, in bytes.
const STATE_BYTES_MAX: usize = 1 << 20;

/// What is handed over; descriptors by number.
#[derive(Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct State {
    #[n(0)]
    version: u16,
    #[n(1)]
    listener: RawFd,
    #[n(2)]
    lock: RawFd,
    #[n(3)]
    daemon: Option<RawFd>,
    /// The upgrade itself, which the new program answers.
    #[n(4)]
    op: OpId,
}

/// What a launcher that takes over in place begins with.
#[derive(Debug)]
pub(crate) struct Resumed {
    pub(crate) listener: OwnedFd,
    pub(crate) lock: OwnedFd,
    pub(crate) daemon: Option<Channel>,
    pub(crate) op: OpId,
}

/// What a launcher of this or an older version handed over.
fn decode(bytes: &[u8]) -> Option<State> {
    let version = channel::version_of(bytes).ok()?;
    can_succeed(version).then(|| channel::decode(bytes).ok()).flatten()
}

impl Resumed {
    /// Takes over what [`Launcher::upgrade`] left open. First thing in the process.
    pub(crate) fn take(state: RawFd) -> Result<Self, BeginError> {
        let kernel = |errno| BeginError::Kernel { call: "take over from the launcher before", errno };
        let state = fd_table::take_inherited(state).map_err(kernel)?;
        let mut bytes = vec![0; STATE_BYTES_MAX];
        let length = rustix::io::pread(&state, &mut bytes, 0).map_err(kernel)?;
        let state = decode(bytes.get(..length).unwrap_or_default()).ok_or(kernel(Errno::PROTO))?;
        let take = |number| fd_table::take_inherited(number).map_err(kernel);
        Ok(Self {
            listener: take(state.listener)?,
            lock: take(state.lock)?,
            daemon: state.daemon.map(take).transpose()?.map(Channel::from_socket),
            op: state.op,
        })
    }
}

impl Launcher {
    /// Becomes `program`; returns only with the reason why not, and then everything is as before.
    pub(crate) fn upgrade(&mut self, asker: Asker, program: Option<&OwnedFd>) -> Failure {
        let Some(program) = program else {
            return Failure::new(FailureKind::Malformed, "the program to become is missing");
        };
        if self.workers.count() > 0
            || !self.waiting.is_empty()
            || self.containers.are_starting()
            || self.keeper.is_busy()
        {
            return Failure::new(FailureKind::Busy, "operations are under way; try again when they are done");
        }
        // The next program makes its own.
        self.guest.end();
        self.workers.end_spare();
        let failure = match self.become_program(asker, program.as_fd()) {
            Ok(errno) => Failure::from_error(FailureKind::Kernel, &errno),
            Err(failure) => failure,
        };
        self.guest.revive(Instant::now());
        failure
    }

    fn become_program(&self, asker: Asker, program: BorrowedFd<'_>) -> Result<Errno, Failure> {
        let failed = |error: &(dyn std::error::Error + 'static)| Failure::from_error(FailureKind::Kernel, error);
        let state = State {
            version: PROTOCOL_VERSION,
            listener: self.listener.as_raw_fd(),
            lock: self.lock.as_raw_fd(),
            daemon: self.daemon.as_fd().map(|fd| fd.as_raw_fd()),
            op: asker.op,
        };
        let memory = sealed::data("insula-launcher", &channel::encode(&state)).map_err(|error| failed(&error))?;
        let number = memory.as_raw_fd().to_string();
        let words = ["insula-launcher".as_ref(), RESUME_ARGUMENT.as_ref(), number.as_ref(), self.run.path()];
        let argv = words.map(|word: &Path| std::ffi::CString::new(word.as_os_str().as_encoded_bytes()));
        let argv = argv.into_iter().collect::<Result<Vec<_>, _>>().map_err(|error| failed(&error))?;
        let kept = [Some(memory.as_fd()), Some(self.listener.as_fd()), Some(self.lock.as_fd()), self.daemon.as_fd()];
        let set = |flags: FdFlags| kept.iter().flatten().try_for_each(|fd| rustix::io::fcntl_setfd(fd, flags));
        set(FdFlags::empty()).map_err(|errno| failed(&errno))?;
        let errno = execute_file(program, &argv, &[]);
        set(FdFlags::CLOEXEC).map_err(|errno| failed(&errno))?;
        Ok(errno)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_over_by_this_or_an_older_build_reads_back() {
        let mut state = State { version: 1, listener: 3, lock: 4, daemon: Some(5), op: OpId(6) };
        for (version, is_read) in [(0, false), (1, true), (PROTOCOL_VERSION, true), (PROTOCOL_VERSION + 1, false)] {
            state.version = version;
            assert_eq!(decode(&channel::encode(&state)).is_some_and(|read| read == state), is_read, "{version}");
        }
    }
}
