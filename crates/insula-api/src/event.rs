//! What happened, on the wire.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One event of `GET /v1/events` (server-sent events, `data:` is this as JSON).
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Counts up from 1 since the daemon's start; a gap means that the client was too slow.
    pub sequence: u64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// About what.
    pub subject: EventSubject,
    /// Its name or `name@version`.
    pub name: String,
    /// Id of a container or operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What happened, in the past tense: `created`, `started`, `exited`, `published` …
    pub action: String,
    /// More, such as `exit_code`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventSubject {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A long action.
    Operation,
    /// The node itself.
    Node,
}
