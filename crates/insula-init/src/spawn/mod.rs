//! Starting a program as a child of this process: fork, become it, and learn whether that worked.
//!
//! The caller has one thread and all signals blocked ([`SignalFd`](insula_kernel::signals::SignalFd)). It never waits:
//! what becomes of the child is read from a pipe that closes when the program starts, so that a child that hangs on
//! a file system of its container holds up nobody else.
//!
//! ```text
//!   parent                          child
//!   spawn() --fork----------------> becomes the program:  report closes, empty  = started
//!   report readable: outcome()      cannot:               report has a failure  = failed, child ends
//! ```

mod account;
mod child;
mod program;
pub(crate) mod terminal;

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use insula_kernel::fork::{Fork, fork};
use insula_plan::protocol::channel;
use insula_plan::protocol::process::{ProcessSpec, SpawnFailure, Stdio};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

/// Longest name that a failure repeats.
const SHOWN_CHARACTERS_MAX: usize = 500;

/// Standard input, output and error for a child.
pub(crate) type Streams<'fd> = [BorrowedFd<'fd>; 3];

/// A child on its way to its program.
#[derive(Debug)]
pub(crate) struct Spawning {
    /// The child.
    pub(crate) pid: Pid,
    /// Readable when it is known what became of it; then ask [`outcome`].
    pub(crate) report: OwnedFd,
    /// Master of its terminal, if it has one.
    pub(crate) terminal: Option<OwnedFd>,
}

/// Forks a child that becomes the program. `streams` goes with [`Stdio::Given`].
///
/// # Errors
///
/// The request contradicts itself, no terminal can be had, or no process.
pub(crate) fn spawn(spec: &ProcessSpec, streams: Option<Streams<'_>>) -> Result<Spawning, SpawnFailure> {
    let refuse = |reason: &str| Err(SpawnFailure::Unusable { reason: reason.to_owned() });
    if spec.argv.is_empty() {
        return refuse("the command line is empty");
    }
    match (spec.stdio, streams) {
        (Stdio::Given, Some(streams)) => {
            if streams.into_iter().any(|stream| !may_enter(stream)) {
                return refuse("a standard stream is a directory or a path, which never enters a container");
            }
            start(spec, streams, None)
        }
        (Stdio::Terminal(size), None) => {
            let terminal = terminal::open(size)?;
            let slave = terminal.slave.as_fd();
            start(spec, [slave; 3], Some(terminal.master))
        }
        (Stdio::Given, None) => refuse("three standard streams are missing"),
        (Stdio::Terminal(_), Some(_)) => refuse("standard streams were given beside a terminal"),
    }
}

/// What became of a child; `None` while that is not known.
#[must_use]
pub(crate) fn outcome(report: BorrowedFd<'_>) -> Option<Result<(), SpawnFailure>> {
    let mut bytes = [0; child::REPORT_BYTES_MAX];
    match rustix::io::read(report, &mut bytes) {
        Ok(0) => Some(Ok(())),
        Ok(length) => {
            let failure = channel::decode(bytes.get(..length).unwrap_or_default());
            Some(Err(failure.unwrap_or_else(|_| SpawnFailure::Unusable { reason: "its report is cut off".to_owned() })))
        }
        Err(Errno::AGAIN | Errno::INTR) => None,
        Err(errno) => Some(Err(kernel("read(report)")(errno))),
    }
}

fn start(spec: &ProcessSpec, streams: Streams<'_>, terminal: Option<OwnedFd>) -> Result<Spawning, SpawnFailure> {
    let (report, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(kernel("pipe2"))?;
    match fork().map_err(kernel("fork"))? {
        Fork::Child => child::become_program(spec, streams, writer.as_fd()),
        Fork::Parent(pid) => Ok(Spawning { pid, report, terminal }),
    }
}

/// A directory, or a descriptor that is only a path, would lead to files outside of the container.
fn may_enter(stream: BorrowedFd<'_>) -> bool {
    let directory = |stat: rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let path = |flags: rustix::fs::OFlags| flags.contains(rustix::fs::OFlags::PATH);
    !rustix::fs::fstat(stream).is_ok_and(directory) && !rustix::fs::fcntl_getfl(stream).is_ok_and(path)
}

/// Value of the last `name=value` of an environment.
fn variable<'env>(env: &'env [CString], name: &[u8]) -> Option<&'env [u8]> {
    env.iter().rev().find_map(|entry| entry.as_bytes().strip_prefix(name)?.strip_prefix(b"="))
}

/// What the caller gave, cut so that a report of it fits into one piece of a pipe.
fn shown(given: &CStr) -> String {
    given.to_string_lossy().chars().take(SHOWN_CHARACTERS_MAX).collect()
}

fn kernel(call: &'static str) -> impl Fn(Errno) -> SpawnFailure {
    move |errno| SpawnFailure::Kernel { call: call.to_owned(), errno: errno.raw_os_error() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use insula_plan::protocol::process::{CapabilityMask, CapabilityRule, WindowSize};
    use rustix::fs::{Mode, OFlags};

    fn spec(stdio: Stdio) -> ProcessSpec {
        let rights = CapabilityRule { bounding: CapabilityMask(0), ambient: CapabilityMask(0) };
        let mut spec = ProcessSpec::new(vec![c"true".to_owned()], rights);
        spec.stdio = stdio;
        spec
    }

    #[test]
    fn a_request_that_contradicts_itself_is_refused_before_anything_is_made() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let directory = std::fs::File::open("/").unwrap();
        let path = rustix::fs::open("/dev/null", OFlags::PATH, Mode::empty()).unwrap();
        let good = null.as_fd();
        for (stdio, streams) in [
            (Stdio::Given, None),
            (Stdio::Terminal(WindowSize::DEFAULT), Some([good; 3])),
            (Stdio::Given, Some([directory.as_fd(), good, good])),
            (Stdio::Given, Some([good, good, path.as_fd()])),
        ] {
            assert!(matches!(spawn(&spec(stdio), streams), Err(SpawnFailure::Unusable { .. })), "{stdio:?}");
        }
        let mut empty = spec(Stdio::Given);
        empty.argv.clear();
        assert!(matches!(spawn(&empty, Some([good; 3])), Err(SpawnFailure::Unusable { .. })));
    }

    #[test]
    fn the_last_of_two_variables_of_one_name_counts() {
        let env = [c"A=1".to_owned(), c"AB=2".to_owned(), c"A=3=4".to_owned()];
        assert_eq!(variable(&env, b"A"), Some(&b"3=4"[..]));
        assert_eq!(variable(&env, b"B"), None);
    }
}
