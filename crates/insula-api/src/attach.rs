//! The attach socket: how a client's standard streams reach a container.
//!
//! `<run-dir>/attach.sock` is a SOCK_SEQPACKET unix socket, root:insula 0660. Messages are JSON, one per packet. One
//! connection serves one attachment:
//!
//! ```text
//! client                                          daemon
//!   AttachRequest + one descriptor per stream ->
//!                              <- AttachAnswer::Attached + descriptors
//!                              <- AttachAnswer::Ended              (starts of containers; the client stays connected)
//! ```
//!
//! Descriptors beside `Attached`, in order:
//!
//! - start of a container, or attachment to one that runs: a pidfd of process 1, then the file that will hold the
//!   main process's end (a CBOR `insula_plan::protocol::status::End`, empty until then), then what the client types
//!   into: the pty's master if it has a terminal; for an attachment without one, the pipe to its standard input if
//!   it was created with one that stays open. Output of a terminal comes to the standard output that the client
//!   brought, never by the master, which has other readers: the node logs it, and there may be several clients. Bytes
//!   that a client does not read hold the container up. The client
//!   polls the connection and the pidfd. When the pidfd is readable it reads the file; when that is empty, or the
//!   file is missing because process 1 is the image's own init, it waits for `Ended`. So a daemon that dies
//!   meanwhile (the connection closes) does not matter.
//! - exec (no descriptors are brought when it asks for a terminal): the connection to the container's process 1, or to
//!   the launcher where that is the image's own, on which `insula_plan::protocol::init::InitEvent::Ended`
//!   (`EndedUnseen`) will arrive and `InitRequest::Signal` may be sent, then the pty's master if it has a terminal.
//!   There is no `Ended` on the attach connection.
//! - transfer of a file: none; the operation tells the rest.
//!
//! Only pipes, stream sockets and regular files are taken as standard streams; a terminal or a directory is refused
//! (a client with a terminal makes pipes or asks for a pty and copies itself).

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
    /// It runs. Descriptors beside it as the module says.
    Attached {
        /// Host process id of what was started, when known.
        pid: Option<u32>,
        /// Whether the file with the main process's end is among the descriptors.
        end_file: bool,
        /// What the user should know, such as that a changed image failed and the last good one runs.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<String>,
    },
    /// It does not run.
    Refused(crate::Problem),
    /// It ended.
    Ended {
        /// Exit code, 128+n for signal n; `None` when nobody knows it.
        exit_code: Option<i32>,
        /// Why the code is unknown.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
}
