//! Commands in running containers, on the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::AttachToken;

/// `POST /v1/containers/{name}/exec`
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Command line.
    pub command: Vec<String>,
    /// Environment variables beside the container's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory; the container's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`; the container's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Rows and columns of its terminal; no terminal when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<(u16, u16)>,
}

/// Answer to [`ExecRequest`]: attaching starts the command.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedExec {
    /// Token for the attach socket.
    pub attach_token: AttachToken,
}
