//! A node's network: its settings, and the steps of a start and of a sweep as plain data.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use insula_model::NodeName;
use insula_plan::link::{HostLink, HostRoute, InnerLink, InnerRoute, LinkStep, Presence};

use crate::{ContainerNetwork, Ipv4Block, Ipv6Block, Subnets, TableName};

/// Where a container sends everything, the same in each: no host has it, a permanent neighbour stands for it.
const GATEWAY_IPV4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY_IPV6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// What the link is called inside.
const INNER_NAME: &str = "eth0";

/// Kernel settings that every network namespace of ours gets before its first process: ports below 1024 and ping need
/// no capability inside, so that who joins another's network needs no rights over it.
pub const NETNS_SYSCTLS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 65535")];

/// Settings of a node's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Range from which nodes of one machine claim their subnets.
    pub ipv4_range: Ipv4Block,
    /// Bits of each node's part of it, 30 at most.
    pub ipv4_bits: u8,
    /// Range of IPv6; each node claims a `/64` of it. `None` is a node without IPv6.
    pub ipv6_range: Option<Ipv6Block>,
    /// Largest packet of a container's link in bytes, 1280 at least where there is IPv6.
    pub mtu: u32,
    /// Who may open connections to a container.
    pub inbound: Inbound,
    /// Name servers for containers when the host has none that they can reach.
    pub fallback_dns: Vec<IpAddr>,
}

/// Which connections from outside the machine reach a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inbound {
    /// Those to published ports and those that are routed to the container's own address.
    Routed,
    /// Those to published ports only.
    PublishedOnly,
}

impl NetworkConfig {
    /// What a node has without configuration: 16 nodes of 4,093 containers each on one machine, each container reached
    /// at its own address by whoever routes to it. The range lies beside those that Docker, Podman, Incus and
    /// Kubernetes take by default.
    #[must_use]
    pub fn standard() -> Self {
        let ipv4_range = Ipv4Block::new(Ipv4Addr::new(10, 87, 0, 0), 16).expect("a /16 begins there");
        let ipv6 = Ipv6Addr::new(0xfd49, 0x6e73, 0x756c, 0, 0, 0, 0, 0);
        Self {
            ipv4_range,
            ipv4_bits: 20,
            ipv6_range: Ipv6Block::new(ipv6, 48).ok(),
            mtu: 1500,
            inbound: Inbound::Routed,
            fallback_dns: vec![Ipv4Addr::new(9, 9, 9, 9).into(), Ipv4Addr::new(149, 112, 112, 112).into()],
        }
    }
}

/// The network of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeNetwork {
    /// The node, after which its table is named.
    pub node: NodeName,
    /// Its claimed subnets.
    pub subnets: Subnets,
    /// Largest packet of a container's link in bytes.
    pub mtu: u32,
    /// Who may open connections to a container.
    pub inbound: Inbound,
    /// Whether the kernel has IPv6, wanted or not.
    pub kernel_ipv6: Presence,
}

/// Steps of a start, by who does them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinkSteps {
    /// In the host's network namespace, with that of the container at hand.
    pub outside: Vec<LinkStep>,
    /// In the container's network namespace, after those outside.
    pub inside: Vec<LinkStep>,
}

impl NodeNetwork {
    /// The node's network as configured and claimed.
    #[must_use]
    pub fn new(node: NodeName, config: &NetworkConfig, subnets: Subnets, kernel_ipv6: Presence) -> Self {
        Self { node, subnets, mtu: config.mtu, inbound: config.inbound, kernel_ipv6 }
    }

    /// Whether the running kernel has IPv6.
    #[must_use]
    pub fn probe_kernel_ipv6() -> Presence {
        let there = std::path::Path::new("/proc/sys/net/ipv6").exists();
        if there { Presence::Present } else { Presence::Absent }
    }

    /// Name of the node's table.
    #[must_use]
    pub fn table(&self) -> TableName {
        TableName::of(&self.node)
    }

    /// Description of a container's link, by which its node finds it again.
    #[must_use]
    pub fn link_alias(&self, container: &ContainerNetwork) -> String {
        format!("{}{}", self.alias_prefix(), container.id)
    }

    /// What the descriptions of all links of this node begin with.
    pub(crate) fn alias_prefix(&self) -> String {
        format!("insula:{}:", self.node)
    }

    /// What a start has to do.
    #[must_use]
    pub fn start_steps(&self, container: &ContainerNetwork) -> LinkSteps {
        let mut outside = vec![LinkStep::Connect { link: self.host_link(container) }];
        let elements = container.elements();
        if !elements.is_empty() {
            outside.push(LinkStep::Publish { table: self.table().to_string(), elements });
        }
        // Who sent to the port before it led here, and never paused, would otherwise be led nowhere for ever.
        let udp_to = container.udp_ports();
        if !udp_to.is_empty() {
            outside.push(LinkStep::ForgetConnections { answered_by: Vec::new(), udp_to });
        }
        let inside = vec![LinkStep::Configure { link: self.inner_link(container) }];
        LinkSteps { outside, inside }
    }

    /// What a start without any network has to do: the loopback only.
    #[must_use]
    pub fn start_steps_without_network() -> LinkSteps {
        LinkSteps { outside: Vec::new(), inside: vec![LinkStep::LoopbackUp] }
    }

    /// What undoes any part of a start, in the host's network namespace. May be done again at any time.
    #[must_use]
    pub fn sweep_steps(&self, container: &ContainerNetwork) -> Vec<LinkStep> {
        let elements = container.elements();
        let mut steps = Vec::new();
        if !elements.is_empty() {
            steps.push(LinkStep::Unpublish { table: self.table().to_string(), elements });
            let answered_by = container.addresses.iter().collect();
            steps.push(LinkStep::ForgetConnections { answered_by, udp_to: Vec::new() });
        }
        steps.push(LinkStep::DeleteLink { name: container.id.link_name() });
        steps
    }

    /// The node's own address in the family of `address`.
    fn source_for(&self, address: IpAddr) -> IpAddr {
        match (address, self.subnets.node_ipv6()) {
            (IpAddr::V6(_), Some(node)) => node.into(),
            _ => self.subnets.node_ipv4().into(),
        }
    }

    pub(crate) fn host_link(&self, container: &ContainerNetwork) -> HostLink {
        let route = |address| HostRoute { address, source: self.source_for(address) };
        HostLink {
            name: container.id.link_name(),
            alias: self.link_alias(container),
            mac: container.host_mac(),
            inner_name: INNER_NAME.to_owned(),
            inner_mac: container.inner_mac(),
            mtu: self.mtu,
            addresses: container.addresses.iter().map(route).collect(),
            ipv6: self.kernel_ipv6,
            loopback_publishing: container.loopback_publishing(),
        }
    }

    fn inner_link(&self, container: &ContainerNetwork) -> InnerLink {
        let route = |address: IpAddr| InnerRoute {
            address,
            gateway: if address.is_ipv4() { GATEWAY_IPV4.into() } else { GATEWAY_IPV6.into() },
        };
        InnerLink {
            name: INNER_NAME.to_owned(),
            addresses: container.addresses.iter().map(route).collect(),
            gateway_mac: container.host_mac(),
            ipv6: self.kernel_ipv6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ContainerAddresses;

    fn network() -> NodeNetwork {
        let subnets =
            Subnets { ipv4: "10.87.16.0/20".parse().unwrap(), ipv6: Some("fd49:6e73:756c:1::/64".parse().unwrap()) };
        NodeNetwork::new(NodeName::new("n1").unwrap(), &NetworkConfig::standard(), subnets, Presence::Present)
    }

    fn container(ports: &[&str]) -> ContainerNetwork {
        ContainerNetwork {
            id: "12345678-9abc-4def-8123-456789abcdef".parse().unwrap(),
            addresses: ContainerAddresses {
                ipv4: "10.87.16.2".parse().unwrap(),
                ipv6: Some("fd49:6e73:756c:1::2".parse().unwrap()),
            },
            ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_start_connects_publishes_and_configures() {
        let names = |steps: &[LinkStep]| steps.iter().map(ToString::to_string).collect::<Vec<_>>();
        let steps = network().start_steps(&container(&["80:80"]));
        assert_eq!(names(&steps.outside), ["connect insulaci2fm6e2x", "publish in table insula_n1"]);
        assert_eq!(names(&steps.inside), ["configure eth0"]);
        let steps = network().start_steps(&container(&["53:53/udp"]));
        assert_eq!(names(&steps.outside[2..]), ["forget connections"]);
        assert_eq!(names(&network().start_steps(&container(&[])).outside), ["connect insulaci2fm6e2x"]);
    }

    #[test]
    fn a_sweep_names_everything_a_start_makes() {
        let (network, container) = (network(), container(&["80:80"]));
        let started = network.start_steps(&container).outside;
        let swept = network.sweep_steps(&container);
        let (LinkStep::Publish { elements: made, .. }, LinkStep::Unpublish { elements: removed, .. }) =
            (&started[1], &swept[0])
        else {
            panic!("{started:?} {swept:?}")
        };
        assert_eq!(made, removed);
        assert_eq!(swept[2], LinkStep::DeleteLink { name: container.id.link_name() });
    }

    #[test]
    fn each_end_knows_the_other() {
        let LinkSteps { outside, inside } = network().start_steps(&container(&[]));
        let (LinkStep::Connect { link: host }, LinkStep::Configure { link: inner }) = (&outside[0], &inside[0]) else {
            panic!("{outside:?} {inside:?}")
        };
        assert_eq!(host.mac, inner.gateway_mac);
        assert_eq!(host.addresses[1].source.to_string(), "fd49:6e73:756c:1::1");
        assert_eq!(inner.addresses[0].gateway.to_string(), "169.254.1.1");
        assert_eq!(host.alias, "insula:n1:12345678-9abc-4def-8123-456789abcdef");
    }
}
