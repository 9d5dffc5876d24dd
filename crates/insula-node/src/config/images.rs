//! `[images]`: whose signatures count, and what is done for image files in the background.

use std::path::Path;
use std::time::Duration;

use insula_image::signature::{Requirement, SignaturePolicy};
use insula_image::store::SigningConfig;
use insula_model::{Bytes, PublicKey};
use serde::Deserialize;

/// Image versions on this node.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct ImagesConfig {
    /// Whether an image needs a signature by a key that counts.
    pub require_signature: bool,
    /// Keys that count for images in testing, beside the node's own.
    pub trusted_testing: Vec<PublicKey>,
    /// Keys that count for images in production, beside the node's own.
    pub trusted_production: Vec<PublicKey>,
    /// Seconds from the check of one mounted version to that of the next; 0 is none.
    pub scrub_interval_s: u64,
    /// Bytes a second that such a check reads.
    pub scrub_rate: Bytes,
    /// Milliseconds after a mount until the second copy of what was read is dropped from memory.
    pub cache_drop_after_ms: u64,
    /// Milliseconds from then on until it is dropped again; 0 is never.
    pub cache_drop_interval_ms: u64,
}

impl Default for ImagesConfig {
    fn default() -> Self {
        Self {
            require_signature: true,
            trusted_testing: Vec::new(),
            trusted_production: Vec::new(),
            scrub_interval_s: 3_600,
            scrub_rate: Bytes::mib(16),
            cache_drop_after_ms: 10_000,
            cache_drop_interval_ms: 60_000,
        }
    }
}

/// Longest pause of either kind: a year.
const PAUSE_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);

impl ImagesConfig {
    /// The first option whose value cannot work, and why.
    pub(super) fn wrong(&self) -> Option<(&'static str, &'static str)> {
        let too_long = "must not be more than a year";
        let millis = Duration::from_millis;
        if self.scrub_rate < Bytes::mib(1) {
            return Some(("images.scrub_rate", "must be 1MiB or more; images.scrub_interval_s = 0 checks none"));
        }
        let pauses = [
            ("images.scrub_interval_s", Duration::from_secs(self.scrub_interval_s)),
            ("images.cache_drop_after_ms", millis(self.cache_drop_after_ms)),
            ("images.cache_drop_interval_ms", millis(self.cache_drop_interval_ms)),
        ];
        pauses.into_iter().find(|(_, pause)| *pause > PAUSE_MAX).map(|(key, _)| (key, too_long))
    }

    /// What the store of a node with this state directory is to know about signatures.
    pub(crate) fn signing(&self, state_dir: &Path) -> SigningConfig {
        let requirement = if self.require_signature { Requirement::Required } else { Requirement::Optional };
        let policy = SignaturePolicy {
            requirement,
            testing: self.trusted_testing.iter().copied().collect(),
            production: self.trusted_production.iter().copied().collect(),
        };
        SigningConfig { keys: state_dir.join("keys"), policy }
    }

    /// Time between two checks of mounted versions, if there are any.
    pub(crate) fn scrub_interval(&self) -> Option<Duration> {
        (self.scrub_interval_s > 0).then(|| Duration::from_secs(self.scrub_interval_s))
    }

    /// Time from a mount to the first drop, and from each drop to the next; none if nothing is dropped.
    pub(crate) fn cache_drops(&self) -> Option<(Duration, Duration)> {
        let interval = Duration::from_millis(self.cache_drop_interval_ms);
        (!interval.is_zero()).then(|| (Duration::from_millis(self.cache_drop_after_ms), interval))
    }
}
