//! When a program that died is started again: at once, and after short lives later and later.

use std::time::{Duration, Instant};

/// Pauses before a program that died soon is started again; the last one for ever.
const PAUSES_MS: [u64; 6] = [0, 50, 200, 1_000, 5_000, 10_000];
/// One that lived this long did not die of its start.
const GOOD_LIFE: Duration = Duration::from_secs(10);

/// One program's lives.
#[derive(Debug, Default)]
pub(super) struct Respawn {
    began: Option<Instant>,
    /// Deaths in a row after short lives.
    deaths: usize,
    due: Option<Instant>,
}

impl Respawn {
    /// It is to be started now, whatever was before.
    pub(super) fn request(&mut self, now: Instant) {
        *self = Self { began: None, deaths: 0, due: Some(now) };
    }

    /// It is not to be started any more.
    pub(super) fn withdraw(&mut self) {
        self.due = None;
    }

    /// It runs.
    pub(super) fn began(&mut self, now: Instant) {
        (self.began, self.due) = (Some(now), None);
    }

    /// It died, or could not be started: it is due again after its pause.
    pub(super) fn died(&mut self, now: Instant) {
        let lived_well = self.began.take().is_some_and(|since| now.saturating_duration_since(since) >= GOOD_LIFE);
        self.deaths = if lived_well { 0 } else { self.deaths + 1 };
        let place = self.deaths.saturating_sub(1).min(PAUSES_MS.len() - 1);
        self.due = Some(now + Duration::from_millis(PAUSES_MS[place]));
    }

    /// Whether it is to be started now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// How long until it is to be started; `None` if it is not.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_dies_again_and_again_waits_longer_and_longer() {
        let now = Instant::now();
        let mut respawn = Respawn::default();
        assert_eq!((respawn.pause(now), respawn.is_due(now)), (None, false));
        respawn.request(now);
        assert!(respawn.is_due(now));
        let pauses: Vec<u64> = (0..8)
            .map(|_| {
                respawn.began(now);
                assert_eq!(respawn.pause(now), None);
                respawn.died(now);
                u64::try_from(respawn.pause(now).unwrap().as_millis()).unwrap()
            })
            .collect();
        assert_eq!(pauses, [0, 50, 200, 1_000, 5_000, 10_000, 10_000, 10_000]);
        assert!(!respawn.is_due(now) && respawn.is_due(now + Duration::from_secs(10)));
        respawn.began(now);
        respawn.died(now + GOOD_LIFE);
        assert!(respawn.is_due(now + GOOD_LIFE), "a good life makes up for the bad ones");
    }

    #[test]
    fn one_that_cannot_be_started_waits_as_one_that_died() {
        let now = Instant::now();
        let mut respawn = Respawn::default();
        respawn.request(now);
        (0..3).for_each(|_| respawn.died(now));
        assert_eq!(respawn.pause(now), Some(Duration::from_millis(200)));
        respawn.withdraw();
        assert_eq!(respawn.pause(now), None);
    }
}
