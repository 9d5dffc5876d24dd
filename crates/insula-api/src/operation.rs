//! Long actions on the wire.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{AttachToken, Problem};

/// A long action: answered with 202 at once, then waited for, watched or cancelled.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Id (UUID version 7, so they sort by time).
    pub id: Uuid,
    /// What it does.
    pub kind: OperationKind,
    /// On what, such as `debian@12`.
    pub subject: String,
    /// Where it stands.
    pub state: OperationState,
    /// How far it is.
    pub progress: OperationProgress,
    /// The end of what its commands wrote; of builds.
    #[serde(default, skip_serializing_if = "OperationOutput::is_empty")]
    pub output: OperationOutput,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub started: Timestamp,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished: Option<Timestamp>,
    /// What came out, when it succeeded; its form follows from `kind`.
    pub result: Option<serde_json::Value>,
    /// Why it failed.
    pub problem: Option<Problem>,
    /// Set when the operation waits for a file of the client's on the attach socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach_token: Option<AttachToken>,
}

/// Kinds of long action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// `image import`
    ImageImport,
    /// `image build`
    ImageBuild,
    /// `image test`
    ImageTest,
    /// `image verify`
    ImageVerify,
    /// `image export`
    ImageExport,
    /// `image gc`
    ImageGc,
    /// `upgrade`
    Upgrade,
    /// `rollback`
    Rollback,
}

/// Where a long action stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Under way.
    Running,
    /// Done.
    Succeeded,
    /// Ended with a problem; nothing half-done is left.
    Failed,
    /// Ended because someone asked.
    Cancelled,
}

/// How far a long action is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationProgress {
    /// What it does now, such as `packing`.
    pub phase: String,
    /// Units done, mostly bytes.
    pub done: u64,
    /// Units in all, when known.
    pub total: Option<u64>,
}

/// The last lines that the commands of a long action wrote. Whoever follows it remembers how many lines it has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationOutput {
    /// Lines that were written before the first of these.
    pub before: u64,
    /// The last lines, without control characters; long ones are cut.
    pub lines: Vec<String>,
}

impl OperationOutput {
    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.before == 0 && self.lines.is_empty()
    }

    /// How many lines were written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.before.saturating_add(u64::try_from(self.lines.len()).unwrap_or(u64::MAX))
    }

    /// The lines that somebody who has seen the first `seen` ones has not, and how many of them are lost.
    #[must_use]
    pub fn since(&self, seen: u64) -> (u64, &[String]) {
        let lost = self.before.saturating_sub(seen);
        let skip = usize::try_from(seen.saturating_sub(self.before)).unwrap_or(usize::MAX);
        (lost, self.lines.get(skip..).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_follows_gets_each_line_once_and_hears_of_lost_ones() {
        let output = OperationOutput { before: 3, lines: vec!["d".to_owned(), "e".to_owned()] };
        assert_eq!(output.written(), 5);
        assert_eq!(output.since(0), (3, &output.lines[..]));
        assert_eq!(output.since(4), (0, &output.lines[1..]));
        assert_eq!(output.since(5), (0, &[][..]));
        assert_eq!(output.since(9), (0, &[][..]));
    }
}
