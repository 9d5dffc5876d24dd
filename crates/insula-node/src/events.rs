//! What happened, to everybody who listens.
//!
//! One ring of the last [`EVENTS_KEPT`] events. A listener that falls behind by more loses the oldest and sees it by
//! the gap in the sequence numbers; nobody ever waits for a listener.

use std::sync::Mutex;

use insula_api::{Event, EventSubject};
use jiff::Timestamp;
use tokio::sync::broadcast;

/// Events that a slow listener may be behind.
pub(crate) const EVENTS_KEPT: usize = 4_096;

/// What an event is about.
#[derive(Debug, Clone)]
pub(crate) struct About<'a> {
    /// Which kind of object.
    pub(crate) subject: EventSubject,
    /// Its name.
    pub(crate) name: &'a str,
    /// Its id, where it has one.
    pub(crate) id: Option<String>,
}

/// Takes events and passes them on.
#[derive(Debug)]
pub(crate) struct Events {
    // Sequence number and sending are one step, so that numbers arrive in order.
    last: Mutex<u64>,
    sender: broadcast::Sender<Event>,
}

impl Events {
    /// A ring without listeners.
    pub(crate) fn new() -> Self {
        Self { last: Mutex::new(0), sender: broadcast::Sender::new(EVENTS_KEPT) }
    }

    /// Passes one event on.
    pub(crate) fn publish(&self, about: About<'_>, action: &str, attributes: &[(&str, String)]) {
        let attributes = attributes.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *last += 1;
        let event = Event {
            sequence: *last,
            time: Timestamp::now(),
            subject: about.subject,
            name: about.name.to_owned(),
            id: about.id,
            action: action.to_owned(),
            attributes,
        };
        // Nobody listening is no error.
        self.sender.send(event).ok();
    }

    /// Everything from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_that_falls_behind_sees_the_gap() {
        let events = Events::new();
        let mut listener = events.subscribe();
        for _ in 0..EVENTS_KEPT + 10 {
            events.publish(About { subject: EventSubject::Node, name: "n", id: None }, "x", &[]);
        }
        assert!(matches!(listener.recv().await, Err(broadcast::error::RecvError::Lagged(10))));
        assert_eq!(listener.recv().await.unwrap().sequence, 11);
    }
}
