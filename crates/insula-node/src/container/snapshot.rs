//! What everybody but the driver sees of a container: an immutable copy.

use std::sync::Arc;

use insula_api::{ContainerSummary, ContainerView};
use insula_model::{ContainerSpec, ContainerState, Health};
use insula_plan::protocol::names::NamedContainer;

use super::backoff;
use super::facts::Facts;
use super::record::{ContainerRecord, Kept};
use super::words::Wanted;
use crate::name_service::named;

/// A container at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    /// Where its record is.
    pub(crate) kept: Kept,
    /// State; `None` when it is gone.
    pub(crate) state: Option<ContainerState>,
    /// Intent.
    pub(crate) record: Arc<ContainerRecord>,
    /// Configuration as it is run, template and defaults applied to its limits; shared with starts and execs.
    pub(crate) spec: Arc<ContainerSpec>,
    /// Facts.
    pub(crate) facts: Facts,
    /// Starts in a row by the restart policy.
    pub(crate) restarts: u32,
    /// Whether its health check passed since the start; `None` before the first result.
    pub(crate) healthy: Option<bool>,
    /// What its check says of it while it runs, if it has one.
    pub(crate) health: Option<Health>,
    /// Times it was started since the daemon runs.
    pub(crate) starts: u64,
    /// What the name service is to know of it, if anything; see [`Snapshot::with_name`].
    pub(crate) named: Option<Arc<NamedContainer>>,
}

impl Snapshot {
    /// The same with its name for the name service: that of `before`, where it is equal, so that a table of thousands
    /// of names is made without making them anew.
    pub(crate) fn with_name(mut self, before: Option<&Self>) -> Self {
        let named = named(&self);
        let same = before.and_then(|before| before.named.clone()).filter(|before| Some(&**before) == named.as_ref());
        self.named = same.or_else(|| named.map(Arc::new));
        self
    }

    /// Its line in `list`.
    pub(crate) fn summary(&self) -> ContainerSummary {
        let record = &self.record;
        ContainerSummary {
            name: record.name.clone(),
            id: record.id,
            state: self.state.unwrap_or(ContainerState::Stopped),
            image: self.facts.image.clone().unwrap_or_else(|| record.image.clone()),
            previous_image: record.previous_image.clone(),
            next_image: record
                .next_image
                .clone()
                .filter(|next| self.facts.image.as_ref() != Some(next))
                .map(Into::into),
            pid: self.facts.pid,
            address: record.addresses.v4.map(|address| address.to_string()),
            address6: record.addresses.v6.map(|address| address.to_string()),
            exit_code: self.facts.exit_code,
            reason: self.facts.reason.clone().or_else(|| record.rolled_back.clone()),
            created: record.created,
            started: self.facts.started,
            finished: self.facts.finished,
            uid_base: record.ids.base,
            cgroup: self.facts.cgroup.clone(),
            ports: self.spec.ports.iter().map(ToString::to_string).collect(),
            labels: self.spec.labels.clone(),
            restarts: self.restarts,
            health: self.health,
        }
    }

    /// What `show` says, but for its current use of resources.
    pub(crate) fn view(&self, data_path: String, effective_command: Vec<String>) -> ContainerView {
        ContainerView {
            summary: self.summary(),
            spec: self.record.spec.clone(),
            effective_resources: self.spec.resources.clone(),
            resource_origins: std::collections::BTreeMap::new(),
            ids: self.record.ids,
            data_path,
            effective_command,
            usage: None,
        }
    }

    /// Whether nothing of it runs, and nothing is under way.
    pub(crate) fn is_at_rest(&self) -> bool {
        matches!(self.state, Some(ContainerState::Created | ContainerState::Stopped | ContainerState::Failed))
    }

    /// Whether its process 1 runs, frozen or not.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state, Some(ContainerState::Running | ContainerState::Paused | ContainerState::Stopping))
            && self.facts.pid.is_some()
    }

    /// Whether it rests and nothing but a request will start it: neither a restart nor its policy.
    pub(crate) fn is_over(&self) -> bool {
        let code = self.facts.exit_code.filter(|_| !self.facts.start_failed);
        let again = || backoff::pause(self.spec.restart, self.restarts, code).is_some();
        match self.state {
            None | Some(ContainerState::Created) => true,
            Some(ContainerState::Stopped | ContainerState::Failed) => self.record.wanted != Wanted::Running || !again(),
            Some(_) => false,
        }
    }
}
