//! Standard streams of a command in a container: who copies what, until when.
//!
//! A terminal or a directory never enters a container. What may go in goes as a descriptor over the attach socket;
//! for all else this program makes a pipe, or asks for a pty, and copies.
//!
//! ```text
//!   ours                        what the container gets
//!   pipe, stream socket, file   the same descriptor (outputs only if the node does not log them; pipes and sockets
//!                               only if nothing outlives what we wait for, as it may that of an exec)
//!   /dev/null, or closed        an input that is at its end; no output
//!   terminal, device            a pipe; a thread of ours copies
//!   anything, with a terminal   a pty whose master we are given to type into; two threads of ours copy
//! ```
//!
//! The main thread waits for the end, for signals and for the detach keys; it never copies, so that a reader of our
//! output who does not read cannot keep a signal from the container.

mod attach;
mod copy;
mod detach;
mod session;
mod streams;
mod terminal;

use std::io;
use std::path::PathBuf;

use insula_api::{Problem, ProblemCode};

use crate::failure::remedy_of_versions;

pub use attach::send_file;
pub use session::{Begun, Happening, Session, Stdio, Subject};
pub use streams::{Input, Outputs, Streams};
pub use terminal::window_size;

/// What went wrong between our standard streams and the container's.
#[derive(Debug, thiserror::Error)]
pub enum ForegroundError {
    /// The node's attach socket is not there.
    #[error("no node answers at {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The attach connection broke before the container ran.
    #[error("the node ended the attachment")]
    Attachment(#[source] io::Error),
    /// What came over the attach socket is not of its protocol.
    #[error("the node's answer is not understood; versions of program and node may differ")]
    Malformed(#[source] serde_json::Error),
    /// A descriptor that should have come did not.
    #[error("the node's answer lacks {what}")]
    Incomplete {
        /// What is missing.
        what: &'static str,
    },
    /// It does not run.
    #[error(transparent)]
    Refused(Box<Problem>),
    /// A kernel call on this side.
    #[error("{call}")]
    Kernel {
        /// What was attempted.
        call: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Ended, but nobody knows how.
    #[error("the exit code is unknown: {reason}")]
    Unknown {
        /// Why.
        reason: String,
    },
    /// A second signal came while the container was still being started.
    #[error("interrupted by signal {signal}")]
    Interrupted {
        /// Which.
        signal: u8,
    },
}

impl ForegroundError {
    /// The stable code, when there is one.
    pub(crate) fn code(&self) -> Option<ProblemCode> {
        match self {
            Self::Refused(problem) => Some(problem.code),
            _ => None,
        }
    }

    /// What the user can do.
    pub(crate) fn remedy(&self) -> Option<String> {
        match self {
            Self::Refused(problem) => problem.remedy.clone().or_else(|| remedy_of_versions(problem)),
            Self::Attachment(_) => Some("see the node's log; start it again if it ended".to_owned()),
            Self::Unknown { .. } => Some("`insula show` and `insula logs` have what is known of it".to_owned()),
            _ => None,
        }
    }
}

/// A kernel call's refusal as an error of this module.
fn kernel(call: &'static str) -> impl FnOnce(rustix::io::Errno) -> ForegroundError {
    move |errno| ForegroundError::Kernel { call, source: errno.into() }
}
