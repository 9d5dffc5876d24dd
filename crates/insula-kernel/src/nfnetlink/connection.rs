//! Connections that the kernel tracks: which of them to forget.

use std::net::IpAddr;

use netlink_packet_core::NLA_F_NESTED;

use super::element::{GENERIC_HEADER_BYTES, find, generic_header};
use crate::netlink::Attributes;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const CTA_FILTER_F_CTA_IP_SRC: u32 = 1;
const CTA_FILTER_F_CTA_PROTO_NUM: u32 = 1 << 3;
const CTA_FILTER_F_CTA_PROTO_DST_PORT: u32 = 1 << 5;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const UDP: u8 = 17;

/// Which connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// Those that this address answers, at whichever address they were opened.
    AnsweredBy(IpAddr),
    /// UDP over IPv4 to this port, of this machine or through it.
    Udp4To(u16),
    /// UDP over IPv6 to this port, of this machine or through it.
    Udp6To(u16),
}

impl Connections {
    /// Payload of a message about them. It always holds a part of a tuple: without one it would mean all connections.
    pub(super) fn payload(self) -> Vec<u8> {
        let (family, kind, tuple, flags_kind, flags) = match self {
            Self::AnsweredBy(address) => {
                let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
                (family, CTA_TUPLE_REPLY, source(address), CTA_FILTER_REPLY_FLAGS, CTA_FILTER_F_CTA_IP_SRC)
            }
            Self::Udp4To(port) | Self::Udp6To(port) => {
                let family = if matches!(self, Self::Udp4To(_)) { libc::AF_INET } else { libc::AF_INET6 };
                let flags = CTA_FILTER_F_CTA_PROTO_NUM | CTA_FILTER_F_CTA_PROTO_DST_PORT;
                (family, CTA_TUPLE_ORIG, udp_to(port), CTA_FILTER_ORIG_FLAGS, flags)
            }
        };
        let mut filter = Attributes::new();
        filter.put(flags_kind, &flags.to_ne_bytes());
        let mut attributes = Attributes::new();
        attributes.nest(kind, &tuple).nest(CTA_FILTER, &filter);
        let mut payload = generic_header(family, 0).to_vec();
        payload.extend_from_slice(attributes.as_bytes());
        payload
    }
}

/// Payload of a message about the one connection that `told` (a message of the kernel) is about; `None` when it does
/// not say which one.
pub(super) fn this_one(told: &[u8]) -> Option<Vec<u8>> {
    let (header, attributes) = told.split_at_checked(GENERIC_HEADER_BYTES)?;
    let mut which = Attributes::new();
    which.put(CTA_TUPLE_ORIG | NLA_F_NESTED, find(attributes, CTA_TUPLE_ORIG)?);
    for kind in [CTA_ID, CTA_ZONE] {
        if let Some(value) = find(attributes, kind) {
            which.put(kind, value);
        }
    }
    Some([header, which.as_bytes()].concat())
}

fn source(address: IpAddr) -> Attributes {
    let mut inner = Attributes::new();
    match address {
        IpAddr::V4(address) => inner.put(CTA_IP_V4_SRC, &address.octets()),
        IpAddr::V6(address) => inner.put(CTA_IP_V6_SRC, &address.octets()),
    };
    let mut tuple = Attributes::new();
    tuple.nest(CTA_TUPLE_IP, &inner);
    tuple
}

fn udp_to(port: u16) -> Attributes {
    let mut inner = Attributes::new();
    inner.put(CTA_PROTO_NUM, &[UDP]).put(CTA_PROTO_DST_PORT, &port.to_be_bytes());
    let mut tuple = Attributes::new();
    tuple.nest(CTA_TUPLE_PROTO, &inner);
    tuple
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_says_which_connections_and_never_all() {
        for which in [Connections::AnsweredBy([10, 87, 0, 2].into()), Connections::Udp4To(53), Connections::Udp6To(53)]
        {
            let payload = which.payload();
            let kinds: Vec<_> = netlink_packet_core::NlasIterator::new(&payload[4..])
                .map(|attribute| attribute.unwrap().kind())
                .collect();
            assert!(matches!(kinds[..], [CTA_TUPLE_ORIG | CTA_TUPLE_REPLY, CTA_FILTER]), "{which:?}: {kinds:?}");
        }
    }

    #[test]
    fn one_connection_is_named_by_what_the_kernel_tells_of_it() {
        let mut told = generic_header(libc::AF_INET, 0).to_vec();
        let mut attributes = Attributes::new();
        attributes.nest(CTA_TUPLE_ORIG, &udp_to(53)).nest(CTA_TUPLE_REPLY, &udp_to(9)).put(CTA_ID, &[1, 2, 3, 4]);
        told.extend_from_slice(attributes.as_bytes());
        let which = this_one(&told).unwrap();
        assert_eq!(find(&which[4..], CTA_TUPLE_ORIG), Some(udp_to(53).as_bytes()));
        assert_eq!(find(&which[4..], CTA_TUPLE_REPLY), None);
        assert_eq!(find(&which[4..], CTA_ID), Some([1, 2, 3, 4].as_slice()));
        assert_eq!(this_one(&told[..4]), None);
        assert_eq!(this_one(&told[..2]), None);
    }

    #[test]
    fn the_family_is_that_of_the_address() {
        assert_eq!(i32::from(Connections::AnsweredBy([10, 87, 0, 2].into()).payload()[0]), libc::AF_INET);
        assert_eq!(i32::from(Connections::AnsweredBy([0; 16].into()).payload()[0]), libc::AF_INET6);
    }
}
