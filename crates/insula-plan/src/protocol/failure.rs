//! How an error leaves one process for another: a code to act on and the chain of causes to show.

use minicbor::{Decode, Encode};

use super::process::SpawnFailure;
use crate::failure::StepFailure;

/// Longest chain that is sent; what is deeper is cut.
const CHAIN_LENGTH_MAX: usize = 16;

/// Longest single message of a chain, in bytes.
const CHAIN_MESSAGE_BYTES_MAX: usize = 1024;

/// What failed in another process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Encode, Decode)]
#[error("{}", chain.join(": "))]
#[cbor(map)]
pub struct Failure {
    /// What a caller can act on.
    #[n(0)]
    pub kind: FailureKind,
    /// Messages from what was attempted to the last cause; never empty, at most 16 of 1,024 bytes.
    #[n(1)]
    pub chain: Vec<String>,
    /// The kernel's number, if a kernel call was refused.
    #[n(2)]
    pub errno: Option<i32>,
    /// Name of the plan's step, if it was a step.
    #[n(3)]
    pub step: Option<String>,
}

/// Kinds of failures by what can be done about them.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum FailureKind {
    /// A step of the plan was refused by the kernel; the sweep undid what was done.
    #[n(0)]
    Step,
    /// The container was made but its main process did not start; the sweep undid it.
    #[n(1)]
    Spawn(#[n(0)] SpawnFailure),
    /// The plan or the request cannot be read, or contradicts itself; nothing was tried.
    #[n(2)]
    Malformed,
    /// Too many operations at once; try again later.
    #[n(3)]
    Busy,
    /// The other side is ending and starts nothing new.
    #[n(4)]
    Ending,
    /// A worker died before it could report; the sweep undid what it did.
    #[n(5)]
    WorkerLost,
    /// The container, image mount or descriptor is not known there.
    #[n(6)]
    Unknown,
    /// It is there already.
    #[n(7)]
    Exists,
    /// The keeper is not there and could not be started.
    #[n(8)]
    KeeperLost,
    /// The other side speaks another version of the protocol.
    #[n(9)]
    Version,
    /// A kernel call outside of a plan was refused.
    #[n(10)]
    Kernel,
}

impl Failure {
    /// A failure with one message.
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, chain: vec![cut(message.into())], errno: None, step: None }
    }

    /// A failure from an error and its causes. `errno` of the innermost cause is found if that is an
    /// [`Errno`](rustix::io::Errno), an [`io::Error`](std::io::Error), or a step's failure that holds one.
    #[must_use]
    pub fn from_error(kind: FailureKind, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut chain = Vec::new();
        let mut errno = None;
        let mut next = Some(error);
        while let Some(error) = next {
            if chain.len() < CHAIN_LENGTH_MAX {
                chain.push(cut(error.to_string()));
            }
            if let Some(found) = error.downcast_ref::<rustix::io::Errno>() {
                errno = Some(found.raw_os_error());
            } else if let Some(found) = error.downcast_ref::<StepFailure>() {
                // One that crossed from another process carries the number, not its type.
                errno = found.errno().or(errno);
            } else if let Some(found) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error) {
                errno = Some(found);
            }
            next = error.source();
        }
        Self { kind, chain, errno, step: None }
    }

    /// Names the step.
    #[must_use]
    pub fn at_step(mut self, step: impl Into<String>) -> Self {
        self.step = Some(step.into());
        self
    }
}

fn cut(mut message: String) -> String {
    let end = (0..=CHAIN_MESSAGE_BYTES_MAX.min(message.len())).rev().find(|&end| message.is_char_boundary(end));
    message.truncate(end.unwrap_or(0));
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[derive(Debug, thiserror::Error)]
    #[error("mount /x")]
    struct MountError(#[source] Errno);

    #[test]
    fn a_chain_keeps_every_message_and_the_kernels_number() {
        let failure = Failure::from_error(FailureKind::Step, &MountError(Errno::NOENT)).at_step("mount-root");
        assert_eq!(failure.errno, Some(2));
        assert_eq!(failure.step.as_deref(), Some("mount-root"));
        assert_eq!(failure.to_string(), "mount /x: No such file or directory (os error 2)");
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let failure = Failure::new(FailureKind::Busy, "\u{e9}".repeat(1000));
        assert_eq!(failure.chain[0].len(), 1024);
    }
}
