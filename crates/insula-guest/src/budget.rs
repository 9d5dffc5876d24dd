//! What one container may ask, so that it cannot stand in the way of the others. Time is passed in.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::names::{Asker, Names};

/// Queries per second of one container, in the long run; what is beyond gets no answer.
pub const QUERIES_PER_SECOND: u32 = 500;
/// Queries at once, after a pause.
pub const QUERIES_BURST: u32 = 1_000;
/// Questions of one container that name servers are at; one more fails.
pub const FORWARDED_PER_ASKER_MAX: usize = 64;
/// Questions of all together that name servers are at; one more fails.
pub const FORWARDED_MAX: usize = 1_024;
/// Connections of one container; one more is closed.
pub const CONNECTIONS_PER_ASKER_MAX: usize = 8;
/// Connections of all together; for one more the one that waits longest is closed.
pub const CONNECTIONS_MAX: usize = 256;

/// What one asker has left.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    queries: f64,
    at: Instant,
}

/// What askers have left, and what is being done for them.
#[derive(Debug, Default)]
pub struct Budget {
    buckets: HashMap<Asker, Bucket>,
    forwarded: HashMap<Asker, usize>,
    connections: HashMap<Asker, usize>,
}

/// Something of which an asker may have a number at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// A question that name servers are at.
    Forwarded,
    /// A connection.
    Connection,
}

impl Budget {
    /// Takes one query; whether it may be answered.
    pub fn take_query(&mut self, asker: Asker, now: Instant) -> bool {
        let full = f64::from(QUERIES_BURST);
        let bucket = self.buckets.entry(asker).or_insert(Bucket { queries: full, at: now });
        let passed = now.saturating_duration_since(bucket.at).min(Duration::from_secs(10)).as_secs_f64();
        bucket.queries = (bucket.queries + passed * f64::from(QUERIES_PER_SECOND)).min(full);
        bucket.at = now;
        let may = bucket.queries >= 1.0;
        if may {
            bucket.queries -= 1.0;
        }
        may
    }

    /// Begins something that ends later; whether the asker may.
    pub fn begin(&mut self, asker: Asker, share: Share) -> bool {
        let (counts, most) = self.counts(share);
        let count = counts.entry(asker).or_default();
        let may = *count < most;
        if may {
            *count += 1;
        }
        may
    }

    /// It ended.
    pub fn end(&mut self, asker: Asker, share: Share) {
        let (counts, _) = self.counts(share);
        if let Some(count) = counts.get_mut(&asker) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&asker);
            }
        }
    }

    fn counts(&mut self, share: Share) -> (&mut HashMap<Asker, usize>, usize) {
        match share {
            Share::Forwarded => (&mut self.forwarded, FORWARDED_PER_ASKER_MAX),
            Share::Connection => (&mut self.connections, CONNECTIONS_PER_ASKER_MAX),
        }
    }

    /// Forgets askers that are not there any more.
    pub fn keep_only(&mut self, names: &Names) {
        self.buckets.retain(|&asker, _| names.has(asker));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(last: u8) -> Asker {
        Asker([10, 87, 0, last].into())
    }

    #[test]
    fn one_that_floods_is_cut_off_and_the_others_are_not() {
        let (mut budget, now) = (Budget::default(), Instant::now());
        let answered = (0..10_000).filter(|_| budget.take_query(asker(2), now)).count();
        assert_eq!(answered, 1_000);
        assert!(budget.take_query(asker(3), now));
        let later = now + Duration::from_millis(100);
        assert_eq!((0..10_000).filter(|_| budget.take_query(asker(2), later)).count(), 50);
        assert_eq!((0..10_000).filter(|_| budget.take_query(asker(2), later + Duration::from_secs(60))).count(), 1_000);
    }

    #[test]
    fn what_ended_makes_room() {
        let mut budget = Budget::default();
        let begun = (0..100).filter(|_| budget.begin(asker(2), Share::Connection)).count();
        assert_eq!(begun, CONNECTIONS_PER_ASKER_MAX);
        assert!(budget.begin(asker(2), Share::Forwarded) && budget.begin(asker(3), Share::Connection));
        budget.end(asker(2), Share::Connection);
        assert!(budget.begin(asker(2), Share::Connection) && !budget.begin(asker(2), Share::Connection));
        budget.end(asker(9), Share::Connection);
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let (mut budget, names) = (Budget::default(), crate::names::tests::names());
        budget.take_query(asker(2), Instant::now());
        budget.take_query(asker(200), Instant::now());
        budget.keep_only(&names);
        assert_eq!(budget.buckets.keys().copied().collect::<Vec<_>>(), [asker(2)]);
    }
}
