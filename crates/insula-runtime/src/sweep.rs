//! The sweep of a container: everything that it may have on its host, by name.

use std::path::Path;

use insula_model::ContainerId;
use insula_network::{ContainerNetwork, NodeNetwork};
use insula_plan::sweep::{SweepPlan, SweepStep};
use insula_resources::NodeGroups;

/// Whose sweep, and where its things are.
#[derive(Debug, Clone, Copy)]
pub struct SweepRequest<'a> {
    /// Whose.
    pub id: ContainerId,
    /// The node's control groups.
    pub groups: &'a NodeGroups,
    /// Its network, when it has one of its own.
    pub network: Option<(&'a NodeNetwork, &'a ContainerNetwork)>,
    /// Its directory of facts.
    pub facts: &'a Path,
}

/// Processes first, then the link, then groups' directories and facts.
#[must_use]
pub fn plan_sweep(request: &SweepRequest<'_>) -> SweepPlan {
    let groups = request.groups.sweep_steps(request.id).into_iter().map(SweepStep::Cgroup);
    let links = request.network.into_iter().flat_map(|(node, container)| node.sweep_steps(container));
    let mut steps: Vec<SweepStep> = groups.collect();
    steps.extend(links.map(SweepStep::Link));
    steps.push(SweepStep::Dir { path: request.facts.to_owned() });
    SweepPlan::new(request.id, steps)
}
