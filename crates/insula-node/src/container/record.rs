//! Intent: what the store keeps of a container.

use std::time::Duration;

use insula_model::{ContainerId, ContainerName, ContainerSpec, HealthCheck, IdRange, ImageId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::facts::Facts;
use super::words::Wanted;
use crate::machine::Traces;

/// What a container is to be, and what it was given for life. JSON in the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    /// Its id.
    pub(crate) id: ContainerId,
    /// Its name.
    pub(crate) name: ContainerName,
    /// Its configuration.
    pub(crate) spec: ContainerSpec,
    /// The version that proved good last; at first the one resolved when it was created.
    pub(crate) image: ImageId,
    /// The good version before that.
    #[serde(default)]
    pub(crate) previous_image: Option<ImageId>,
    /// A version that was set and has not proved good yet.
    #[serde(default)]
    pub(crate) next_image: Option<ImageId>,
    /// How that version proves good, when the upgrade said; the container's or image's own check when absent.
    #[serde(default)]
    pub(crate) trial_health: Option<HealthCheck>,
    /// The time from stop signal to kill of the restart that an upgrade asks for, until that version proved good or not.
    #[serde(default)]
    pub(crate) upgrade_grace: Option<Duration>,
    /// Why the last change of image was taken back.
    #[serde(default)]
    pub(crate) rolled_back: Option<String>,
    /// Host ids.
    pub(crate) ids: IdRange,
    /// Addresses.
    #[serde(default)]
    pub(crate) addresses: Addresses,
    /// When it was created.
    pub(crate) created: Timestamp,
    /// What its owner last asked for.
    pub(crate) wanted: Wanted,
    /// Whether it is deleted when it ends; from its first start on such a record is in the run directory only.
    #[serde(default)]
    pub(crate) remove: bool,
    /// Whether an operation of the daemon's made it for itself: it goes with the daemon that had the operation.
    #[serde(default)]
    pub(crate) of_operation: bool,
    /// How the last run went, while nothing runs.
    #[serde(default)]
    pub(crate) last_run: Option<LastRun>,
}

/// Where a container's record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// In the store.
    Stored,
    /// In the run directory only: it goes when the container ends.
    WhileItRuns,
}

/// What is known of a run after the machine was started again, and with it the facts were lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastRun {
    /// The version that ran.
    pub(crate) image: Option<ImageId>,
    /// When it was started.
    pub(crate) started: Option<Timestamp>,
    /// When it ended.
    pub(crate) finished: Option<Timestamp>,
    /// Exit code.
    pub(crate) exit_code: Option<i32>,
    /// Why it failed, or why the exit code is unknown.
    pub(crate) reason: Option<String>,
    /// Whether the start failed.
    pub(crate) start_failed: bool,
}

impl LastRun {
    /// Of these facts.
    pub(crate) fn of(facts: &Facts) -> Self {
        Self {
            image: facts.image.clone(),
            started: facts.started,
            finished: facts.finished,
            exit_code: facts.exit_code,
            reason: facts.reason.clone(),
            start_failed: facts.start_failed,
        }
    }

    /// As facts.
    pub(crate) fn facts(&self) -> Facts {
        Facts {
            image: self.image.clone(),
            started: self.started,
            finished: self.finished,
            exit_code: self.exit_code,
            reason: self.reason.clone(),
            start_failed: self.start_failed,
            ..Facts::default()
        }
    }
}

impl ContainerRecord {
    /// The version that the next start runs.
    pub(crate) fn wanted_image(&self) -> &ImageId {
        self.next_image.as_ref().unwrap_or(&self.image)
    }

    /// What the container leaves on the host's network.
    pub(crate) fn traces(&self) -> Traces {
        Traces { addresses: self.addresses, ports: self.spec.ports.clone() }
    }
}

/// Addresses of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Addresses {
    /// IPv4.
    pub(crate) v4: Option<std::net::Ipv4Addr>,
    /// IPv6.
    pub(crate) v6: Option<std::net::Ipv6Addr>,
}
