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
