//! What the network knows of one container.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use insula_model::{ContainerId, PublishedPort, Transport};
use insula_plan::link::{FilterElement, FilterField, Presence};

/// Addresses of one container; both have the same number in the node's subnets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContainerAddresses {
    /// IPv4.
    pub ipv4: Ipv4Addr,
    /// IPv6, where the node has a subnet of it.
    pub ipv6: Option<Ipv6Addr>,
}

impl ContainerAddresses {
    /// Both, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(IpAddr::V4(self.ipv4)).chain(self.ipv6.map(IpAddr::V6))
    }
}

/// A container with a network of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerNetwork {
    /// Its id, from which link name and hardware addresses derive.
    pub id: ContainerId,
    /// Its addresses.
    pub addresses: ContainerAddresses,
    /// Ports of the host that lead to it; reserved before they are published.
    pub ports: Vec<PublishedPort>,
}

/// Numbers of the protocols (RFC 5237).
pub(crate) fn protocol(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => 6,
        Transport::Udp => 17,
    }
}

impl ContainerNetwork {
    /// Hardware address of the container's end: five bytes of the id, marked as locally given.
    pub(crate) fn inner_mac(&self) -> [u8; 6] {
        let [a, b, c, d, e, ..] = *self.id.as_uuid().as_bytes();
        [0x02, a, b, c, d, e]
    }

    /// Hardware address of the host's end, the same on whichever node the container is.
    pub(crate) fn host_mac(&self) -> [u8; 6] {
        let [_, rest @ ..] = self.inner_mac();
        let [a, b, c, d, e] = rest;
        [0x06, a, b, c, d, e]
    }

    /// Whether 127.0.0.1 of the host leads to it.
    pub(crate) fn loopback_publishing(&self) -> Presence {
        let loopback = |port: &PublishedPort| match port.address {
            None => true,
            Some(IpAddr::V4(address)) => address.is_unspecified() || address.is_loopback(),
            Some(IpAddr::V6(_)) => false,
        };
        if self.ports.iter().any(loopback) { Presence::Present } else { Presence::Absent }
    }

    /// Ports of the host from which UDP leads to it.
    pub(crate) fn udp_ports(&self) -> Vec<u16> {
        self.ports.iter().filter(|port| port.transport == Transport::Udp).map(|port| port.host).collect()
    }

    /// Elements of the node's table: where published ports lead, and which connections come back to their origin.
    pub(crate) fn elements(&self) -> Vec<FilterElement> {
        if self.ports.is_empty() {
            return Vec::new();
        }
        let own = |address: IpAddr| FilterElement {
            set: if address.is_ipv4() { "self4" } else { "self6" }.to_owned(),
            key: vec![FilterField::Address(address), FilterField::Address(address)],
            value: Vec::new(),
        };
        let ports =
            self.ports.iter().flat_map(|port| self.addresses.iter().filter_map(|address| published(port, address)));
        ports.chain(self.addresses.iter().map(own)).collect()
    }
}

/// The element that leads from a port of the host to this address of the container, if they are of one family.
fn published(port: &PublishedPort, to: IpAddr) -> Option<FilterElement> {
    let asked = port.address.filter(|address| !address.is_unspecified());
    if port.address.is_some_and(|address| address.is_ipv4() != to.is_ipv4()) {
        return None;
    }
    let mut key: Vec<_> = asked.map(FilterField::Address).into_iter().collect();
    key.extend([FilterField::Protocol(protocol(port.transport)), FilterField::Port(port.host)]);
    let set = match (to.is_ipv4(), asked.is_some()) {
        (true, false) => "publish4",
        (true, true) => "publish4_on",
        (false, false) => "publish6",
        (false, true) => "publish6_on",
    };
    let value = vec![FilterField::Address(to), FilterField::Port(port.container)];
    Some(FilterElement { set: set.to_owned(), key, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(ports: &[&str]) -> ContainerNetwork {
        ContainerNetwork {
            id: "12345678-9abc-4def-8123-456789abcdef".parse().unwrap(),
            addresses: ContainerAddresses {
                ipv4: Ipv4Addr::new(10, 87, 0, 2),
                ipv6: Some("fd49:6e73:756c::2".parse().unwrap()),
            },
            ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
        }
    }

    fn sets(ports: &[&str]) -> Vec<String> {
        container(ports).elements().into_iter().map(|element| element.set).collect()
    }

    #[test]
    fn hardware_addresses_are_local_unicast_and_differ() {
        let container = container(&[]);
        assert_eq!(container.inner_mac(), [0x02, 0x12, 0x34, 0x56, 0x78, 0x9a]);
        assert_eq!(container.host_mac(), [0x06, 0x12, 0x34, 0x56, 0x78, 0x9a]);
    }

    #[test]
    fn a_port_on_every_address_is_published_in_both_families_and_one_on_an_address_in_its_own() {
        assert_eq!(sets(&[]), [""; 0]);
        assert_eq!(sets(&["80:8080"]), ["publish4", "publish6", "self4", "self6"]);
        assert_eq!(sets(&["0.0.0.0:80:8080"]), ["publish4", "self4", "self6"]);
        assert_eq!(sets(&["127.0.0.1:80:8080"]), ["publish4_on", "self4", "self6"]);
        assert_eq!(sets(&["[::1]:53:53/udp"]), ["publish6_on", "self4", "self6"]);
    }

    #[test]
    fn elements_hold_the_port_of_the_host_and_lead_to_that_of_the_container() {
        let elements = container(&["192.0.2.1:53:5353/udp"]).elements();
        let address = |text: &str| FilterField::Address(text.parse().unwrap());
        assert_eq!(elements[0].key, [address("192.0.2.1"), FilterField::Protocol(17), FilterField::Port(53)]);
        assert_eq!(elements[0].value, [address("10.87.0.2"), FilterField::Port(5353)]);
    }

    #[test]
    fn only_ports_that_the_loopback_has_open_it() {
        assert_eq!(container(&["80:80"]).loopback_publishing(), Presence::Present);
        assert_eq!(container(&["127.0.0.1:80:80"]).loopback_publishing(), Presence::Present);
        assert_eq!(container(&["192.0.2.1:80:80", "[::1]:81:81"]).loopback_publishing(), Presence::Absent);
        assert_eq!(container(&[]).loopback_publishing(), Presence::Absent);
    }
}
