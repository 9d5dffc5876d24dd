//! The daemon's start: what is to be and what is become one again.
//!
//! | intent | runs | what happens |
//! |---|---|---|
//! | yes | yes | adopted; its exit is awaited as if this daemon had started it |
//! | yes | ended meanwhile | its exit is recorded, then its restart policy decides |
//! | yes | no | as it was, by the facts or after a reboot by the record; the restart policy decides |
//! | no | yes | killed and swept: a create that was never answered, or a delete that was |
//! | no | anything in the run directory | swept |
//!
//! Whatever the last daemon was in the middle of with a container (`Facts::unfinished`, a change of image on trial) its
//! driver finishes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use insula_api::Problem;
use insula_model::ContainerId;

use crate::container::driver::{self, Subject};
use crate::container::facts::Facts;
use crate::container::record::{ContainerRecord, Kept};
use crate::container::words::{Found, Unfinished};
use crate::context::Context;
use crate::host::FoundContainer;
use crate::machine::Traces;
use crate::name_service;

/// Makes drivers for all of `records` and cleans up what belongs to none.
///
/// # Errors
///
/// The host cannot say what runs.
pub(crate) async fn adopt(context: &Arc<Context>, mut records: Vec<ContainerRecord>) -> Result<(), Problem> {
    let mut found: HashMap<ContainerId, FoundContainer> =
        context.host.found().await?.into_iter().map(|found| (found.id, found)).collect();
    let stored: HashSet<ContainerId> = records.iter().map(|record| record.id).collect();
    // Those that start again do so in this order.
    records.sort_by_key(|record| record.created);
    records.extend(context.facts.records().into_iter().filter(|record| !stored.contains(&record.id)));
    let runs = |record: &&ContainerRecord| found.contains_key(&record.id);
    let running = records.iter().filter(runs).map(|record| (record.id, record.traces())).collect();
    let outputs = records.iter().filter(runs).map(|record| (record.id, record.spec.log)).collect();
    context.host.set_up_network(running).await?;
    context.host.adopt_outputs(outputs).await;
    name_service::begin(context).await;
    for record in records {
        let running = found.remove(&record.id);
        let kept = if stored.contains(&record.id) { Kept::Stored } else { Kept::WhileItRuns };
        adopt_one(context, record, (kept, running)).await;
    }
    // A sweep whose launcher died with it may have left a directory that says nothing of its container any more.
    let remains = context.facts.ids().into_iter().chain(context.host.remains());
    let mut orphans: HashSet<ContainerId> = remains.filter(|id| context.directory.get(*id).is_none()).collect();
    for (id, orphan) in found {
        tracing::warn!(container = %id, pid = orphan.started.pid, "runs without intent: ended");
        if let Err(problem) = context.host.kill_all(id, orphan.started.pid).await {
            tracing::error!(container = %id, detail = problem.detail, "orphan");
        }
        orphan.started.exit.await;
        orphans.insert(id);
    }
    for id in orphans {
        clean(context, id, Traces::default()).await;
    }
    Ok(())
}

async fn adopt_one(
    context: &Arc<Context>,
    mut record: ContainerRecord,
    (kept, running): (Kept, Option<FoundContainer>),
) {
    if record.remove && running.is_none() && was_started(context, &record) {
        // It ended and was swept, or went with the machine; only its deletion was not finished.
        if kept == Kept::Stored
            && let Err(error) = context.store.delete(record.id).await
        {
            tracing::error!(container = %record.name, %error, "forget");
        }
        return clean(context, record.id, record.traces()).await;
    }
    let most = usize::MAX;
    if let Err(problem) = context.directory.reserve(&record.name, record.id, most) {
        tracing::error!(container = %record.name, detail = problem.detail, "adopt");
        return;
    }
    match context.ids.take_again(record.ids) {
        Ok(ids) => record.ids = ids,
        Err(problem) => tracing::error!(container = %record.name, detail = problem.detail, "host ids"),
    }
    match context.host.claim_addresses(record.spec.network, record.addresses) {
        Ok(addresses) => record.addresses = addresses,
        Err(problem) => tracing::error!(container = %record.name, detail = problem.detail, "addresses"),
    }
    let known = context.facts.facts(record.id);
    let mut facts = known.unwrap_or_else(|| match running {
        Some(_) => facts_while_it_runs(&record),
        None => facts_after_reboot(context, &record),
    });
    if record.of_operation {
        facts.unfinished = Some(Unfinished::Delete);
    }
    let (found, started) = match running {
        Some(running) => {
            // What runs has room already, whatever the capacity is now.
            let limits = context.config.resolve(&record.spec).map(|resolved| resolved.resources);
            context.ledger.adopt(record.id, &limits.unwrap_or_else(|_| context.config.default_resources()));
            if facts.started.is_none() {
                // The last daemon died before it wrote what it started.
                facts.started = Some(jiff::Timestamp::now());
                facts.image.get_or_insert_with(|| record.wanted_image().clone());
                facts.traces = record.traces();
            }
            facts.pid = Some(running.started.pid);
            facts.reason = None;
            (if running.frozen { Found::Paused } else { Found::Running }, Some(running.started))
        }
        None => (at_rest(&mut facts), None),
    };
    let subject = Subject { record, facts, found, running: started, kept };
    context.directory.insert(driver::spawn(context, subject));
    context.names.tell();
}

/// Whether the container ran at any time: its log is made by its first start.
fn was_started(context: &Context, record: &ContainerRecord) -> bool {
    context.host.log_directory(record.id).exists()
}

/// What is known of a container that runs and goes when it ends: its record alone is written.
fn facts_while_it_runs(record: &ContainerRecord) -> Facts {
    let image = Some(record.wanted_image().clone());
    Facts { image, started: Some(record.created), traces: record.traces(), ..Facts::default() }
}

/// What is known of a container whose facts are lost.
fn facts_after_reboot(context: &Context, record: &ContainerRecord) -> Facts {
    match &record.last_run {
        Some(last_run) => last_run.facts(),
        None if was_started(context, record) => Facts {
            image: Some(record.wanted_image().clone()),
            started: Some(record.created),
            reason: Some("it ended with the machine, and nobody recorded when".to_owned()),
            ..Facts::default()
        },
        None => Facts::default(),
    }
}

/// How a container that does not run stands, by its facts.
fn at_rest(facts: &mut Facts) -> Found {
    if facts.pid.take().is_some() {
        facts.exit_code = None;
        facts.reason = Some("it ended while no daemon looked, and nobody recorded how".to_owned());
        return Found::Ended;
    }
    match (facts.start_failed, facts.started) {
        (true, _) => Found::Failed,
        (false, Some(_)) => Found::Ended,
        (false, None) => Found::Created,
    }
}

/// Removes everything of a container that no intent names.
async fn clean(context: &Context, id: ContainerId, traces: Traces) {
    let result = match context.host.sweep(id, traces).await {
        Ok(()) => context.host.remove_data(id).await,
        Err(problem) => Err(problem),
    };
    match result {
        Ok(()) => {
            if let Err(error) = context.facts.forget(id) {
                tracing::warn!(container = %id, %error, "facts of an orphan");
            }
        }
        Err(problem) => tracing::error!(container = %id, detail = problem.detail, "sweep of an orphan"),
    }
}
