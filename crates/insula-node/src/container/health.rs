//! Whether a running container is healthy: its check, run again and again, counted here.
//!
//! No process stays beside a container for it, and one without a check has no timer. What decides ([`Counter`]) has
//! no clock; the driver runs the check and waits between two. Until the first success a check is tried often, and
//! failures are forgiven until the deadline; later so many in a row as the check says make the container unhealthy.

use std::time::Duration;

use futures_util::future::BoxFuture;
use insula_api::ExecRequest;
use insula_model::{ContainerState, Health, HealthCheck};
use jiff::Timestamp;

use super::driver::{Driver, Happening, elapsed};
use crate::host::{ExecOrder, Streams};

/// Longest pause between two tries before the first success.
pub(crate) const STARTING_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Shortest pause between two tries, whatever an image says.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// Longest text of why a check failed, in events.
const REASON_BYTES_MAX: usize = 512;

/// What the results of a container's check come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counter {
    check: HealthCheck,
    health: Health,
    failures: u32,
}

impl Counter {
    fn new(check: HealthCheck) -> Self {
        Self { check, health: Health::Starting, failures: 0 }
    }

    /// What the container is now.
    pub(super) fn health(&self) -> Health {
        self.health
    }

    /// Counts one result, `age` after the container's start; whether the container is another now.
    fn count(&mut self, passed: bool, age: Duration) -> bool {
        let before = self.health;
        if passed {
            self.failures = 0;
            self.health = Health::Healthy;
        } else {
            self.failures = self.failures.saturating_add(1);
            let forgiven = before == Health::Starting && age < Duration::from_millis(self.check.deadline_ms);
            if self.failures >= self.check.retries() && !forgiven {
                self.health = Health::Unhealthy;
            }
        }
        self.health != before
    }

    fn pause(&self) -> Duration {
        let interval = Duration::from_millis(self.check.interval_ms).max(PAUSE_MIN);
        if self.health == Health::Starting { interval.min(STARTING_PAUSE_MAX) } else { interval }
    }
}

impl Driver {
    /// Begins to watch what runs now, if its configuration or image says how; an earlier watch ends.
    pub(super) fn begin_checks(&mut self) {
        self.end_checks();
        let image = self.facts.image.as_ref().unwrap_or(&self.record.image);
        let Some(check) = self.context.catalog.health(image, &self.spec) else { return };
        self.checks = Some(Counter::new(check));
        self.next_check();
    }

    /// Watches no more.
    pub(super) fn end_checks(&mut self) {
        self.generations.check += 1;
        self.checks = None;
    }

    /// A check ended: `None` when it was left out because the container is paused.
    pub(super) fn checked(&mut self, result: Option<Result<(), String>>) {
        let age = self.facts.started.map_or(Duration::MAX, |started| elapsed(started, Timestamp::now()));
        let Some(checks) = &mut self.checks else { return };
        if let Some(result) = result
            && checks.count(result.is_ok(), age)
        {
            let health = checks.health();
            self.healthy = Some(health == Health::Healthy);
            self.publish();
            let mut attributes = vec![("health", health.to_string())];
            attributes.extend(result.err().map(|why| ("reason", why)));
            self.event("health", &attributes);
        }
        self.next_check();
    }

    fn next_check(&mut self) {
        let Some(checks) = &self.checks else { return };
        let (pause, check) = (checks.pause(), checks.check.clone());
        let generation = self.generations.check;
        let mut published = self.published.subscribe();
        let context = self.context.clone();
        let result: BoxFuture<'static, Option<Result<(), String>>> = Box::pin(async move {
            tokio::time::sleep(pause).await;
            let snapshot = published.borrow_and_update().clone();
            if snapshot.state != Some(ContainerState::Running) {
                return None;
            }
            let order = ExecOrder {
                id: snapshot.record.id,
                name: snapshot.record.name.clone(),
                spec: snapshot.spec.clone(),
                image: snapshot.facts.image.clone().unwrap_or_else(|| snapshot.record.image.clone()),
                request: ExecRequest { command: check.command.clone(), ..ExecRequest::default() },
                streams: Streams::Detached,
            };
            let most = check.timeout();
            Some(match tokio::time::timeout(most, context.host.run_to_end(order)).await {
                Ok(Ok(0)) => Ok(()),
                Ok(Ok(code)) => Err(format!("the check ended with code {code}")),
                Ok(Err(problem)) => Err(problem.detail.chars().take(REASON_BYTES_MAX).collect()),
                Err(_) => Err(format!("the check did not end within {} ms", most.as_millis())),
            })
        });
        self.happenings.push(Box::pin(async move { Happening::Checked { generation, result: result.await } }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(retries: u32) -> Counter {
        Counter::new(HealthCheck {
            command: vec!["check".to_owned()],
            interval_ms: 30_000,
            deadline_ms: 10_000,
            timeout_ms: None,
            retries: Some(retries),
        })
    }

    const EARLY: Duration = Duration::from_secs(1);
    const LATE: Duration = Duration::from_secs(60);

    #[test]
    fn failures_before_the_deadline_are_forgiven_and_tried_again_soon() {
        let mut counter = counter(1);
        assert!(!counter.count(false, EARLY));
        assert_eq!((counter.health(), counter.pause()), (Health::Starting, STARTING_PAUSE_MAX));
        assert!(counter.count(false, LATE));
        assert_eq!((counter.health(), counter.pause()), (Health::Unhealthy, Duration::from_secs(30)));
    }

    #[test]
    fn only_failures_in_a_row_make_it_unhealthy_and_one_success_healthy() {
        let mut counter = counter(2);
        assert!(counter.count(true, EARLY));
        assert!(!counter.count(false, EARLY));
        assert!(!counter.count(true, EARLY));
        assert!(!counter.count(false, EARLY));
        assert!(counter.count(false, EARLY));
        assert_eq!(counter.health(), Health::Unhealthy);
        assert!(!counter.count(false, LATE));
        assert!(counter.count(true, LATE));
        assert_eq!(counter.health(), Health::Healthy);
    }
}
