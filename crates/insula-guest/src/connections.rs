//! Containers that ask over connections: one question of each at a time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::budget::CONNECTIONS_MAX;
use crate::names::Asker;
use crate::stream::Stream;

/// How long a connection may stay without a whole question, or without taking its answer.
pub const IDLE_TIME: Duration = Duration::from_secs(10);

/// One connection of a container.
#[derive(Debug)]
pub struct Connection {
    /// Whose.
    pub asker: Asker,
    /// The messages on it.
    pub stream: Stream,
    /// When it is closed if nothing happens.
    pub until: Instant,
    /// The question that is at name servers; nothing more is read until it is answered.
    pub flight: Option<u64>,
}

/// All connections by number, oldest first.
#[derive(Debug, Default)]
pub struct Connections(BTreeMap<u64, Connection>);

impl Connections {
    /// The one of this number.
    pub fn get_mut(&mut self, number: u64) -> Option<&mut Connection> {
        self.0.get_mut(&number)
    }

    /// A new one, and which had to make room for it: the one whose time is over first.
    pub fn insert(&mut self, number: u64, connection: Connection) -> Option<u64> {
        let crowded = self.0.len() >= CONNECTIONS_MAX;
        let first = self.0.iter().min_by_key(|(_, connection)| connection.until).map(|(&number, _)| number);
        self.0.insert(number, connection);
        first.filter(|_| crowded)
    }

    /// Takes one out.
    pub fn remove(&mut self, number: u64) -> Option<Connection> {
        self.0.remove(&number)
    }

    /// Those whose time is over.
    #[must_use]
    pub fn overdue(&self, now: Instant) -> Vec<u64> {
        self.0.iter().filter(|(_, connection)| connection.until <= now).map(|(&number, _)| number).collect()
    }

    /// When the first one's time is over.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.0.values().map(|connection| connection.until).min()
    }
}
