//! A change of image: tried, kept, or taken back.

use super::driver::{Driver, Happening};
use crate::trial;

impl Driver {
    pub(super) fn begin_trial(&mut self) {
        self.generations.trial += 1;
        let generation = self.generations.trial;
        let image = self.facts.image.clone().unwrap_or_else(|| self.record.image.clone());
        let asked = trial::Trial { image, health: self.record.trial_health.clone() };
        let watch = trial::watch(self.context.clone(), self.published.subscribe(), asked);
        self.happenings.push(Box::pin(async move { Happening::TrialEnded { generation, result: watch.await } }));
    }

    pub(super) fn keep_change(&mut self) {
        if let Some(image) = self.record.next_image.take() {
            self.event("upgraded", &[("image", image.to_string()), ("former_image", self.record.image.to_string())]);
            self.record.previous_image = Some(std::mem::replace(&mut self.record.image, image));
            self.record.rolled_back = None;
        }
        self.record.trial_health = None;
        self.record.upgrade_grace = None;
        self.unsaved = true;
    }

    pub(super) fn drop_change(&mut self) {
        self.record.next_image = None;
        self.record.trial_health = None;
        self.record.upgrade_grace = None;
        self.record.spec.image = self.record.image.clone().into();
        self.resolve();
        let reason = self.record.rolled_back.clone().unwrap_or_default();
        self.event("rolled_back", &[("image", self.record.image.to_string()), ("reason", reason)]);
        self.unsaved = true;
    }
}
