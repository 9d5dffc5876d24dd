//! The node's names: what containers learn about each other, kept up to date with what the drivers publish.
//!
//! ```text
//!   driver ── publish ──> changed ──> one task: all snapshots ──> table ──> service (see machine/names.rs)
//! ```
//!
//! Changes that come while a table is being written are in the next one; nobody waits for it. A table is made of all
//! snapshots, so nothing has to be mended when a change was missed; each snapshot has its line ready. A container has its name
//! from the moment its start begins until its end is known, so that whoever was told that it runs finds it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use insula_model::{ContainerId, ContainerState, IdRange};
use insula_plan::protocol::names::NamedContainer;
use tokio::sync::Notify;

use crate::container::record::Addresses;
use crate::container::snapshot::Snapshot;
use crate::context::Context;

/// Between two looks at the host's name servers, which change without a word to us.
const RESOLVERS_LOOK: Duration = Duration::from_secs(5);

/// From a change to the table with it: a container that is created is started at once, and one that ended goes. Less
/// than a start takes, and the whole table is written anew for each change.
const GATHERING: Duration = Duration::from_millis(1);

/// Where drivers say that something changed.
#[derive(Debug, Default)]
pub(crate) struct NameChanges {
    changed: Notify,
    /// Containers of builds: no list has them and nobody finds them, but they ask.
    nameless: Mutex<BTreeMap<ContainerId, Arc<NamedContainer>>>,
}

impl NameChanges {
    /// Tells it if a container is known differently `now` than `before`. Most of what is published changes no name.
    pub(crate) fn tell_if_other(&self, before: &Snapshot, now: &Snapshot) {
        if before.named != now.named {
            self.tell();
        }
    }

    /// Tells it of a container that is new.
    pub(crate) fn tell(&self) {
        self.changed.notify_one();
    }

    /// Has a container without a name be answered, until it is [forgotten](Self::forget).
    pub(crate) fn answer(&self, container: ContainerId, addresses: Addresses) {
        let nameless = Arc::new(NamedContainer { names: Vec::new(), addresses: each(addresses) });
        self.nameless.lock().unwrap_or_else(PoisonError::into_inner).insert(container, nameless);
        self.tell();
    }

    /// It has gone.
    pub(crate) fn forget(&self, container: ContainerId) {
        self.nameless.lock().unwrap_or_else(PoisonError::into_inner).remove(&container);
        self.tell();
    }

    fn nameless(&self) -> Vec<Arc<NamedContainer>> {
        self.nameless.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// Starts the service, if the node is to have one; else ends the one of an earlier daemon. Without it containers that start
/// from now on ask the host's name servers.
pub(crate) async fn begin(context: &Context) {
    if !context.config.network.names {
        let Some(ids) = context.host.ids_of_guests() else { return };
        match context.host.end_names().await {
            Ok(()) => end(context, context.ids.take_again(ids).ok()),
            Err(problem) => tracing::warn!(detail = problem.detail, "end the name service, which is turned off"),
        }
        return;
    }
    let ids = match context.host.ids_of_guests() {
        Some(ids) => context.ids.take_again(ids),
        None => context.ids.take(),
    };
    let begun = match ids {
        Ok(ids) => context.host.begin_names(ids).await.inspect_err(|_| context.ids.give_back(ids)),
        Err(problem) => Err(problem),
    };
    if let Err(problem) = begun {
        tracing::warn!(detail = problem.detail, "containers do not find each other by name");
    }
}

/// The service ended with everything else: its ids are free.
pub(crate) fn end(context: &Context, ids: Option<IdRange>) {
    if let Some(ids) = ids {
        context.ids.give_back(ids);
    }
}

/// Writes the table whenever something changed; never returns.
pub(crate) async fn keep_up(context: Arc<Context>) {
    let mut looks = tokio::time::interval(RESOLVERS_LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = context.names.changed.notified() => tokio::time::sleep(GATHERING).await,
            _ = looks.tick() => context.host.look_for_resolvers().await,
        }
        if let Err(problem) = context.host.write_names(containers(&context)) {
            tracing::error!(detail = problem.detail, "names of containers");
        }
    }
}

/// All containers that have addresses of their own, as the service is to know them.
pub(crate) fn containers(context: &Context) -> Vec<Arc<NamedContainer>> {
    let named = context.directory.snapshots().into_iter().filter_map(|now| now.named.clone());
    named.chain(context.names.nameless()).collect()
}

fn each(addresses: Addresses) -> Vec<IpAddr> {
    [addresses.v4.map(Into::into), addresses.v6.map(Into::into)].into_iter().flatten().collect()
}

/// What the service is to know of a container; nothing of one that is gone or has no network of its own.
pub(crate) fn named(now: &Snapshot) -> Option<NamedContainer> {
    let record = &now.record;
    let addresses = each(record.addresses);
    // Without a network of its own it is found by nobody, and its name is not kept from the host's name servers.
    if addresses.is_empty() || now.state.is_none() {
        return None;
    }
    let name = record.name.as_str().to_owned();
    let other = now.spec.hostname.as_deref().map(str::to_ascii_lowercase).filter(|other| *other != name);
    let is_up = now.is_up() || now.state == Some(ContainerState::Starting);
    Some(NamedContainer {
        names: std::iter::once(name).chain(other).collect(),
        addresses: if is_up { addresses } else { Vec::new() },
    })
}
