//! Blocks of addresses, and how a range is cut into the subnets of nodes.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A power of two of IPv4 addresses: `10.87.16.0/20`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Block {
    network: Ipv4Addr,
    bits: u8,
}

/// A power of two of IPv6 addresses: `fd49:6e73:756c::/48`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv6Block {
    network: Ipv6Addr,
    bits: u8,
}

/// The addresses of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subnets {
    /// IPv4; of at most `/30`.
    pub ipv4: Ipv4Block,
    /// IPv6, where the kernel has it.
    pub ipv6: Option<Ipv6Block>,
}

/// No block of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The text is not `ADDRESS/BITS`.
    #[error("address block `{}` is not ADDRESS/BITS", given.escape_debug())]
    Text {
        /// What was given.
        given: String,
    },
    /// More bits than the address has, or bits set behind the network part.
    #[error("address block {given} is not the beginning of a network of that size")]
    NotAligned {
        /// What was given.
        given: String,
    },
}

impl Ipv4Block {
    /// The block with the first address `network` and `bits` in common.
    ///
    /// # Errors
    ///
    /// More than 32 bits, or an address that is not the block's first.
    pub fn new(network: Ipv4Addr, bits: u8) -> Result<Self, BlockError> {
        let wrong = || BlockError::NotAligned { given: format!("{network}/{bits}") };
        let block = Self { network, bits };
        let aligned = bits <= 32 && network.to_bits() & !block.mask() == 0;
        aligned.then_some(block).ok_or_else(wrong)
    }

    /// First address.
    #[must_use]
    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    /// Bits that all its addresses have in common.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.bits
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0)
    }

    /// How many addresses, at most `u32::MAX`.
    #[must_use]
    pub fn size(self) -> u32 {
        1u32.checked_shl(32 - u32::from(self.bits)).unwrap_or(u32::MAX)
    }

    /// Whether `address` is one of its own.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.network.to_bits()
    }

    /// Whether an address is in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    /// The address with this number, counted from the first, if the block has so many.
    #[must_use]
    pub fn address(self, number: u32) -> Option<Ipv4Addr> {
        (number < self.size()).then(|| Ipv4Addr::from_bits(self.network.to_bits() + number))
    }

    /// Number of an address, counted from the first.
    #[must_use]
    pub fn number(self, address: Ipv4Addr) -> Option<u32> {
        self.contains(address).then(|| address.to_bits() - self.network.to_bits())
    }

    /// The `index`th part of `bits` bits, if there is one.
    #[must_use]
    pub fn part(self, bits: u8, index: u32) -> Option<Self> {
        let step = 1u64.checked_shl(32u32.checked_sub(u32::from(bits))?)?;
        let offset = u32::try_from(u64::from(index) * step).ok().filter(|offset| *offset < self.size())?;
        (bits >= self.bits).then(|| Self { network: Ipv4Addr::from_bits(self.network.to_bits() + offset), bits })
    }

    /// How many parts of `bits` bits it has.
    #[must_use]
    pub fn parts(self, bits: u8) -> u32 {
        bits.checked_sub(self.bits).and_then(|more| 1u32.checked_shl(u32::from(more))).unwrap_or(0)
    }
}

impl Ipv6Block {
    /// The block with the first address `network` and `bits` in common.
    ///
    /// # Errors
    ///
    /// More than 128 bits, or an address that is not the block's first.
    pub fn new(network: Ipv6Addr, bits: u8) -> Result<Self, BlockError> {
        let wrong = || BlockError::NotAligned { given: format!("{network}/{bits}") };
        let block = Self { network, bits };
        let aligned = bits <= 128 && network.to_bits() & !block.mask() == 0;
        aligned.then_some(block).ok_or_else(wrong)
    }

    /// First address.
    #[must_use]
    pub fn network(self) -> Ipv6Addr {
        self.network
    }

    /// Bits that all its addresses have in common.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.bits
    }

    fn mask(self) -> u128 {
        u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0)
    }

    /// Whether `address` is one of its own.
    #[must_use]
    pub fn contains(self, address: Ipv6Addr) -> bool {
        address.to_bits() & self.mask() == self.network.to_bits()
    }

    /// Whether an address is in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    /// The address with this number, counted from the first, if the block has so many.
    #[must_use]
    pub fn address(self, number: u32) -> Option<Ipv6Addr> {
        let address = Ipv6Addr::from_bits(self.network.to_bits() | u128::from(number));
        (u128::from(number) & self.mask() == 0).then_some(address)
    }

    /// The `index`th part of `bits` bits, if there is one.
    #[must_use]
    pub fn part(self, bits: u8, index: u32) -> Option<Self> {
        let offset = u128::from(index).checked_shl(128u32.checked_sub(u32::from(bits))?)?;
        let fits = bits >= self.bits && offset & self.mask() == 0 && (index == 0 || offset != 0);
        fits.then(|| Self { network: Ipv6Addr::from_bits(self.network.to_bits() | offset), bits })
    }
}

impl Subnets {
    /// Number of the node's own address: what the host is called when it speaks to its containers.
    pub(crate) const NODE_NUMBER: u32 = 1;

    /// The node's own IPv4 address.
    #[must_use]
    pub fn node_ipv4(&self) -> Ipv4Addr {
        self.ipv4.address(Self::NODE_NUMBER).unwrap_or(self.ipv4.network)
    }

    /// The node's own IPv6 address.
    #[must_use]
    pub fn node_ipv6(&self) -> Option<Ipv6Addr> {
        self.ipv6.and_then(|block| block.address(Self::NODE_NUMBER))
    }
}

impl fmt::Display for Ipv4Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.bits)
    }
}

impl fmt::Display for Ipv6Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.bits)
    }
}

/// Address and bits of `ADDRESS/BITS`.
fn split<A: FromStr>(given: &str) -> Result<(A, u8), BlockError> {
    let wrong = || BlockError::Text { given: given.chars().take(64).collect() };
    let (address, bits) = given.split_once('/').ok_or_else(wrong)?;
    Ok((address.parse().map_err(|_| wrong())?, bits.parse().map_err(|_| wrong())?))
}

impl FromStr for Ipv4Block {
    type Err = BlockError;

    fn from_str(given: &str) -> Result<Self, BlockError> {
        let (network, bits) = split(given)?;
        Self::new(network, bits)
    }
}

impl FromStr for Ipv6Block {
    type Err = BlockError;

    fn from_str(given: &str) -> Result<Self, BlockError> {
        let (network, bits) = split(given)?;
        Self::new(network, bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn blocks_read_back_from_their_text_and_others_are_refused() {
        for text in ["10.87.0.0/16", "0.0.0.0/0", "10.0.0.1/32"] {
            assert_eq!(text.parse::<Ipv4Block>().unwrap().to_string(), text);
        }
        for text in ["fd49:6e73:756c::/48", "::/0", "::1/128"] {
            assert_eq!(text.parse::<Ipv6Block>().unwrap().to_string(), text);
        }
        for bad in ["", "10.0.0.0", "10.0.0.1/31", "10.0.0.0/33", "a/8", "10.0.0.0/-1"] {
            assert!(bad.parse::<Ipv4Block>().is_err(), "{bad}");
        }
        for bad in ["fd49::1/64", "fd49::/129", "fd49::"] {
            assert!(bad.parse::<Ipv6Block>().is_err(), "{bad}");
        }
    }

    #[test]
    fn parts_lie_side_by_side_and_end_with_the_block() {
        let range: Ipv4Block = "10.87.0.0/16".parse().unwrap();
        assert_eq!(range.parts(20), 16);
        assert_eq!(range.part(20, 15).unwrap().to_string(), "10.87.240.0/20");
        assert_eq!(range.part(20, 16), None);
        assert_eq!(range.part(12, 0), None);
        let range: Ipv6Block = "fd49:6e73:756c::/48".parse().unwrap();
        assert_eq!(range.part(64, 65535).unwrap().to_string(), "fd49:6e73:756c:ffff::/64");
        assert_eq!(range.part(64, 65536), None);
        assert_eq!(range.part(64, 2).unwrap().address(5).unwrap().to_string(), "fd49:6e73:756c:2::5");
    }

    proptest! {
        #[test]
        fn two_parts_never_overlap(bits in 16u8..=30, a in 0u32..16384, b in 0u32..16384) {
            let range: Ipv4Block = "10.87.0.0/16".parse().unwrap();
            if let (Some(first), Some(second)) = (range.part(bits, a), range.part(bits, b)) {
                prop_assert!(range.contains(first.network()));
                prop_assert_eq!(first.overlaps(second), a == b);
            }
        }

        #[test]
        fn numbers_and_addresses_match(number in 0u32..4096) {
            let block: Ipv4Block = "10.87.16.0/20".parse().unwrap();
            prop_assert_eq!(block.number(block.address(number).unwrap()), Some(number));
        }
    }
}
