//! Whether a version that was just started is good.
//!
//! With a health check: its command must exit 0 before its deadline. Without one: the container must still run after
//! a short while (`defaults.trial_ms`). An exit during the trial is judged by the driver, not here.

use std::sync::Arc;
use std::time::Duration;

use insula_api::ExecRequest;
use insula_model::{HealthCheck, ImageId};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::container::health::STARTING_PAUSE_MAX;
use crate::container::snapshot::Snapshot;
use crate::context::Context;
use crate::host::{ExecOrder, Streams};

/// Shortest pause between two tries of a health check.
const INTERVAL_MIN: Duration = Duration::from_millis(20);

/// What is tried.
#[derive(Debug)]
pub(crate) struct Trial {
    /// The version.
    pub(crate) image: ImageId,
    /// How it proves good; the container's or image's own check when absent.
    pub(crate) health: Option<HealthCheck>,
}

/// Done when the container of `published` proved good, or with the reason why it did not.
pub(crate) async fn watch(
    context: Arc<Context>,
    mut published: watch::Receiver<Arc<Snapshot>>,
    trial: Trial,
) -> Result<(), String> {
    let Trial { image, health } = trial;
    // The start is published right after this was called for it.
    let Ok(snapshot) = published.wait_for(|snapshot| snapshot.facts.pid.is_some()).await.map(|found| found.clone())
    else {
        return Err("the container is gone".to_owned());
    };
    match health.or_else(|| context.catalog.health(&image, &snapshot.spec)) {
        None => {
            tokio::time::sleep(Duration::from_millis(context.config.defaults.trial_ms)).await;
            Ok(())
        }
        Some(check) => until_healthy(&context, &snapshot, &image, &check).await,
    }
}

async fn until_healthy(
    context: &Context,
    snapshot: &Snapshot,
    image: &ImageId,
    check: &HealthCheck,
) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_millis(check.deadline_ms);
    let interval = Duration::from_millis(check.interval_ms).clamp(INTERVAL_MIN, STARTING_PAUSE_MAX);
    let mut last = "no try ended in time".to_owned();
    loop {
        let order = ExecOrder {
            id: snapshot.record.id,
            name: snapshot.record.name.clone(),
            spec: snapshot.spec.clone(),
            image: image.clone(),
            request: ExecRequest { command: check.command.clone(), ..ExecRequest::default() },
            streams: Streams::Detached,
        };
        match tokio::time::timeout_at(deadline, context.host.run_to_end(order)).await {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(code)) => last = format!("the check ended with code {code}"),
            Ok(Err(problem)) => last = problem.detail,
            Err(_) => {}
        }
        if Instant::now() + interval >= deadline {
            return Err(format!("{image} was not healthy within {} ms: {last}", check.deadline_ms));
        }
        tokio::time::sleep(interval).await;
    }
}
