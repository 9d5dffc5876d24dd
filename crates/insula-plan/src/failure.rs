//! Which step of a start failed and why, in a form that crosses from the container's first process to its caller.

use minicbor::{Decode, Encode};
use rustix::io::Errno;

/// A step of a start failed. What was done before it is for the sweep to undo.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Encode, Decode)]
#[error("{phase} {index}, `{step}`")]
#[cbor(map)]
pub struct StepError {
    /// Which part of the plan.
    #[n(0)]
    pub phase: Phase,
    /// Which step of that part, from 0.
    #[n(1)]
    pub index: u16,
    /// What kind of step: `attach-mount`.
    #[n(2)]
    pub step: String,
    /// Why.
    #[n(3)]
    #[source]
    pub cause: StepFailure,
}

/// Parts of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Phase {
    /// Before the process exists.
    #[n(0)]
    Before,
    /// Making the process.
    #[n(1)]
    Spawn,
    /// For the process, on the host.
    #[n(2)]
    Outside,
    /// By the process itself.
    #[n(3)]
    Inside,
    /// Becoming the program.
    #[n(4)]
    Exec,
    /// Entering a container that runs.
    #[n(5)]
    Join,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Before => "step before the process",
            Self::Spawn => "making the process",
            Self::Outside => "step outside",
            Self::Inside => "step inside",
            Self::Exec => "executing the program",
            Self::Join => "step of the join",
        })
    }
}

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Encode, Decode)]
pub enum StepFailure {
    /// The kernel refused a call.
    #[error("{call}")]
    #[n(0)]
    Kernel {
        /// The call with its target.
        #[n(0)]
        call: String,
        /// The kernel's reason.
        #[n(1)]
        #[source]
        errno: KernelError,
    },
    /// Something of the image, or the target of a mount, is not what it has to be.
    #[error("`{target}` {problem}")]
    #[n(1)]
    Target {
        /// Path in the container.
        #[n(0)]
        target: String,
        /// What is wrong.
        #[n(1)]
        problem: TargetProblem,
    },
    /// What is there is not what it pretends to be.
    #[error("`{target}` is not {expected}")]
    #[n(2)]
    Impostor {
        /// What was looked at.
        #[n(0)]
        target: String,
        /// What it had to be: `a procfs`.
        #[n(1)]
        expected: String,
    },
    /// The kernel mounted an overlay read-only, as it does when it cannot make its work directory.
    #[error("the kernel mounted the overlay read-only")]
    #[n(3)]
    OverlayReadOnly,
    /// The plan contradicts itself.
    #[error("the plan contradicts itself: {reason}")]
    #[n(4)]
    BadPlan {
        /// How.
        #[n(0)]
        reason: String,
    },
    /// The container's first process ended before it could say why; somebody killed it, or memory ran out.
    #[error("the container's first process was killed while it was set up")]
    #[n(5)]
    ChildLost,
    /// Another part's failure, message by message from what was attempted to the last cause.
    #[error("{}", chain.join(": "))]
    #[n(6)]
    Chain {
        /// Never empty.
        #[n(0)]
        chain: Vec<String>,
        /// The kernel's number, if the last cause is one.
        #[n(1)]
        errno: Option<i32>,
    },
    /// The file system of something of the host cannot be shown with other ids.
    #[error(
        "the file system of {path} cannot shift ids on this kernel; put it on one that can (ext4, xfs or btrfs; tmpfs from Linux 6.3)"
    )]
    #[n(7)]
    NotIdmappable {
        /// Path on the host.
        #[n(0)]
        path: String,
    },
}

/// What is wrong with the target of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum TargetProblem {
    /// Nothing is there.
    #[n(0)]
    Missing,
    /// It is a symbolic link, or leads through one.
    #[n(1)]
    SymbolicLink,
    /// It is, or leads through, something that is no directory.
    #[n(2)]
    NotDirectory,
    /// It is a directory where a file is needed.
    #[n(3)]
    IsDirectory,
}

impl std::fmt::Display for TargetProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Missing => {
                "does not exist in the image; add it there, or give the container a writable root (--root writable)"
            }
            Self::SymbolicLink => "is a symbolic link in the image, or lies behind one; mounts need a real directory",
            Self::NotDirectory => "is not a directory in the image",
            Self::IsDirectory => "is a directory in the image, where a file is needed",
        })
    }
}

/// An error number of the kernel, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Encode, Decode)]
#[error("{}", std::io::Error::from_raw_os_error(*.0))]
#[cbor(transparent)]
pub struct KernelError(#[n(0)] pub i32);

impl From<Errno> for KernelError {
    fn from(errno: Errno) -> Self {
        Self(errno.raw_os_error())
    }
}

impl StepFailure {
    /// `call` is the call with its target.
    #[must_use]
    pub fn kernel(call: impl Into<String>, errno: Errno) -> Self {
        Self::Kernel { call: call.into(), errno: errno.into() }
    }

    /// From another part's error, with its causes.
    #[must_use]
    pub fn from_error(error: &(dyn std::error::Error + 'static)) -> Self {
        let failure = crate::protocol::failure::Failure::from_error(crate::protocol::failure::FailureKind::Step, error);
        Self::Chain { chain: failure.chain, errno: failure.errno }
    }

    /// The kernel's number, if a kernel call was refused.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { errno, .. } => Some(errno.0),
            Self::Chain { errno, .. } => *errno,
            _ => None,
        }
    }
}

impl From<crate::slot::SlotError> for StepFailure {
    fn from(error: crate::slot::SlotError) -> Self {
        Self::BadPlan { reason: error.to_string() }
    }
}
