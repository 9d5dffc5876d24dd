//! Whether the node's part of the network can be what the configuration says; who else has it is asked at the start.

use insula_network::{Ipv4Block, Ipv6Block};

use super::NetworkConfig;

/// Fewest bits that leave a node addresses for containers, beside the network's own, the node's and the last.
const BITS4_MAX: u8 = 29;
/// IPv6 does not work over links with less.
const MTU_MIN: u32 = 1_280;
/// What a link can be told to have.
const MTU_MAX: u32 = 65_535;

impl NetworkConfig {
    /// The first option that cannot stand, and why.
    pub(super) fn wrong(&self) -> Option<(&'static str, &'static str)> {
        let Ok(range4) = self.range4.parse::<Ipv4Block>() else {
            return Some((
                "network.range4",
                "must be the beginning of an IPv4 network with its bits, such as 10.87.0.0/16",
            ));
        };
        if !(range4.bits()..=BITS4_MAX).contains(&self.bits4) {
            return Some(("network.bits4", "must not be less than those of network.range4, nor more than 29"));
        }
        let range6_stands = |range: &str| range.parse::<Ipv6Block>().is_ok_and(|range| range.bits() <= 64);
        if !self.range6.is_empty() && !range6_stands(&self.range6) {
            return Some(("network.range6", "must be empty, or the beginning of an IPv6 network of 64 bits or fewer"));
        }
        if !(MTU_MIN..=MTU_MAX).contains(&self.mtu) {
            return Some(("network.mtu", "must be from 1280 to 65535"));
        }
        None
    }
}
