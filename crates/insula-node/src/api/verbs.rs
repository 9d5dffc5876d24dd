//! Verbs on one container.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use insula_api::{
    ContainerSummary, CreatedExec, ExecRequest, KillRequest, Operation, OperationKind, Problem, ProblemCode,
    RenameRequest, StartRequest, StartedContainer, StopRequest, UpgradeRequest, UpgradeResult,
};
use insula_model::{HealthCheck, ImageRef, Signal};

use super::Shared;
use super::extract::{Answered, Body, Path, Refusal};
use crate::attach::{Purpose, exec_order, running};
use crate::catalog::Strictness;
use crate::container::command::{Answer, Command};
use crate::container::handle::ContainerHandle;
use crate::container::snapshot::Snapshot;
use crate::container::words::Ask;
use crate::context::Context;
use crate::host::Streams;
use crate::operations::Progress;
use crate::settings::Change;

/// Pause between two tries of a health check that a request names without one.
const HEALTH_INTERVAL_MS: u64 = 100;
/// Time to become healthy when a request names none.
const HEALTH_DEADLINE_MS: u64 = 30_000;

fn answer(handle: &ContainerHandle, answered: &Answer) -> StartedContainer {
    let snapshot = handle.snapshot();
    let warnings = match answered {
        Answer::RolledBack => {
            let why = snapshot.record.rolled_back.clone().unwrap_or_default();
            vec![format!("{why}; {} runs again", snapshot.record.image)]
        }
        _ => Vec::new(),
    };
    StartedContainer { container: snapshot.summary(), attach_token: None, warnings }
}

/// Starts a container, or gives a token with which attaching starts it.
#[utoipa::path(post, path = "/v1/containers/{name}/start", tag = "containers", request_body = StartRequest,
    params(("name" = String, Path, description = "Name or id")), responses(
    (status = 200, description = "It runs, or waits for the attachment", body = StartedContainer),
    (status = 409, description = "Something else is under way", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "It did not start", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn start(
    State(context): Shared,
    Path(name): Path<String>,
    Body(request): Body<StartRequest>,
) -> Answered<StartedContainer> {
    let handle = context.directory.find(&name)?;
    if request.attach {
        if handle.snapshot().facts.pid.is_some() {
            return Err(Problem::new(ProblemCode::Conflict, format!("container {name} runs already")).into());
        }
        let token = context.tokens.issue(Purpose::Start(handle.id))?;
        let container = handle.snapshot().summary();
        return Ok(Json(StartedContainer { container, attach_token: Some(token), warnings: Vec::new() }));
    }
    let answered = handle.ask(Ask::Start).await?;
    Ok(Json(answer(&handle, &answered)))
}

fn grace(context: &Context, handle: &ContainerHandle, request: &StopRequest) -> Duration {
    let own = handle.snapshot().spec.stop_timeout_ms;
    Duration::from_millis(request.timeout_ms.or(own).unwrap_or(context.config.defaults.stop_timeout_ms))
}

/// Stops a container: its stop signal, after the time-out the kill. One that does not run is left as it is.
#[utoipa::path(post, path = "/v1/containers/{name}/stop", tag = "containers", request_body = StopRequest,
    params(("name" = String, Path, description = "Name or id")),
    responses((status = 200, description = "It does not run", body = ContainerSummary)))]
pub(super) async fn stop(
    State(context): Shared,
    Path(name): Path<String>,
    Body(request): Body<StopRequest>,
) -> Answered<ContainerSummary> {
    let handle = context.directory.find(&name)?;
    handle.ask(Ask::Stop { grace: grace(&context, &handle, &request) }).await?;
    Ok(Json(handle.snapshot().summary()))
}

/// Stops and starts a container; one that does not run is started.
#[utoipa::path(post, path = "/v1/containers/{name}/restart", tag = "containers", request_body = StopRequest,
    params(("name" = String, Path, description = "Name or id")),
    responses((status = 200, description = "It runs", body = StartedContainer)))]
pub(super) async fn restart(
    State(context): Shared,
    Path(name): Path<String>,
    Body(request): Body<StopRequest>,
) -> Answered<StartedContainer> {
    let handle = context.directory.find(&name)?;
    let answered = handle.ask(Ask::Restart { grace: grace(&context, &handle, &request) }).await?;
    Ok(Json(answer(&handle, &answered)))
}

/// Sends a signal to process 1; `SIGKILL` ends everything in the container.
#[utoipa::path(post, path = "/v1/containers/{name}/kill", tag = "containers", request_body = KillRequest,
    params(("name" = String, Path, description = "Name or id")),
    responses((status = 200, description = "The signal was sent", body = ContainerSummary)))]
pub(super) async fn kill(
    State(context): Shared,
    Path(name): Path<String>,
    Body(request): Body<KillRequest>,
) -> Answered<ContainerSummary> {
    let handle = context.directory.find(&name)?;
    handle.ask(Ask::Kill(request.signal.unwrap_or(Signal::KILL))).await?;
    Ok(Json(handle.snapshot().summary()))
}

/// Freezes every process of a container.
#[utoipa::path(post, path = "/v1/containers/{name}/pause", tag = "containers",
    params(("name" = String, Path, description = "Name or id")),
    responses((status = 200, description = "It is frozen", body = ContainerSummary)))]
pub(super) async fn pause(State(context): Shared, Path(name): Path<String>) -> Answered<ContainerSummary> {
    let handle = context.directory.find(&name)?;
    handle.ask(Ask::Pause).await?;
    Ok(Json(handle.snapshot().summary()))
}

/// Undoes `pause`.
#[utoipa::path(post, path = "/v1/containers/{name}/resume", tag = "containers",
    params(("name" = String, Path, description = "Name or id")),
    responses((status = 200, description = "It runs", body = ContainerSummary)))]
pub(super) async fn resume(State(context): Shared, Path(name): Path<String>) -> Answered<ContainerSummary> {
    let handle = context.directory.find(&name)?;
    handle.ask(Ask::Resume).await?;
    Ok(Json(handle.snapshot().summary()))
}

/// Gives a container another name.
#[utoipa::path(post, path = "/v1/containers/{name}/rename", tag = "containers", request_body = RenameRequest,
    params(("name" = String, Path, description = "Name or id")),
    responses((status = 200, description = "It has the name", body = ContainerSummary)))]
pub(super) async fn rename(
    State(context): Shared,
    Path(name): Path<String>,
    Body(request): Body<RenameRequest>,
) -> Answered<ContainerSummary> {
    let handle = context.directory.find(&name)?;
    handle.send(|answer| Command::Rename { name: request.name, answer }).await?;
    Ok(Json(handle.snapshot().summary()))
}

/// Gives a token with which a client sees a running container, and types into it.
#[utoipa::path(post, path = "/v1/containers/{name}/attach", tag = "containers",
    params(("name" = String, Path, description = "Name or id")), responses(
    (status = 200, description = "Attach to see it", body = CreatedExec),
    (status = 409, description = "It does not run, or is paused", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn attach(State(context): Shared, Path(name): Path<String>) -> Answered<CreatedExec> {
    let handle = context.directory.find(&name)?;
    running(&handle)?;
    let attach_token = context.tokens.issue(Purpose::Attach(handle.id))?;
    Ok(Json(CreatedExec { attach_token }))
}

/// Gives a token with which attaching runs a command in a container.
#[utoipa::path(post, path = "/v1/containers/{name}/exec", tag = "containers", request_body = ExecRequest,
    params(("name" = String, Path, description = "Name or id")), responses(
    (status = 200, description = "Attach to run it", body = CreatedExec),
    (status = 409, description = "It does not run, or is paused", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn exec(
    State(context): Shared,
    Path(name): Path<String>,
    Body(request): Body<ExecRequest>,
) -> Answered<CreatedExec> {
    let handle = context.directory.find(&name)?;
    // Refused here already, before a client has prepared its streams.
    exec_order(&handle, request.clone(), |_| Streams::Detached)?;
    let attach_token = context.tokens.issue(Purpose::Exec(handle.id, Box::new(request)))?;
    Ok(Json(CreatedExec { attach_token }))
}

/// Changes a container's image (to its pending or default version when none is named), restarts it, and takes the change
/// back by itself when it fails. The operation's result is an `UpgradeResult`.
#[utoipa::path(post, path = "/v1/containers/{name}/upgrade", tag = "containers", request_body = UpgradeRequest,
    params(("name" = String, Path, description = "Name or id")),
    responses((status = 202, description = "Under way", body = Operation)))]
pub(super) async fn upgrade(
    State(context): Shared,
    Path(name): Path<String>,
    Body(request): Body<UpgradeRequest>,
) -> Result<(StatusCode, Json<Operation>), Refusal> {
    let handle = context.directory.find(&name)?;
    let record = handle.snapshot().record.clone();
    let image = match (&request.image, &record.next_image) {
        (Some(image), _) => image.clone(),
        (None, Some(pending)) => pending.clone().into(),
        (None, None) => ImageRef { name: record.image.name.clone(), version: None },
    };
    change_image(&context, handle, OperationKind::Upgrade, image, request)
}

/// Takes a pending change of a container's image back, or, when there is none, changes it to the previous one, as
/// `upgrade` does.
#[utoipa::path(post, path = "/v1/containers/{name}/rollback", tag = "containers", request_body = UpgradeRequest,
    params(("name" = String, Path, description = "Name or id")),
    responses((status = 202, description = "Under way", body = Operation)))]
pub(super) async fn rollback(
    State(context): Shared,
    Path(name): Path<String>,
    Body(request): Body<UpgradeRequest>,
) -> Result<(StatusCode, Json<Operation>), Refusal> {
    let handle = context.directory.find(&name)?;
    let record = handle.snapshot().record.clone();
    // Of a change that has yet to prove good, or to be started, the way back is to the version before it.
    let previous = if record.next_image.is_some() { Some(&record.image) } else { record.previous_image.as_ref() };
    let image = match (&request.image, previous) {
        (Some(image), _) => image.clone(),
        (None, Some(previous)) => previous.clone().into(),
        (None, None) => {
            let detail = format!("container {name} has no previous image to go back to");
            return Err(Problem::new(ProblemCode::Conflict, detail).into());
        }
    };
    change_image(&context, handle, OperationKind::Rollback, image, request)
}

fn change_image(
    context: &Arc<Context>,
    handle: ContainerHandle,
    kind: OperationKind,
    image: ImageRef,
    request: UpgradeRequest,
) -> Result<(StatusCode, Json<Operation>), Refusal> {
    let resolved = context.catalog.resolve(&image, Strictness::Strict)?;
    let mut change = Change { image: Some((resolved.image, image)), ..Change::default() };
    if request.health.is_some() || request.deadline_ms.is_some() {
        let snapshot = handle.snapshot();
        let known = change.image.as_ref().and_then(|(image, _)| context.catalog.health(image, &snapshot.spec));
        change.trial_health = match (request.health, known) {
            (Some(command), _) => Some(HealthCheck {
                command,
                interval_ms: HEALTH_INTERVAL_MS,
                deadline_ms: request.deadline_ms.unwrap_or(HEALTH_DEADLINE_MS),
                timeout_ms: None,
                retries: None,
            }),
            (None, Some(check)) => {
                Some(HealthCheck { deadline_ms: request.deadline_ms.unwrap_or(check.deadline_ms), ..check })
            }
            (None, None) => None,
        };
    }
    let grace = grace(context, &handle, &StopRequest::default());
    let subject = handle.snapshot().record.name.to_string();
    let work = move |progress| carry_out_change(handle, kind, change, grace, progress);
    let operation = context.operations.begin(kind, subject, None, work)?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}

/// Whether what `change` wants is the last good version, and runs.
fn runs_already(snapshot: &Snapshot, change: &Change) -> bool {
    let wanted = change.image.as_ref().map(|(image, _)| image);
    wanted == Some(&snapshot.record.image) && snapshot.facts.image.as_ref() == wanted
}

async fn carry_out_change(
    handle: ContainerHandle,
    kind: OperationKind,
    change: Change,
    grace: Duration,
    progress: Progress,
) -> Result<serde_json::Value, Problem> {
    let snapshot = handle.snapshot();
    let change = Box::new(change);
    let answered = if kind == OperationKind::Rollback && runs_already(&snapshot, &change) {
        // The change that is taken back never ran.
        handle.send(|answer| Command::Set { change, answer }).await?
    } else {
        if snapshot.is_up() {
            progress.report("restarting and checking health", 0, None);
        }
        handle.send(|answer| Command::Upgrade { change, grace, answer }).await?
    };
    let snapshot = handle.snapshot();
    let rolled_back = match answered {
        Answer::RolledBack => Some(snapshot.record.rolled_back.clone().unwrap_or_default()),
        _ => None,
    };
    let result = UpgradeResult {
        image: snapshot.record.image.clone(),
        previous_image: snapshot.record.previous_image.clone(),
        next_image: snapshot.record.next_image.clone(),
        rolled_back,
    };
    serde_json::to_value(result).map_err(|error| Problem::from_chain(ProblemCode::Internal, &error))
}
