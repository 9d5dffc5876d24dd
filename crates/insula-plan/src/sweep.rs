//! Removing everything that a container has on its host, by name and as often as one likes.
//!
//! A failed start, a delete, and the recovery after a crash do the same: each step removes one object if it is there.
//! A step that fails does not keep the others from being done; what is left is reported, and the sweep is done again.

use std::fmt;
use std::path::PathBuf;

use insula_model::ContainerId;
use minicbor::{Decode, Encode};
use rustix::io::Errno;

use crate::cgroup::{CgroupStep, CgroupStepError};
use crate::form::{Form, ReadFormError};
use crate::link::{LinkStep, LinkStepError};

/// Version of the sweep's form; another one is refused.
pub const SWEEP_VERSION: u16 = 1;

/// Longest encoded sweep, in bytes.
pub const SWEEP_BYTES_MAX: usize = 1 << 20;

const FORM: Form = Form { what: "sweep", version: SWEEP_VERSION, bytes_max: SWEEP_BYTES_MAX };

/// What a container may have on its host.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SweepPlan {
    /// [`SWEEP_VERSION`] of who made it.
    #[n(0)]
    pub version: u16,
    /// Whose.
    #[n(1)]
    #[cbor(with = "crate::protocol::cbor::container_id")]
    pub container: ContainerId,
    /// In the order of removal: processes first.
    #[n(2)]
    pub steps: Vec<SweepStep>,
}

/// Removes one object of the host; done when it is gone.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum SweepStep {
    /// A control group, or the processes in it.
    #[n(0)]
    Cgroup(#[n(0)] CgroupStep),
    /// The link, or what leads to it.
    #[n(1)]
    Link(#[n(0)] LinkStep),
    /// A file.
    #[n(2)]
    File {
        /// Absolute path.
        #[n(0)]
        path: PathBuf,
    },
    /// A directory of the run directory with its files. What is below a directory in it is not touched.
    #[n(3)]
    Dir {
        /// Absolute path.
        #[n(0)]
        path: PathBuf,
    },
}

/// One object is still there.
#[derive(Debug, thiserror::Error)]
pub enum SweepStepError {
    /// A control group or its processes.
    #[error("remove a control group")]
    Cgroup(#[source] CgroupStepError),
    /// The link or what leads to it.
    #[error("remove a link")]
    Link(#[source] LinkStepError),
    /// A file or directory.
    #[error("unlink({})", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        errno: Errno,
    },
}

/// Objects of a container are still there; the others are gone.
#[derive(Debug, thiserror::Error)]
#[error("sweep of container {container}: {} of its objects are left", others + 1)]
pub struct SweepError {
    /// Whose.
    pub container: ContainerId,
    /// The first that could not be removed.
    #[source]
    pub first: SweepStepError,
    /// How many more could not.
    pub others: usize,
}

impl SweepPlan {
    /// A sweep in this build's version.
    #[must_use]
    pub fn new(container: ContainerId, steps: Vec<SweepStep>) -> Self {
        Self { version: SWEEP_VERSION, container, steps }
    }

    /// The sweep's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        crate::protocol::channel::encode(self)
    }

    /// Reads a sweep.
    ///
    /// # Errors
    ///
    /// See [`ReadFormError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ReadFormError> {
        FORM.decode(bytes)
    }
}

/// Removes what the sweep names, all of it that can be removed. Nothing there is success.
///
/// # Errors
///
/// Something is left; it may be tried again.
pub fn sweep(plan: &SweepPlan) -> Result<(), SweepError> {
    let mut failures = plan.steps.iter().filter_map(|step| step.perform().err());
    match failures.next() {
        None => Ok(()),
        Some(first) => Err(SweepError { container: plan.container, first, others: failures.count() }),
    }
}

impl SweepStep {
    fn perform(&self) -> Result<(), SweepStepError> {
        match self {
            Self::Cgroup(step) => step.perform(None).map_err(SweepStepError::Cgroup),
            Self::Link(step) => step.perform(None).map_err(SweepStepError::Link),
            Self::File { path } => {
                gone(rustix::fs::unlink(path)).map_err(|errno| SweepStepError::File { path: path.clone(), errno })
            }
            Self::Dir { path } => remove_dir(path).map_err(|errno| SweepStepError::File { path: path.clone(), errno }),
        }
    }
}

impl fmt::Display for SweepStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup(step) => step.fmt(f),
            Self::Link(step) => step.fmt(f),
            Self::File { path } | Self::Dir { path } => write!(f, "unlink({})", path.display()),
        }
    }
}

fn gone(done: Result<(), Errno>) -> Result<(), Errno> {
    match done {
        Err(Errno::NOENT) => Ok(()),
        done => done,
    }
}

/// How often a directory is emptied that somebody still writes a last fact into: one more than there are facts.
const EMPTYINGS_MAX: u32 = 8;

/// Removes a directory of files; one level, so that a mistaken path cannot cost a tree. The launcher may be writing how
/// the container ended just now, which then is not asked for any more.
fn remove_dir(path: &std::path::Path) -> Result<(), Errno> {
    let mut last = Errno::NOTEMPTY;
    for _ in 0..EMPTYINGS_MAX {
        match empty_and_remove(path) {
            Err(Errno::NOTEMPTY) => last = Errno::NOTEMPTY,
            removed => return removed,
        }
    }
    Err(last)
}

fn empty_and_remove(path: &std::path::Path) -> Result<(), Errno> {
    let to_errno = |error: &std::io::Error| Errno::from_io_error(error).unwrap_or(Errno::IO);
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|error| to_errno(&error))?,
    };
    for entry in entries {
        let entry = entry.map_err(|error| to_errno(&error))?;
        gone(rustix::fs::unlink(entry.path()))?;
    }
    gone(rustix::fs::rmdir(path))
}
