//! The node's network: claimed once, its table made at each daemon start, an address for each container.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use insula_api::{Problem, ProblemCode};
use insula_model::{ContainerId, ContainerSpec, NetworkMode, NodeName, PublishedPort};
use insula_network::{
    AddressPool, Claim, ClaimRequest, ContainerAddresses, ContainerNetwork, HostsFile, NetworkConfig, NodeNetwork,
    ResolverFiles, Subnets, ensure_forwarding, ensure_node_addresses, foreign_networks, has_node_addresses, mend_links,
    remove_node_addresses, resolv_conf, upstreams,
};

use super::lock;
use crate::container::record::Addresses;

/// The node's network.
#[derive(Debug)]
pub(super) struct Network {
    /// What starts and sweeps need.
    pub(super) node: NodeNetwork,
    config: NetworkConfig,
    /// Name servers to ask in place of the host's; `None` is no name service.
    names: Option<Vec<IpAddr>>,
    pool: Mutex<AddressPool>,
    /// Containers that run, with what is to lead to them.
    running: Mutex<HashMap<ContainerId, ContainerNetwork>>,
    claim: Claim,
}

/// What a container left on the host's network, as far as its intent says.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Traces {
    /// Its addresses.
    pub(crate) addresses: Addresses,
    /// Its published ports.
    pub(crate) ports: Vec<PublishedPort>,
}

fn problem(what: &str, error: &(dyn std::error::Error + 'static)) -> Problem {
    let mut problem = Problem::from_chain(ProblemCode::Internal, error);
    problem.detail = format!("{what}: {}", problem.detail);
    problem
}

impl Network {
    /// Claims the node's subnets, or takes over the claim that the keeper kept in `kept`. Blocks.
    ///
    /// # Errors
    ///
    /// Nothing is free, or another process holds the node's claim.
    pub(super) fn open(
        (name, claims_dir, state_dir): (&NodeName, &Path, &Path),
        (config, names): (NetworkConfig, Option<Vec<IpAddr>>),
        kept: Option<std::os::fd::OwnedFd>,
    ) -> Result<Self, Problem> {
        let remembered = remembered(state_dir);
        let adopted = kept.and_then(|kept| {
            let adopted = Claim::adopt(claims_dir, name, kept);
            adopted.inspect_err(|error| tracing::warn!(%error, "the kept claim of subnets")).ok()
        });
        let claim = match adopted {
            Some(claim) => claim,
            None => {
                let foreign = foreign_networks().map_err(|error| problem("look at the host's routes", &error))?;
                let request = ClaimRequest {
                    dir: claims_dir,
                    node: name,
                    config: &config,
                    preferred: remembered,
                    foreign: &foreign,
                };
                Claim::acquire(&request).map_err(|error| problem("claim subnets", &error))?
            }
        };
        let subnets = claim.subnets();
        if remembered != Some(subnets) {
            remember(state_dir, subnets).map_err(|error| problem("remember the claimed subnets", &error))?;
        }
        let node = NodeNetwork::new(name.clone(), &config, subnets, NodeNetwork::probe_kernel_ipv6());
        let (pool, running) = (Mutex::new(AddressPool::new(subnets)), Mutex::default());
        Ok(Self { node, config, names, pool, running, claim })
    }

    /// The open claim, for the keeper.
    pub(super) fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Makes the host forward and filter for `running`, and lead to it. Blocks, and runs `nft` once.
    ///
    /// # Errors
    ///
    /// The program is missing or the kernel refuses.
    pub(super) fn set_up(&self, running: &[ContainerNetwork]) -> Result<(), Problem> {
        ensure_forwarding(&self.node).map_err(|error| problem("network", &error))?;
        lock(&self.running).extend(running.iter().map(|container| (container.id, container.clone())));
        self.make_addresses()?;
        self.node.install_table(running).map_err(|error| problem("network", &error))
    }

    /// The node's addresses, and the routes that went with them.
    fn make_addresses(&self) -> Result<(), Problem> {
        ensure_node_addresses(&self.node).map_err(|error| problem("network", &error))?;
        let running: Vec<_> = lock(&self.running).values().cloned().collect();
        mend_links(&self.node, &running).map_err(|error| problem("network of running containers", &error))
    }

    /// A container runs: what leads to it is kept as it is.
    pub(super) fn lead_to(&self, container: ContainerNetwork) {
        lock(&self.running).insert(container.id, container);
    }

    /// Ports that lead to what runs.
    pub(super) fn published(&self) -> Vec<(ContainerId, Vec<PublishedPort>)> {
        lock(&self.running).values().map(|container| (container.id, container.ports.clone())).collect()
    }

    /// It ends.
    pub(super) fn lead_no_more_to(&self, id: ContainerId) {
        lock(&self.running).remove(&id);
    }

    /// Makes the node's own addresses again if somebody took them away, with the ways to what runs, before a start that
    /// needs them.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub(super) fn mend_addresses(&self) -> Result<(), Problem> {
        if has_node_addresses(&self.node) {
            return Ok(());
        }
        tracing::warn!(addresses = ?self.node.own_addresses(), "somebody took the node's addresses from `lo`; made again");
        self.make_addresses()
    }

    /// Undoes [`Network::set_up`]. Blocks.
    pub(super) fn tear_down(&self) {
        if let Err(error) = self.node.remove_table() {
            tracing::warn!(%error, "network table");
        }
        if let Err(error) = remove_node_addresses(&self.node) {
            tracing::warn!(%error, "node addresses");
        }
        // The node prefers the same subnets next time: it remembers them in its state.
        if let Err(error) = self.claim.release() {
            tracing::warn!(%error, "claim of subnets");
        }
    }

    /// Addresses for a container, the wanted ones if they are free.
    ///
    /// # Errors
    ///
    /// Admission when none is left.
    pub(super) fn claim_addresses(&self, mode: NetworkMode, wanted: Addresses) -> Result<Addresses, Problem> {
        if mode != NetworkMode::Default {
            return Ok(Addresses::default());
        }
        let mut pool = lock(&self.pool);
        let taken = match wanted.v4.and_then(|address| pool.take(address).ok()) {
            Some(taken) => taken,
            None => pool.allocate().map_err(|error| {
                Problem::new(ProblemCode::Admission, format!("addresses: {error}")).with_remedy("delete containers")
            })?,
        };
        Ok(Addresses { v4: Some(taken.ipv4), v6: taken.ipv6 })
    }

    /// Gives addresses back.
    pub(super) fn release_addresses(&self, addresses: Addresses) {
        if let Some(address) = addresses.v4 {
            lock(&self.pool).release(address);
        }
    }

    /// Whether the node is to have a name service.
    pub(super) fn wants_names(&self) -> bool {
        self.names.is_some()
    }

    /// Name servers that the name service asks, as the host has them now.
    pub(super) fn upstreams(&self) -> Vec<IpAddr> {
        let file = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let configured = self.names.as_deref().unwrap_or_default();
        upstreams(configured, &file, &self.config.fallback_dns, &self.node.own_addresses())
    }

    /// The container's `resolv.conf`; `names` is whether the node answers.
    pub(super) fn resolv_conf(&self, spec: &ContainerSpec, names: bool) -> String {
        // The host's servers change while containers come and go, so they are read at each start.
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let (own, systemd) = (read("/etc/resolv.conf"), read("/run/systemd/resolve/resolv.conf"));
        let reachable = names && spec.network == NetworkMode::Default;
        let service = reachable.then(|| self.node.subnets.node_ipv4().into());
        let files = ResolverFiles { service, resolv_conf: &own, systemd: &systemd };
        resolv_conf(&spec.dns, files, &self.config.fallback_dns).text
    }
}

/// A container's network, if it has one of its own with addresses.
pub(super) fn container_network(id: ContainerId, traces: &Traces) -> Option<ContainerNetwork> {
    let ipv4 = traces.addresses.v4?;
    let addresses = ContainerAddresses { ipv4, ipv6: traces.addresses.v6 };
    Some(ContainerNetwork { id, addresses, ports: traces.ports.clone() })
}

/// The container's `hosts`.
pub(super) fn hosts(hostname: &str, spec: &ContainerSpec, addresses: Addresses) -> String {
    let addresses = addresses.v4.map(|ipv4| ContainerAddresses { ipv4, ipv6: addresses.v6 });
    HostsFile { hostname, addresses, entries: &spec.hosts }.text()
}

fn remembered_path(state_dir: &Path) -> PathBuf {
    state_dir.join("subnets")
}

/// Subnets of an earlier boot: two lines, IPv4 and IPv6.
fn remembered(state_dir: &Path) -> Option<Subnets> {
    let text = std::fs::read_to_string(remembered_path(state_dir)).ok()?;
    let mut lines = text.lines();
    Some(Subnets { ipv4: lines.next()?.parse().ok()?, ipv6: lines.next().and_then(|line| line.parse().ok()) })
}

fn remember(state_dir: &Path, subnets: Subnets) -> std::io::Result<()> {
    let ipv6 = subnets.ipv6.map(|block| block.to_string()).unwrap_or_default();
    std::fs::write(remembered_path(state_dir), format!("{}\n{ipv6}\n", subnets.ipv4))
}
