//! Containers: list, show, set, delete, and what is asked about them.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use insula_api::{
    ContainerSummary, ContainerView, DeleteQuery, ListQuery, Problem, ProblemCode, ProcessRow, ResourceUsage,
    SetRequest, SetResult, WaitCondition, WaitQuery, WaitResult,
};
use insula_model::ContainerState;

use super::Shared;
use super::create::expect_time_zone;
use super::extract::{Answered, Body, Path, Query, Refusal};
use crate::container::command::Command;
use crate::container::snapshot::Snapshot;
use crate::container::words::{Ask, Force};
use crate::context::Context;
use crate::{rights, settings};

/// Lists containers.
#[utoipa::path(get, path = "/v1/containers", tag = "containers", params(ListQuery),
    responses((status = 200, description = "In the order of their names", body = Vec<ContainerSummary>)))]
pub(super) async fn list(State(context): Shared, Query(query): Query<ListQuery>) -> Answered<Vec<ContainerSummary>> {
    let filters = parse_filters(query.filter.as_deref().unwrap_or_default())?;
    let mut summaries: Vec<ContainerSummary> = context
        .directory
        .snapshots()
        .into_iter()
        .filter(|snapshot| snapshot.state.is_some())
        .map(|snapshot| snapshot.summary())
        .filter(|summary| filters.iter().all(|filter| filter.matches(summary)))
        .collect();
    summaries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Json(summaries))
}

#[derive(Debug)]
enum Filter {
    State(ContainerState),
    Name(String),
    Image(String),
    Label(String, Option<String>),
}

impl Filter {
    fn matches(&self, summary: &ContainerSummary) -> bool {
        match self {
            Self::State(state) => summary.state == *state,
            Self::Name(prefix) => summary.name.as_str().starts_with(prefix.as_str()),
            Self::Image(image) => summary.image.to_string() == *image || summary.image.name.as_str() == image,
            Self::Label(key, value) => {
                summary.labels.get(key).is_some_and(|found| value.as_ref().is_none_or(|value| found == value))
            }
        }
    }
}

fn parse_filters(text: &str) -> Result<Vec<Filter>, Problem> {
    let invalid = |part: &str| {
        Problem::new(ProblemCode::Invalid, format!("filter `{}` is unknown", part.escape_debug()))
            .with_remedy("use state=STATE, name=PREFIX, image=NAME[@VERSION] or label=KEY[:VALUE]")
    };
    let parse = |part: &str| {
        let (key, value) = part.split_once('=').ok_or_else(|| invalid(part))?;
        match key {
            "state" => {
                let state = serde_json::from_value(value.into()).map_err(|_| unknown_state(value))?;
                Ok(Filter::State(state))
            }
            "name" => Ok(Filter::Name(value.to_owned())),
            "image" => Ok(Filter::Image(value.to_owned())),
            "label" => Ok(match value.split_once([':', '=']) {
                Some((key, value)) => Filter::Label(key.to_owned(), Some(value.to_owned())),
                None => Filter::Label(value.to_owned(), None),
            }),
            _ => Err(invalid(part)),
        }
    };
    text.split(',').filter(|part| !part.is_empty()).map(parse).collect()
}

fn unknown_state(given: &str) -> Problem {
    Problem::new(ProblemCode::Invalid, format!("filter: no container is ever `{}`", given.escape_debug())).with_remedy(
        format!("use state= with one of {}", ContainerState::ALL.map(|state| state.to_string()).join(", ")),
    )
}

/// Shows one container.
#[utoipa::path(get, path = "/v1/containers/{name}", tag = "containers",
    params(("name" = String, Path, description = "Name or id")), responses(
    (status = 200, description = "The container", body = ContainerView),
    (status = 404, description = "Not found", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn show(State(context): Shared, Path(name): Path<String>) -> Answered<ContainerView> {
    let snapshot = context.directory.find(&name)?.snapshot();
    let image = snapshot.facts.image.as_ref().unwrap_or(&snapshot.record.image);
    let config = context.catalog.get(image).map(|view| view.config.clone()).unwrap_or_default();
    let data_path = context.config.data_path(snapshot.record.id);
    let disk = context.config.disk_path(snapshot.record.id);
    let data_path = if disk.exists() { disk } else { data_path }.display().to_string();
    let mut view = snapshot.view(data_path, settings::effective_command(&snapshot.spec, &config));
    if let Ok(resolved) = context.config.resolve(&snapshot.record.spec) {
        view.resource_origins = rights::origins(&resolved);
    }
    context.config.show_files_limit(&mut view.effective_resources, &mut view.resource_origins);
    if snapshot.is_up() {
        view.usage = context.host.usage(snapshot.record.id).await.ok();
    }
    Ok(Json(view))
}

/// Changes settings of a container: all of them or none.
#[utoipa::path(patch, path = "/v1/containers/{name}", tag = "containers", request_body = SetRequest,
    params(("name" = String, Path, description = "Name or id")),
    responses((status = 200, description = "Taken", body = SetResult)))]
pub(super) async fn set(
    State(context): Shared,
    Path(name): Path<String>,
    Body(request): Body<SetRequest>,
) -> Answered<SetResult> {
    let handle = context.directory.find(&name)?;
    let snapshot = handle.snapshot();
    let (change, result) = settings::check(&context, &snapshot, &request.settings)?;
    if let Some(zone) = request.settings.get("timezone").filter(|zone| !zone.is_empty()) {
        let image = change.image.as_ref().map_or_else(|| snapshot.record.wanted_image(), |(image, _)| image);
        expect_time_zone(&context, image, zone).await?;
    }
    handle.send(|answer| Command::Set { change: Box::new(change), answer }).await?;
    Ok(Json(result))
}

/// Deletes a container with its data.
#[utoipa::path(delete, path = "/v1/containers/{name}", tag = "containers",
    params(("name" = String, Path, description = "Name or id"), DeleteQuery), responses(
    (status = 204, description = "It is gone"),
    (status = 409, description = "It runs", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn delete(
    State(context): Shared,
    Path(name): Path<String>,
    Query(query): Query<DeleteQuery>,
) -> Result<StatusCode, Refusal> {
    let handle = context.directory.find(&name)?;
    handle.ask(Ask::Delete(if query.force { Force::Yes } else { Force::No })).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Deletes every container that does not run; answers with their names.
#[utoipa::path(post, path = "/v1/prune", tag = "containers",
    responses((status = 200, description = "Names of what was deleted", body = Vec<String>)))]
pub(super) async fn prune(State(context): Shared) -> Answered<Vec<String>> {
    let mut deleted = Vec::new();
    for handle in context.directory.all() {
        let at_rest = Some(ContainerState::Stopped) == handle.state() || Some(ContainerState::Failed) == handle.state();
        let name = handle.snapshot().record.name.to_string();
        // Between the look and the request it may have been started or deleted; then it is not ours to prune.
        if at_rest && handle.ask(Ask::Delete(Force::No)).await.is_ok() {
            deleted.push(name);
        }
    }
    Ok(Json(deleted))
}

/// Waits until a condition holds.
#[utoipa::path(get, path = "/v1/containers/{name}/wait", tag = "containers",
    params(("name" = String, Path, description = "Name or id"), WaitQuery), responses(
    (status = 200, description = "It holds", body = WaitResult),
    (status = 409, description = "It did not hold in time", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn wait(
    State(context): Shared,
    Path(name): Path<String>,
    Query(query): Query<WaitQuery>,
) -> Answered<WaitResult> {
    let handle = context.directory.find(&name)?;
    let condition = query.condition;
    if condition == WaitCondition::Healthy {
        expect_health_check(&context, &handle.snapshot())?;
    }
    let holds = handle.wait_for(move |snapshot| match condition {
        WaitCondition::Stopped => {
            matches!(snapshot.state, Some(ContainerState::Created | ContainerState::Stopped | ContainerState::Failed))
        }
        WaitCondition::Running => snapshot.state == Some(ContainerState::Running),
        WaitCondition::Healthy => snapshot.healthy == Some(true),
        WaitCondition::Deleted => false,
    });
    let snapshot = match query.timeout_ms {
        None => holds.await,
        Some(timeout) => tokio::time::timeout(Duration::from_millis(timeout), holds).await.map_err(|_| {
            Problem::new(ProblemCode::Conflict, format!("container {name}: the condition did not hold in {timeout} ms"))
        })?,
    };
    Ok(Json(WaitResult { state: snapshot.state, exit_code: snapshot.facts.exit_code }))
}

/// Who has no check never becomes healthy.
fn expect_health_check(context: &Context, snapshot: &Snapshot) -> Result<(), Problem> {
    let image = snapshot.facts.image.as_ref().unwrap_or(&snapshot.record.image);
    if snapshot.healthy.is_some() || context.catalog.health(image, &snapshot.record.spec).is_some() {
        return Ok(());
    }
    let name = &snapshot.record.name;
    Err(Problem::new(ProblemCode::Conflict, format!("container {name} has no health check, nor has its image"))
        .with_remedy(format!("insula set {name} health.command=…")))
}

/// What a running container holds now.
#[utoipa::path(get, path = "/v1/containers/{name}/stats", tag = "containers",
    params(("name" = String, Path, description = "Name or id")),
    responses((status = 200, description = "Use of resources", body = ResourceUsage)))]
pub(super) async fn stats(State(context): Shared, Path(name): Path<String>) -> Answered<ResourceUsage> {
    let snapshot = context.directory.find(&name)?.snapshot();
    if !snapshot.is_up() {
        return Err(Problem::new(ProblemCode::Conflict, format!("container {name} is not running")).into());
    }
    Ok(Json(context.host.usage(snapshot.record.id).await?))
}

/// Processes of a running container.
#[utoipa::path(get, path = "/v1/containers/{name}/top", tag = "containers",
    params(("name" = String, Path, description = "Name or id")),
    responses((status = 200, description = "Its processes", body = Vec<ProcessRow>)))]
pub(super) async fn top(State(context): Shared, Path(name): Path<String>) -> Answered<Vec<ProcessRow>> {
    let snapshot = context.directory.find(&name)?.snapshot();
    if !snapshot.is_up() {
        return Err(Problem::new(ProblemCode::Conflict, format!("container {name} is not running")).into());
    }
    Ok(Json(context.host.processes(snapshot.record.id, snapshot.record.ids).await?))
}

/// Published ports of a container.
#[utoipa::path(get, path = "/v1/containers/{name}/ports", tag = "containers",
    params(("name" = String, Path, description = "Name or id")),
    responses((status = 200, description = "As `[IP:]HOST:CONTAINER[/udp]`", body = Vec<String>)))]
pub(super) async fn ports(State(context): Shared, Path(name): Path<String>) -> Answered<Vec<String>> {
    Ok(Json(context.directory.find(&name)?.snapshot().summary().ports))
}
