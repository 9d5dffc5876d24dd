//! Elements: what they are made of, and their bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

use netlink_packet_core::NlasIterator;

use crate::netlink::Attributes;

/// Bytes of `struct nfgenmsg`: family, version, resource.
pub(super) const GENERIC_HEADER_BYTES: usize = 4;

const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;

/// One field of a key or of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// `ipv4_addr`
    Ipv4(Ipv4Addr),
    /// `ipv6_addr`
    Ipv6(Ipv6Addr),
    /// `inet_proto`: 6 is TCP, 17 is UDP.
    Protocol(u8),
    /// `inet_service`: a port.
    Port(u16),
}

/// An element of a set, or of a map when it has a value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// Fields in the order of the set's type.
    pub key: Vec<Field>,
    /// Fields in the order of the map's type; empty for a set.
    pub value: Vec<Field>,
}

/// Elements of one set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetElements<'a> {
    /// The table, of family `inet`.
    pub table: &'a str,
    /// The set or map.
    pub set: &'a str,
    /// Its elements, 256 at most.
    pub elements: Vec<Element>,
}

/// Fields as the kernel keeps them: each in network byte order, padded to four bytes.
fn bytes(fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(fields.len() * 4);
    for field in fields {
        match field {
            Field::Ipv4(address) => bytes.extend_from_slice(&address.octets()),
            Field::Ipv6(address) => bytes.extend_from_slice(&address.octets()),
            Field::Protocol(number) => bytes.push(*number),
            Field::Port(number) => bytes.extend_from_slice(&number.to_be_bytes()),
        }
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

fn data(fields: &[Field]) -> Attributes {
    let mut data = Attributes::new();
    data.put(NFTA_DATA_VALUE, &bytes(fields));
    data
}

impl SetElements<'_> {
    /// Payload of a message about these elements. With `values` they are told with the keys.
    pub(super) fn payload(&self, values: Values) -> Vec<u8> {
        let mut list = Attributes::new();
        for element in &self.elements {
            let mut one = Attributes::new();
            one.nest(NFTA_SET_ELEM_KEY, &data(&element.key));
            if values == Values::Told && !element.value.is_empty() {
                one.nest(NFTA_SET_ELEM_DATA, &data(&element.value));
            }
            list.nest(NFTA_LIST_ELEM, &one);
        }
        let mut attributes = Attributes::new();
        attributes
            .put_text(NFTA_SET_ELEM_LIST_TABLE, self.table)
            .put_text(NFTA_SET_ELEM_LIST_SET, self.set)
            .nest(NFTA_SET_ELEM_LIST_ELEMENTS, &list);
        let mut payload = generic_header(libc::NFPROTO_INET, 0).to_vec();
        payload.extend_from_slice(attributes.as_bytes());
        payload
    }
}

/// Whether a message says what the keys lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Values {
    Told,
    Left,
}

/// `struct nfgenmsg`
pub(super) fn generic_header(family: libc::c_int, resource: u16) -> [u8; GENERIC_HEADER_BYTES] {
    let family = u8::try_from(family).expect("families are small numbers");
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// Whether the kernel's answer holds exactly this element.
pub(super) fn holds(payload: &[u8], element: &Element) -> bool {
    let (key, value) = (bytes(&element.key), bytes(&element.value));
    let Some(attributes) = payload.get(GENERIC_HEADER_BYTES..) else { return false };
    let Some(list) = find(attributes, NFTA_SET_ELEM_LIST_ELEMENTS) else { return false };
    NlasIterator::new(list).filter_map(Result::ok).any(|one| {
        let told = |kind| find(one.value(), kind).and_then(|data| find(data, NFTA_DATA_VALUE)).unwrap_or_default();
        told(NFTA_SET_ELEM_KEY) == key && told(NFTA_SET_ELEM_DATA) == value
    })
}

/// Value of the first attribute of this kind.
pub(super) fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    // The iterator lends values no longer than itself, so the value is cut out of `attributes` by its place.
    let mut offset = 0;
    while let Some(&[l0, l1, k0, k1]) = attributes.get(offset..)?.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = attributes.get(offset + 4..offset + length)?;
        if u16::from_ne_bytes([k0, k1]) & netlink_packet_core::NLA_TYPE_MASK == kind {
            return Some(value);
        }
        offset += length.next_multiple_of(4);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element() -> Element {
        Element {
            key: vec![Field::Protocol(6), Field::Port(8080)],
            value: vec![Field::Ipv4(Ipv4Addr::new(10, 87, 0, 2)), Field::Port(80)],
        }
    }

    #[test]
    fn fields_are_padded_to_four_bytes_in_network_order() {
        assert_eq!(bytes(&element().key), [6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(bytes(&element().value), [10, 87, 0, 2, 0, 80, 0, 0]);
    }

    #[test]
    fn a_message_is_read_back_as_what_it_says() {
        let told = SetElements { table: "t", set: "s", elements: vec![element()] };
        assert!(holds(&told.payload(Values::Told), &element()));
        assert!(!holds(&told.payload(Values::Left), &element()));
        let mut other = element();
        other.value[0] = Field::Ipv4(Ipv4Addr::new(10, 87, 0, 3));
        assert!(!holds(&told.payload(Values::Told), &other));
    }

    #[test]
    fn broken_answers_hold_nothing() {
        let payload = SetElements { table: "t", set: "s", elements: vec![element()] }.payload(Values::Told);
        for length in 0..payload.len() {
            assert!(!holds(&payload[..length], &element()), "{length}");
        }
        assert!(!holds(&[0; 64], &element()));
    }
}
