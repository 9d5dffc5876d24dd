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
//! What is attached to is named by a token of the API's, or it is a container that the request itself creates, which
//! spares a foreground `run` a request and its answer:
//!
//! ```json
//! {"token": "…", "streams": ["stdout", "stderr"]}
//! {"run": {"spec": {…}, "remove": true}, "streams": ["stdout", "stderr"]}
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

use crate::{CreateContainer, CreatedContainer};

/// Largest message on the attach socket, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// A secret that is good for one attachment within a few seconds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
pub struct AttachToken(pub String);

/// What a client asks for on the attach socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "RequestForm", into = "RequestForm")]
pub struct AttachRequest {
    /// To what.
    pub to: AttachTo,
    /// Which standard streams came along, in the order of the descriptors.
    pub streams: Vec<AttachStream>,
}

/// What a client attaches to.
#[derive(Debug, Clone)]
pub enum AttachTo {
    /// What this stands for, from the answer that created the container, execution or transfer.
    Token(AttachToken),
    /// A container that is created for it and started, as if `attach` were set.
    Run(Box<CreateContainer>),
}

impl AttachTo {
    /// The same, if a request with it is small enough for the socket; a larger container is created by the API.
    #[must_use]
    pub fn if_it_fits(self) -> Option<Self> {
        // Four streams have names of less than 16 bytes.
        let request = AttachRequest { to: self, streams: Vec::new() };
        let bytes = serde_json::to_vec(&request).map_or(usize::MAX, |bytes| bytes.len());
        (bytes < MESSAGE_BYTES_MAX - 64).then_some(request.to)
    }
}

/// The JSON of a request.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<AttachToken>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run: Option<Box<CreateContainer>>,
    streams: Vec<AttachStream>,
}

impl TryFrom<RequestForm> for AttachRequest {
    type Error = &'static str;

    fn try_from(form: RequestForm) -> Result<Self, Self::Error> {
        let to = match (form.token, form.run) {
            (Some(token), None) => AttachTo::Token(token),
            (None, Some(create)) => AttachTo::Run(create),
            _ => return Err("it takes either `token` or `run`"),
        };
        Ok(Self { to, streams: form.streams })
    }
}

impl From<AttachRequest> for RequestForm {
    fn from(request: AttachRequest) -> Self {
        let (token, run) = match request.to {
            AttachTo::Token(token) => (Some(token), None),
            AttachTo::Run(create) => (None, Some(create)),
        };
        Self { token, run, streams: request.streams }
    }
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
        /// The container that the request created.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        created: Option<CreatedContainer>,
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

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = r#"{"run":{"spec":{"image":"debian"},"remove":true},"streams":["stdout"]}"#;

    #[test]
    fn a_request_names_a_token_or_brings_a_container() {
        let read = |text: &str| serde_json::from_str::<AttachRequest>(text);
        let request = read(r#"{"token":"t","streams":[]}"#).unwrap();
        assert!(matches!(&request.to, AttachTo::Token(token) if token.0 == "t"));
        assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"token":"t","streams":[]}"#);
        let request = read(RUN).unwrap();
        assert!(matches!(&request.to, AttachTo::Run(create) if create.remove));
        assert_eq!(request.streams, [AttachStream::Stdout]);
        let again = read(&serde_json::to_string(&request).unwrap()).unwrap();
        assert!(matches!(again.to, AttachTo::Run(create) if create.remove));
        for wrong in [
            r#"{"streams":[]}"#,
            r#"{"token":"t","run":{"spec":{"image":"debian"}},"streams":[]}"#,
            r#"{"token":"t","other":1,"streams":[]}"#,
        ] {
            read(wrong).unwrap_err();
        }
    }

    #[test]
    fn what_does_not_fit_is_not_sent() {
        let AttachRequest { to: AttachTo::Run(mut create), .. } = serde_json::from_str(RUN).unwrap() else { panic!() };
        assert!(AttachTo::Run(create.clone()).if_it_fits().is_some());
        create.spec.command = vec!["x".repeat(MESSAGE_BYTES_MAX)];
        assert!(AttachTo::Run(create).if_it_fits().is_none());
    }
}
