//! Whether the node has room for one more running container.
//!
//! Sums of what running containers are promised by their limits, against what the node was given. Pure arithmetic
//! under one lock; a driver reserves before a start and releases after the sweep.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use insula_api::{Problem, ProblemCode};
use insula_model::{ContainerId, ResourceSpec};

use crate::config::{CapacityConfig, DefaultsConfig};

/// What one container may use at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Demand {
    memory_bytes: u64,
    pids: u64,
}

#[derive(Debug, Default)]
struct Reserved {
    each: HashMap<ContainerId, Demand>,
    sum: Demand,
}

/// Reservations of the running containers.
#[derive(Debug)]
pub(crate) struct Ledger {
    capacity: CapacityConfig,
    default_pids: u64,
    reserved: Mutex<Reserved>,
}

impl Ledger {
    /// An empty ledger.
    pub(crate) fn new(capacity: CapacityConfig, defaults: &DefaultsConfig) -> Self {
        Self { capacity, default_pids: u64::from(defaults.pids_limit), reserved: Mutex::default() }
    }

    /// Takes room for `id`; it has room already: its reservation becomes this one.
    ///
    /// # Errors
    ///
    /// Admission, naming the row that has not enough left, and how much.
    pub(crate) fn reserve(&self, id: ContainerId, limits: &ResourceSpec) -> Result<(), Problem> {
        let demand = Demand {
            memory_bytes: limits.memory_limit.map_or(0, |limit| limit.0),
            pids: limits.pids_limit.map_or(self.default_pids, u64::from),
        };
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let former = reserved.each.get(&id).copied();
        let others = without(reserved.sum, former.unwrap_or_default());
        let count = reserved.each.len() - usize::from(former.is_some());
        self.admit(others, count, demand)?;
        reserved.each.insert(id, demand);
        reserved.sum = Demand {
            memory_bytes: others.memory_bytes.saturating_add(demand.memory_bytes),
            pids: others.pids.saturating_add(demand.pids),
        };
        Ok(())
    }

    /// Gives the room of `id` back; none is no error.
    pub(crate) fn release(&self, id: ContainerId) {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(demand) = reserved.each.remove(&id) {
            reserved.sum = without(reserved.sum, demand);
        }
    }

    fn admit(&self, others: Demand, running: usize, demand: Demand) -> Result<(), Problem> {
        if running >= self.capacity.running {
            let most = self.capacity.running;
            return Err(refused(format!("running: {most} of {most} containers run"), "capacity.running"));
        }
        if let Some(most) = self.capacity.memory
            && others.memory_bytes.saturating_add(demand.memory_bytes) > most.0
        {
            let left = most.0.saturating_sub(others.memory_bytes);
            let asked = demand.memory_bytes;
            return Err(refused(format!("memory: {asked} bytes asked, {left} of {} left", most.0), "capacity.memory"));
        }
        if others.pids.saturating_add(demand.pids) > self.capacity.pids {
            let left = self.capacity.pids.saturating_sub(others.pids);
            return Err(refused(
                format!("pids: {} asked, {left} of {} left", demand.pids, self.capacity.pids),
                "capacity.pids",
            ));
        }
        Ok(())
    }
}

fn without(sum: Demand, part: Demand) -> Demand {
    Demand {
        memory_bytes: sum.memory_bytes.saturating_sub(part.memory_bytes),
        pids: sum.pids.saturating_sub(part.pids),
    }
}

fn refused(detail: String, option: &str) -> Problem {
    Problem::new(ProblemCode::Admission, detail)
        .with_remedy(format!("stop something, ask for less, or raise {option} in the node's configuration"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use insula_model::Bytes;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn id(number: u8) -> ContainerId {
        ContainerId::from_uuid(Uuid::from_u128(u128::from(number)))
    }

    fn ledger() -> Ledger {
        let capacity = CapacityConfig { containers: 9, running: 3, memory: Some(Bytes(1_000)), pids: 1_500 };
        Ledger::new(capacity, &DefaultsConfig::default())
    }

    fn limits(memory: u64) -> ResourceSpec {
        ResourceSpec { memory_limit: Some(Bytes(memory)), ..ResourceSpec::default() }
    }

    #[test]
    fn the_row_that_refuses_is_named_with_what_is_left() {
        let ledger = ledger();
        ledger.reserve(id(1), &limits(600)).unwrap();
        let problem = ledger.reserve(id(2), &limits(500)).unwrap_err();
        assert_eq!(problem.code, ProblemCode::Admission);
        assert!(problem.detail.contains("memory: 500 bytes asked, 400 of 1000 left"), "{}", problem.detail);
        ledger.reserve(id(2), &limits(0)).unwrap();
        let problem = ledger.reserve(id(3), &limits(0)).unwrap_err();
        assert!(problem.detail.starts_with("pids: 512 asked, 476 of 1500 left"), "{}", problem.detail);
    }

    proptest! {
        #[test]
        fn never_more_is_promised_than_there_is(steps in proptest::collection::vec((0u8..6, 0u64..900, any::<bool>()), 0..60)) {
            let ledger = ledger();
            for (number, memory, release) in steps {
                if release {
                    ledger.release(id(number));
                } else {
                    ledger.reserve(id(number), &limits(memory)).ok();
                }
                let reserved = ledger.reserved.lock().unwrap();
                let sum: u64 = reserved.each.values().map(|demand| demand.memory_bytes).sum();
                prop_assert_eq!(sum, reserved.sum.memory_bytes);
                prop_assert!(sum <= 1_000 && reserved.each.len() <= 3);
            }
        }
    }
}
