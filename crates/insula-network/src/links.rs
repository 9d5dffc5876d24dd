//! Links of ours that are there, so that a daemon that starts anew adopts them or sweeps what is left over.

use insula_kernel::netlink::{RequestError, RouteSocket};
use insula_model::ContainerId;
use insula_plan::link::{LinkStep, LinkStepError};

use crate::{ContainerNetwork, NodeNetwork};

/// A link of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnLink {
    /// Name of the host's end.
    pub name: String,
    /// The container it leads to.
    pub container: ContainerId,
}

impl OwnLink {
    /// What removes it, if its container is not there any more.
    #[must_use]
    pub fn sweep_step(&self) -> LinkStep {
        LinkStep::DeleteLink { name: self.name.clone() }
    }
}

/// Makes links, neighbours and routes of running containers as their starts made them: with an address of the host's go
/// the routes that name it as their source. Idempotent; what is as it should be stays.
///
/// # Errors
///
/// The kernel refused; containers after the one it names were left as they are.
pub fn mend_links(network: &NodeNetwork, running: &[ContainerNetwork]) -> Result<(), LinkStepError> {
    let mut socket =
        RouteSocket::open().map_err(|errno| LinkStepError::Socket { call: "socket(NETLINK_ROUTE)", errno })?;
    running.iter().try_for_each(|container| network.host_link(container).mend(&mut socket))
}

/// The links of this node, by their description: links of other nodes on the same machine have the same kind of name.
/// A link whose start was cut short before it was described is not among them; the sweep of its container names it.
///
/// # Errors
///
/// The kernel did not answer.
pub fn own_links(network: &NodeNetwork) -> Result<Vec<OwnLink>, RequestError> {
    let mut socket = RouteSocket::open().map_err(|errno| RequestError {
        request: 0,
        requests: 0,
        explanation: Some("no netlink socket".to_owned()),
        errno,
    })?;
    let prefix = network.alias_prefix();
    let own = |alias: Option<String>| alias?.strip_prefix(&prefix)?.parse().ok();
    let links = socket.links_with_prefix("insula")?;
    Ok(links
        .into_iter()
        .filter_map(|link| Some(OwnLink { name: link.name.to_string(), container: own(link.alias)? }))
        .collect())
}
