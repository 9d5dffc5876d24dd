//! What an image says about how to run it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{RootAccess, Signal};

/// Run configuration of an image; a container's own settings go before it, field by field.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ImageConfig {
    /// First words of the command line, kept when a container names its own command.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Rest of the command line, replaced by a container's own command.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Environment variables.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// `user`, `uid`, `user:group` or `uid:gid`; root when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Working directory; `/` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Program that is process 1 of a full-init container, such as `/sbin/init`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// Signal that asks the container to stop; `SIGTERM` when absent, `SIGRTMIN+3` with `init`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<Signal>,
    /// Name of a time zone of the image's zoneinfo, such as `Europe/Rome`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// How to tell that a container of this image is healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// Whether `/` is writable in containers that do not say; read-only when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<RootAccess>,
    /// Ports that the image's programs listen on, for people.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exposed_ports: Vec<String>,
    /// Free text by key.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Commands that `image test` runs in a container of the image; all must exit 0.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Vec<String>>,
}

impl ImageConfig {
    /// Program that is process 1 of a full-init container: the one the image names, else the usual place of one.
    /// Images that come from plain archives name none.
    #[must_use]
    pub fn init_program(&self) -> &str {
        self.init.as_deref().unwrap_or("/sbin/init")
    }
}

/// A command inside the container that exits 0 when the container is healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// Command line; empty in a container's configuration: no check, also not its image's.
    pub command: Vec<String>,
    /// Milliseconds from the end of one try to the next.
    pub interval_ms: u64,
    /// Milliseconds from the start until the container must be healthy.
    pub deadline_ms: u64,
    /// Milliseconds that one try may take; 30 seconds when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Failures in a row that make the container unhealthy; 3 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
}

impl HealthCheck {
    /// Time that one try may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.unwrap_or(30_000))
    }

    /// Failures in a row that make the container unhealthy, at least one.
    #[must_use]
    pub fn retries(&self) -> u32 {
        self.retries.unwrap_or(3).max(1)
    }
}

/// Where a version stands on its way to production.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Built or imported; containers may run it by its version.
    Testing,
    /// Tested and promoted.
    Production,
}
