//! The node on the wire.

use std::collections::BTreeMap;

use insula_model::{ResourceSpec, Sha256Digest, TemplateName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /v1/version`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VersionView {
    /// Version of the daemon.
    pub version: String,
    /// Version of the API; clients refuse another major one.
    pub api: String,
    /// The node's name.
    pub node: String,
    /// Kernel release.
    pub kernel: String,
}

/// `GET /v1/templates/{name}`: a template with what it has from its ancestors and the node.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TemplateView {
    /// Its name.
    pub name: TemplateName,
    /// The template that has what it lacks.
    pub from: Option<TemplateName>,
    /// What a container without values of its own gets.
    pub resources: ResourceSpec,
    /// By the key of each value's setting: `template NAME` or `node`.
    pub origins: BTreeMap<String, String>,
}

/// `GET /v1/backup`: everything that the node is to have, as of one moment.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NodeBackup {
    /// Version of this form.
    pub format: u32,
    /// Version of the records.
    pub schema: u64,
    /// The node's name.
    pub node: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// SHA-256 of the records, each as JSON with its keys in order and a line end.
    pub digest: Sha256Digest,
    /// One record per container.
    pub containers: Vec<serde_json::Value>,
}

/// `GET /v1/doctor`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NodeReport {
    /// One line per thing looked at.
    pub findings: Vec<Finding>,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FindingLevel {
    /// As it should be.
    Good,
    /// Works with a cost.
    Warning,
    /// Something will not work.
    Failure,
}

/// One thing the doctor looked at.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// What was looked at.
    pub subject: String,
    /// How it stands.
    pub level: FindingLevel,
    /// What was found and what it costs.
    pub detail: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}
