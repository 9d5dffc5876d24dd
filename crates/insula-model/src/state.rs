//! Where a container stands in its life.

use std::fmt;

use serde::{Deserialize, Serialize};

/// State of a container.
///
/// ```text
/// created ──> starting ──> running <──> paused
///                │            │
///                v            v
///              failed      stopping ──> stopped ──> starting …
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// Defined, never started.
    Created,
    /// Being set up.
    Starting,
    /// Its first process runs.
    Running,
    /// Frozen.
    Paused,
    /// Asked to stop; its processes are ending.
    Stopping,
    /// Ended; its exit code is known, or the reason why not.
    Stopped,
    /// Could not be started, or not be made healthy; the cause is recorded.
    Failed,
}

impl ContainerState {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 7] =
        [Self::Created, Self::Starting, Self::Running, Self::Paused, Self::Stopping, Self::Stopped, Self::Failed];
}

/// What the check of a running container says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It did not pass yet, and there is time.
    Starting,
    /// It passed.
    Healthy,
    /// It failed too often.
    Unhealthy,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        })
    }
}

impl fmt::Display for ContainerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        })
    }
}
