//! Whether the node has room for one more running container.
//!
//! Sums of what running containers are promised, against what the node was given. Memory is promised by guarantees: a
//! limit that somebody named is one, too. Pure arithmetic under one lock; a driver reserves before a start and releases
//! after the sweep.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use insula_api::{Problem, ProblemCode};
use insula_model::{Bytes, ContainerId, ResourceSpec};

use crate::config::CapacityConfig;

/// What one container is promised.
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
    /// Bytes of memory that may be promised.
    memory: u64,
    reserved: Mutex<Reserved>,
}

impl Ledger {
    /// An empty ledger of a machine with so much memory.
    pub(crate) fn new(capacity: CapacityConfig, machine: Bytes) -> Self {
        let given = capacity.memory.unwrap_or(machine).0;
        let promised = u128::from(given) * u128::from(capacity.memory_overcommit_percent) / 100;
        let memory = u64::try_from(promised).unwrap_or(u64::MAX);
        Self { capacity, memory, reserved: Mutex::default() }
    }

    /// Takes room for `id` with these limits, defaults filled in; has it room already, its reservation becomes this one.
    ///
    /// # Errors
    ///
    /// Admission, naming the row that has not enough left, and how much; the reservation is as it was.
    pub(crate) fn reserve(&self, id: ContainerId, limits: &ResourceSpec) -> Result<(), Problem> {
        self.take(id, Demand::of(limits), |others, running, demand| self.admit(others, running, demand))
    }

    /// Counts `id`, which runs already, whatever is left.
    pub(crate) fn adopt(&self, id: ContainerId, limits: &ResourceSpec) {
        self.take(id, Demand::of(limits), |_, _, _| Ok(())).ok();
    }

    fn take(
        &self,
        id: ContainerId,
        demand: Demand,
        admit: impl FnOnce(Demand, usize, Demand) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let former = reserved.each.get(&id).copied();
        let others = without(reserved.sum, former.unwrap_or_default());
        admit(others, reserved.each.len() - usize::from(former.is_some()), demand)?;
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
        if others.memory_bytes.saturating_add(demand.memory_bytes) > self.memory {
            let left = rounded(self.memory.saturating_sub(others.memory_bytes));
            let (asked, all) = (Bytes(demand.memory_bytes), rounded(self.memory));
            return Err(refused(
                format!("memory: a guarantee of {asked} asked, {left} of {all} left"),
                "capacity.memory or capacity.memory_overcommit_percent",
            ));
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

impl Demand {
    fn of(limits: &ResourceSpec) -> Self {
        Self {
            memory_bytes: limits.memory_guarantee.map_or(0, |memory| memory.0),
            pids: limits.pids_limit.map_or(0, u64::from),
        }
    }
}

/// The machine's memory.
pub(crate) fn machine_memory() -> Bytes {
    let info = rustix::system::sysinfo();
    Bytes(info.totalram.saturating_mul(u64::from(info.mem_unit)))
}

fn without(sum: Demand, part: Demand) -> Demand {
    Demand {
        memory_bytes: sum.memory_bytes.saturating_sub(part.memory_bytes),
        pids: sum.pids.saturating_sub(part.pids),
    }
}

/// To whole MiB where there is one: nobody reads a machine's memory in KiB.
fn rounded(bytes: u64) -> Bytes {
    const MIB: u64 = 1 << 20;
    Bytes(if bytes < MIB { bytes } else { bytes / MIB * MIB })
}

fn refused(detail: String, option: &str) -> Problem {
    Problem::new(ProblemCode::Admission, detail)
        .with_remedy(format!("stop something, ask for less, or raise {option} in the node's configuration"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn id(number: u8) -> ContainerId {
        ContainerId::from_uuid(Uuid::from_u128(u128::from(number)))
    }

    fn ledger() -> Ledger {
        let capacity = CapacityConfig {
            containers: 9,
            running: 3,
            memory: Some(Bytes(500)),
            memory_overcommit_percent: 200,
            pids: 1_500,
            disk_reserve: Bytes(0),
        };
        Ledger::new(capacity, Bytes(7))
    }

    fn limits(memory: u64) -> ResourceSpec {
        ResourceSpec { memory_guarantee: Some(Bytes(memory)), pids_limit: Some(512), ..ResourceSpec::default() }
    }

    #[test]
    fn the_row_that_refuses_is_named_with_what_is_left() {
        let ledger = ledger();
        ledger.reserve(id(1), &limits(600)).unwrap();
        let problem = ledger.reserve(id(2), &limits(500)).unwrap_err();
        assert_eq!(problem.code, ProblemCode::Admission);
        assert!(problem.detail.contains("memory: a guarantee of 500 asked, 400 of 1000 left"), "{}", problem.detail);
        ledger.reserve(id(2), &limits(0)).unwrap();
        let problem = ledger.reserve(id(3), &limits(0)).unwrap_err();
        assert!(problem.detail.starts_with("pids: 512 asked, 476 of 1500 left"), "{}", problem.detail);
    }

    #[test]
    fn without_a_word_the_machines_memory_is_promised_and_what_runs_is_counted_whatever_it_takes() {
        let capacity = CapacityConfig { memory: None, ..CapacityConfig::default() };
        let ledger = Ledger::new(capacity, Bytes(1_000));
        assert!(ledger.reserve(id(1), &limits(1_001)).is_err());
        ledger.adopt(id(1), &limits(1_001));
        let problem = ledger.reserve(id(2), &limits(1)).unwrap_err();
        assert!(problem.detail.contains("0 of 1000 left"), "{}", problem.detail);
        ledger.reserve(id(1), &limits(999)).unwrap();
        ledger.reserve(id(2), &limits(1)).unwrap();
        assert!(ledger.reserve(id(2), &limits(2)).is_err());
        assert_eq!(ledger.reserved.lock().unwrap().each[&id(2)].memory_bytes, 1);
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
