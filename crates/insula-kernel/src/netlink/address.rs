//! Addresses of links, routes and neighbours, of both families.

use std::net::IpAddr;

use netlink_packet_core::NlasIterator;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};

use super::{LinkIndex, MacAddress};

/// Bytes of `struct ifaddrmsg`.
const ADDRESS_HEADER_BYTES: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;

/// An address of a link. IPv6 ones are used at once, without asking whether another has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The link.
    pub link: LinkIndex,
    /// The address.
    pub address: IpAddr,
    /// Bits of the network part.
    pub prefix_bits: u8,
    /// IPv4 only: `LINK:TEXT`, 15 bytes at most, by which the address is found again.
    pub label: Option<String>,
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub destination: IpAddr,
    /// Bits of it that count; 0 is the default route.
    pub prefix_bits: u8,
    /// Out of this link.
    pub link: LinkIndex,
    /// To this neighbour, which need not lie in any network of the link (`onlink`); `None` is the link itself.
    pub gateway: Option<IpAddr>,
    /// Source address of what the machine itself sends there.
    pub source: Option<IpAddr>,
}

/// A neighbour whose hardware address is known for ever and never asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Behind this link.
    pub link: LinkIndex,
    /// The neighbour.
    pub address: IpAddr,
    /// Its hardware address.
    pub mac: MacAddress,
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn parse_address(bytes: &[u8]) -> Option<IpAddr> {
    let ipv4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    ipv4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

impl InterfaceAddress {
    /// Reads what the kernel answers to a question for addresses.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let [_, prefix_bits, _, _, i0, i1, i2, i3] = *payload.first_chunk::<ADDRESS_HEADER_BYTES>()?;
        let (mut of_link, mut local, mut label) = (None, None, None);
        for attribute in NlasIterator::new(payload.get(ADDRESS_HEADER_BYTES..)?) {
            let Ok(attribute) = attribute else { break };
            match attribute.kind() {
                IFA_ADDRESS => of_link = parse_address(attribute.value()),
                IFA_LOCAL => local = parse_address(attribute.value()),
                IFA_LABEL => {
                    label = Some(String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned());
                }
                _ => {}
            }
        }
        // On a link to one peer the first is the peer's.
        let address = local.or(of_link)?;
        Some(Self { link: LinkIndex::new(u32::from_ne_bytes([i0, i1, i2, i3]))?, address, prefix_bits, label })
    }

    pub(super) fn message(&self) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = family(self.address);
        message.header.prefix_len = self.prefix_bits;
        message.header.index = self.link.get();
        message.header.scope = AddressScope::Universe;
        if self.address.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        message.attributes = vec![AddressAttribute::Local(self.address), AddressAttribute::Address(self.address)];
        if let Some(label) = &self.label {
            message.attributes.push(AddressAttribute::Label(label.clone()));
        }
        message
    }
}

impl Route {
    pub(super) fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = family(self.destination);
        message.header.destination_prefix_length = self.prefix_bits;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        message.header.scope = match (self.gateway, self.destination) {
            (None, IpAddr::V4(_)) => RouteScope::Link,
            _ => RouteScope::Universe,
        };
        if self.prefix_bits > 0 {
            message.attributes.push(RouteAttribute::Destination(RouteAddress::from(self.destination)));
        }
        message.attributes.push(RouteAttribute::Oif(self.link.get()));
        if let Some(gateway) = self.gateway {
            message.header.flags = RouteFlags::Onlink;
            message.attributes.push(RouteAttribute::Gateway(RouteAddress::from(gateway)));
        }
        if let Some(source) = self.source {
            message.attributes.push(RouteAttribute::PrefSource(RouteAddress::from(source)));
        }
        message
    }
}

impl Neighbour {
    pub(super) fn message(&self) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = family(self.address);
        message.header.ifindex = self.link.get();
        message.header.state = NeighbourState::Permanent;
        let address = match self.address {
            IpAddr::V4(address) => NeighbourAddress::Inet(address),
            IpAddr::V6(address) => NeighbourAddress::Inet6(address),
        };
        message.attributes =
            vec![NeighbourAttribute::Destination(address), NeighbourAttribute::LinkLayerAddress(self.mac.0.to_vec())];
        message
    }
}
