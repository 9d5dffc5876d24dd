//! The attach socket: how a client's standard streams reach a container.
//!
//! `<run-dir>/attach.sock` is a SOCK_SEQPACKET unix socket, root:insula 0660. One connection serves one attachment:
//!
//! ```text
//! client                                   daemon
//!   AttachRequest + [stdin, stdout, stderr] ->      (tty: no descriptors)
//!                                        <- AttachAnswer::Attached + [status socket] (tty: + [pty master])
//!   closes the connection
//! ```
//!
//! Only pipes, stream sockets and regular files are taken; a terminal or a directory is refused. The status socket
//! is connected to the container's process 1: the client reads the process's end from it itself, so a daemon that
//! dies meanwhile does not matter. Messages on it are those of `insula_plan::protocol::init`.

use serde::{Deserialize, Serialize};

/// Largest message on the attach socket, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// A secret that is good for one attachment within a few seconds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
pub struct AttachToken(pub String);

/// What a client asks for on the attach socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachRequest {
    /// From the answer that created the container, execution or transfer.
    pub token: AttachToken,
    /// Which standard streams came along, in the order of the descriptors.
    pub streams: Vec<AttachStream>,
}

/// A standard stream, or a file to read from or write to (image import and export).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachStream {
    /// Standard input.
    Stdin,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A local file or directory that an operation reads or writes.
    File,
}

/// The daemon's answer on the attach socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachAnswer {
    /// It runs. Descriptors: the status socket; with a terminal also the pty's master.
    Attached {
        /// Host process id of what was started.
        pid: Option<u32>,
    },
    /// It does not run.
    Refused(crate::Problem),
}
