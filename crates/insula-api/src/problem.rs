//! Errors on the wire.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An RFC 9457 problem document (`application/problem+json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// Stable code, as in `urn:insula:not_found`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code, for programs.
    pub code: ProblemCode,
    /// HTTP status.
    pub status: u16,
    /// The code in words.
    pub title: String,
    /// What was wrong, with which object: the whole chain of causes, joined by `: `.
    pub detail: String,
    /// What the user can do about it, when there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Name of the step of a start that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub step: Option<Box<str>>,
}

/// Stable error codes. The command's exit code follows from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProblemCode {
    /// The request is not of the contract.
    Invalid,
    /// The object does not exist.
    NotFound,
    /// The object exists already, or is in a state that forbids the action, or another action is on it.
    Conflict,
    /// The caller may not do this.
    Denied,
    /// The node has not enough left.
    Admission,
    /// This machine lacks something for it.
    NotSupported,
    /// The container could not be started; nothing of it is left behind.
    StartFailed,
    /// A command was not found in the container.
    CommandNotFound,
    /// A command was found and cannot be executed.
    CommandNotExecutable,
    /// The action was cancelled.
    Cancelled,
    /// A defect or the machine's failure; the daemon's log has more.
    Internal,
}

impl ProblemCode {
    /// HTTP status that goes with the code.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Denied => 403,
            Self::NotFound => 404,
            Self::Conflict | Self::Cancelled => 409,
            Self::StartFailed | Self::CommandNotFound | Self::CommandNotExecutable => 422,
            Self::Internal => 500,
            Self::NotSupported => 501,
            Self::Admission => 507,
        }
    }

    /// Exit code of every command but foreground `run` and `exec`.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Invalid => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Denied => 5,
            Self::Admission => 6,
            Self::NotSupported => 7,
            Self::StartFailed
            | Self::CommandNotFound
            | Self::CommandNotExecutable
            | Self::Cancelled
            | Self::Internal => 1,
        }
    }

    /// Exit code of foreground `run` and `exec`: 127 and 126 for the command, 125 for ours.
    #[must_use]
    pub fn foreground_exit_code(self) -> u8 {
        match self {
            Self::CommandNotFound => 127,
            Self::CommandNotExecutable => 126,
            _ => 125,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Invalid => "invalid request",
            Self::NotFound => "not found",
            Self::Conflict => "conflict",
            Self::Denied => "denied",
            Self::Admission => "refused by admission",
            Self::NotSupported => "not supported here",
            Self::StartFailed => "start failed",
            Self::CommandNotFound => "command not found",
            Self::CommandNotExecutable => "command not executable",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal error",
        }
    }
}

impl fmt::Display for ProblemCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.title())
    }
}

impl Problem {
    /// A problem with `code`, about what `detail` says.
    #[must_use]
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        let name = serde_json::to_value(code).ok().and_then(|value| value.as_str().map(str::to_owned));
        Self {
            kind: format!("urn:insula:{}", name.unwrap_or_default()),
            code,
            status: code.status(),
            title: code.title().to_owned(),
            detail: detail.into(),
            remedy: None,
            step: None,
        }
    }

    /// The same with the whole chain of `error` as its detail.
    #[must_use]
    pub fn from_chain(code: ProblemCode, error: &dyn std::error::Error) -> Self {
        let chain: Vec<String> =
            std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect();
        Self::new(code, chain.join(": "))
    }

    /// The same with a remedy.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}
