//! When a restart policy starts a container again that ended by itself.
//!
//! The pause doubles with each start in a row; a container that ran for a while begins anew. How often that was is a
//! fact, so that neither a crash of the daemon nor its upgrade makes a container that crashes at once start at once.

use std::time::Duration;

use insula_model::RestartPolicy;

/// First pause before a start by the restart policy; it doubles with each start in a row.
pub(crate) const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Longest pause before a start by the restart policy.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A container that ran this long begins again with the first pause.
pub(crate) const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Doublings after which the pause has its maximum.
const DOUBLINGS_MAX: u32 = 16;

/// How long to wait before `policy` starts a container again that ended with `code` after `restarts` starts in a
/// row; `None` when it does not. A code that nobody knows is a failure.
pub(crate) fn pause(policy: RestartPolicy, restarts: u32, code: Option<i32>) -> Option<Duration> {
    let again = match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure { retries } => code != Some(0) && retries.is_none_or(|retries| restarts < retries),
    };
    again.then(|| BACKOFF_FIRST.saturating_mul(1 << restarts.min(DOUBLINGS_MAX)).min(BACKOFF_MAX))
}
