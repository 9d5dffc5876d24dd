//! Links: a pair of virtual Ethernet devices, their settings, and the list of those there are.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{DefaultNla, NLA_F_NESTED, NlasIterator};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask,
    LinkFlags, LinkInfo, LinkMessage,
};

use super::{Attributes, LinkIndex, LinkName, MacAddress};

/// Bytes of `struct ifinfomsg` before the attributes.
const LINK_HEADER_BYTES: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_IFALIAS: u16 = 20;
const IFLA_INET_CONF: u16 = 1;
const IPV4_DEVCONF_ACCEPT_REDIRECTS: u16 = 4;
const IPV4_DEVCONF_SEND_REDIRECTS: u16 = 6;
const IPV4_DEVCONF_ROUTE_LOCALNET: u16 = 26;

/// One end of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VethEnd {
    /// Its name.
    pub name: LinkName,
    /// Its hardware address.
    pub mac: MacAddress,
}

/// A pair of virtual Ethernet devices: what goes into one end comes out of the other. Both ends are made down.
#[derive(Debug)]
pub struct VethPair<'a> {
    /// The end in the socket's network namespace.
    pub here: VethEnd,
    /// The end that is born in the other network namespace.
    pub there: VethEnd,
    /// The other network namespace: an open `/proc/PID/ns/net`.
    pub netns: BorrowedFd<'a>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Packets that may wait at each end, should somebody attach a queue.
    pub tx_queue_packets: u32,
}

impl VethPair<'_> {
    /// One queue each way: the default is one per possible CPU, which on large machines is most of a pair's memory,
    /// and none of them is used without XDP.
    fn attributes(&self, end: &VethEnd) -> Vec<LinkAttribute> {
        vec![
            LinkAttribute::IfName(end.name.as_str().to_owned()),
            LinkAttribute::Address(end.mac.0.to_vec()),
            LinkAttribute::Mtu(self.mtu),
            LinkAttribute::TxQueueLen(self.tx_queue_packets),
            LinkAttribute::NumTxQueues(1),
            LinkAttribute::NumRxQueues(1),
        ]
    }

    pub(super) fn message(&self) -> LinkMessage {
        let mut there = LinkMessage::default();
        there.attributes = self.attributes(&self.there);
        there.attributes.push(LinkAttribute::NetNsFd(self.netns.as_raw_fd()));
        let mut here = LinkMessage::default();
        here.attributes = self.attributes(&self.here);
        here.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(there))),
        ]));
        here
    }
}

/// What to change of a link; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkSettings {
    /// Up or down. Family settings of the same request take effect after it: set them in an earlier one.
    pub up: Option<bool>,
    /// Whether addresses of neighbours are asked for and answered. Without, only permanent neighbours are reached.
    pub arp: Option<bool>,
    /// A description, 255 bytes at most.
    pub alias: Option<String>,
    /// Takes away automatic IPv6 addresses (`addrgenmode none`): no link-local one, none from advertisements.
    pub without_automatic_ipv6: bool,
    /// IPv4 switches.
    pub inet4: Inet4Settings,
}

/// IPv4 switches of a link, as in `/proc/sys/net/ipv4/conf/LINK/`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Inet4Settings {
    /// `accept_redirects`.
    pub accept_redirects: Option<bool>,
    /// `send_redirects`.
    pub send_redirects: Option<bool>,
    /// `route_localnet`: 127.0.0.0/8 is not a martian on this link.
    pub route_localnet: Option<bool>,
}

impl LinkSettings {
    /// Says nothing but up.
    #[must_use]
    pub fn up() -> Self {
        Self { up: Some(true), ..Self::default() }
    }

    pub(super) fn message(&self, name: &LinkName) -> LinkMessage {
        let mut message = LinkMessage::default();
        let mut flag = |value: Option<bool>, flag: LinkFlags| {
            if let Some(on) = value {
                message.header.change_mask |= flag;
                message.header.flags.set(flag, on);
            }
        };
        flag(self.up, LinkFlags::Up);
        flag(self.arp.map(|arp| !arp), LinkFlags::Noarp);
        message.attributes.push(LinkAttribute::IfName(name.as_str().to_owned()));
        if let Some(alias) = &self.alias {
            message.attributes.push(LinkAttribute::IfAlias(alias.clone()));
        }
        let mut families = Vec::new();
        if let Some(switches) = self.inet4.attribute() {
            families.push(AfSpecUnspec::Inet(vec![AfSpecInet::Other(switches)]));
        }
        if self.without_automatic_ipv6 {
            families.push(AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]));
        }
        if !families.is_empty() {
            message.attributes.push(LinkAttribute::AfSpecUnspec(families));
        }
        message
    }
}

impl Inet4Settings {
    /// Written by hand: the crate's own form leaves out switches that are to be 0.
    fn attribute(self) -> Option<DefaultNla> {
        let mut switches = Attributes::new();
        for (kind, value) in [
            (IPV4_DEVCONF_ACCEPT_REDIRECTS, self.accept_redirects),
            (IPV4_DEVCONF_SEND_REDIRECTS, self.send_redirects),
            (IPV4_DEVCONF_ROUTE_LOCALNET, self.route_localnet),
        ] {
            if let Some(on) = value {
                switches.put(kind, &u32::from(on).to_ne_bytes());
            }
        }
        let bytes = switches.as_bytes();
        (!bytes.is_empty()).then(|| DefaultNla::new(IFLA_INET_CONF | NLA_F_NESTED, bytes.to_vec()))
    }
}

/// A link that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkEntry {
    /// Its number.
    pub index: LinkIndex,
    /// Its name.
    pub name: LinkName,
    /// Its description, if it has one.
    pub alias: Option<String>,
}

impl LinkEntry {
    /// Reads the header and the attributes wanted here; the whole message is not parsed, since newer kernels send
    /// attributes in forms that older readers refuse.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let [_, _, _, _, i0, i1, i2, i3, ..] = *payload.first_chunk::<LINK_HEADER_BYTES>()?;
        let mut name = None;
        let mut alias = None;
        for attribute in NlasIterator::new(payload.get(LINK_HEADER_BYTES..)?) {
            let Ok(attribute) = attribute else { break };
            let text = || String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned();
            match attribute.kind() {
                IFLA_IFNAME => name = LinkName::new(text()).ok(),
                IFLA_IFALIAS => alias = Some(text()),
                _ => {}
            }
        }
        Some(Self { index: LinkIndex::new(u32::from_ne_bytes([i0, i1, i2, i3]))?, name: name?, alias })
    }
}

/// Asks for all links, without their counters.
pub(super) fn query() -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

/// Names a link by name.
pub(super) fn named(name: &LinkName) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.as_str().to_owned()));
    message
}

/// Renames the link with this index.
pub(super) fn rename(index: LinkIndex, name: &LinkName) -> LinkMessage {
    let mut message = named(name);
    message.header.index = index.get();
    message
}
