//! Which container has which address.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::{ContainerAddresses, Subnets};

/// First number that a container may have: 0 is the network's, 1 the node's.
const FIRST_NUMBER: u32 = Subnets::NODE_NUMBER + 1;

/// The addresses of a node that containers have. Pure: whoever keeps containers tells it, after a restart, who has
/// which.
#[derive(Debug, Clone)]
pub struct AddressPool {
    subnets: Subnets,
    taken: BTreeSet<u32>,
}

/// Every address is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all {capacity} addresses of {} are taken", subnets.ipv4)]
pub struct PoolFull {
    subnets: Subnets,
    capacity: u32,
}

/// An address cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TakeAddressError {
    /// Another container has it.
    #[error("{address} belongs to another container")]
    Taken {
        /// The address.
        address: Ipv4Addr,
    },
    /// Not of this node's subnet, or one that no container may have: the container needs another.
    #[error("{address} is no container's address in {}", subnets.ipv4)]
    Foreign {
        /// The address.
        address: Ipv4Addr,
        /// The node's subnets.
        subnets: Subnets,
    },
}

impl AddressPool {
    /// All free.
    #[must_use]
    pub fn new(subnets: Subnets) -> Self {
        Self { subnets, taken: BTreeSet::new() }
    }

    /// How many containers there can be. The last address stays free: it is the broadcast address of those who see
    /// the block as one network.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.subnets.ipv4.size().saturating_sub(FIRST_NUMBER + 1)
    }

    /// How many addresses are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.len()
    }

    /// Takes the lowest free address.
    ///
    /// # Errors
    ///
    /// None is free.
    pub fn allocate(&mut self) -> Result<ContainerAddresses, PoolFull> {
        let full = PoolFull { subnets: self.subnets, capacity: self.capacity() };
        // The taken numbers are in order: the first that differs from its place is behind a gap.
        let free = (FIRST_NUMBER..).zip(&self.taken).find(|(place, number)| place != *number);
        let number = match free {
            Some((place, _)) => place,
            None => FIRST_NUMBER + u32::try_from(self.taken.len()).map_err(|_| full)?,
        };
        let addresses = self.addresses(number).ok_or(full)?;
        self.taken.insert(number);
        Ok(addresses)
    }

    /// Takes this address, as a container's that had it before.
    ///
    /// # Errors
    ///
    /// Another has it, or it is not of this node any more.
    pub fn take(&mut self, address: Ipv4Addr) -> Result<ContainerAddresses, TakeAddressError> {
        let foreign = TakeAddressError::Foreign { address, subnets: self.subnets };
        let number = self.subnets.ipv4.number(address).ok_or(foreign)?;
        let addresses = self.addresses(number).ok_or(foreign)?;
        if self.taken.insert(number) { Ok(addresses) } else { Err(TakeAddressError::Taken { address }) }
    }

    /// Gives an address back. Idempotent.
    pub fn release(&mut self, address: Ipv4Addr) {
        if let Some(number) = self.subnets.ipv4.number(address) {
            self.taken.remove(&number);
        }
    }

    fn addresses(&self, number: u32) -> Option<ContainerAddresses> {
        let last = FIRST_NUMBER + self.capacity();
        if !(FIRST_NUMBER..last).contains(&number) {
            return None;
        }
        let ipv6 = self.subnets.ipv6.and_then(|block| block.address(number));
        Some(ContainerAddresses { ipv4: self.subnets.ipv4.address(number)?, ipv6 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool(ipv4: &str) -> AddressPool {
        AddressPool::new(Subnets { ipv4: ipv4.parse().unwrap(), ipv6: Some("fd49:6e73:756c:1::/64".parse().unwrap()) })
    }

    #[test]
    fn both_addresses_have_the_same_number_and_the_first_two_are_not_given() {
        let mut pool = pool("10.87.16.0/20");
        let first = pool.allocate().unwrap();
        assert_eq!(first.ipv4.to_string(), "10.87.16.2");
        assert_eq!(first.ipv6.unwrap().to_string(), "fd49:6e73:756c:1::2");
        assert_eq!(pool.capacity(), 4093);
    }

    #[test]
    fn a_full_pool_says_so_and_the_last_address_stays_free() {
        let mut pool = pool("10.87.16.0/29");
        let given: Vec<_> = std::iter::from_fn(|| pool.allocate().ok()).map(|one| one.ipv4.octets()[3]).collect();
        assert_eq!(given, [2, 3, 4, 5, 6]);
        assert_eq!(pool.allocate().unwrap_err().to_string(), "all 5 addresses of 10.87.16.0/29 are taken");
    }

    #[test]
    fn addresses_of_others_and_of_nobody_are_not_taken() {
        let mut pool = pool("10.87.16.0/20");
        pool.take(Ipv4Addr::new(10, 87, 16, 9)).unwrap();
        assert!(matches!(pool.take(Ipv4Addr::new(10, 87, 16, 9)), Err(TakeAddressError::Taken { .. })));
        for foreign in [[10, 87, 32, 2], [10, 87, 16, 0], [10, 87, 16, 1], [10, 87, 31, 255]] {
            assert!(matches!(pool.take(foreign.into()), Err(TakeAddressError::Foreign { .. })), "{foreign:?}");
        }
    }

    proptest! {
        #[test]
        fn the_lowest_free_address_is_given_and_never_one_twice(operations in proptest::collection::vec(0u32..20, 1..80)) {
            let mut pool = pool("10.87.16.0/28");
            let mut model = BTreeSet::new();
            for operation in operations {
                if operation < 14 {
                    let lowest = (2..15).find(|number| !model.contains(number));
                    let given = pool.allocate().ok().map(|one| u32::from(one.ipv4.octets()[3]));
                    prop_assert_eq!(given, lowest);
                    model.extend(lowest);
                } else {
                    let number = operation - 12;
                    pool.release(pool.subnets.ipv4.address(number).unwrap());
                    model.remove(&number);
                }
                prop_assert_eq!(pool.taken(), model.len());
            }
        }
    }
}
