//! Long actions: list, look, wait, cancel.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use insula_api::{Operation, Problem};
use serde::Deserialize;
use uuid::Uuid;

use super::Shared;
use super::extract::{Answered, Path, Query};

/// Longest wait of one request, in milliseconds; clients ask again.
const WAIT_MS_MAX: u64 = 60_000;

/// How long to wait.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct OperationWaitQuery {
    /// Most milliseconds, 60,000 at most.
    #[serde(default)]
    timeout_ms: Option<u64>,
    /// Lines of output that the caller has seen: when there are more, the answer comes at once.
    #[serde(default)]
    lines: Option<u64>,
}

/// Lists long actions, oldest first.
#[utoipa::path(get, path = "/v1/operations", tag = "operations",
    responses((status = 200, description = "Long actions", body = Vec<Operation>)))]
pub(super) async fn list(State(context): Shared) -> Answered<Vec<Operation>> {
    Ok(Json(context.operations.all()))
}

/// Shows a long action.
#[utoipa::path(get, path = "/v1/operations/{id}", tag = "operations", params(("id" = Uuid, Path)), responses(
    (status = 200, description = "The action", body = Operation),
    (status = 404, description = "Not found", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn show(State(context): Shared, Path(id): Path<Uuid>) -> Answered<Operation> {
    Ok(Json(context.operations.get(id)?))
}

/// Asks a long action to stop. It has stopped when its state says so.
#[utoipa::path(delete, path = "/v1/operations/{id}", tag = "operations", params(("id" = Uuid, Path)),
    responses((status = 200, description = "The action now", body = Operation)))]
pub(super) async fn cancel(State(context): Shared, Path(id): Path<Uuid>) -> Answered<Operation> {
    Ok(Json(context.operations.cancel(id)?))
}

/// Waits until a long action has ended or is further than now; answers with it, at the latest after the time-out.
#[utoipa::path(get, path = "/v1/operations/{id}/wait", tag = "operations",
    params(("id" = Uuid, Path), OperationWaitQuery),
    responses((status = 200, description = "The action now", body = Operation)))]
pub(super) async fn wait(
    State(context): Shared,
    Path(id): Path<Uuid>,
    Query(query): Query<OperationWaitQuery>,
) -> Answered<Operation> {
    let most = Duration::from_millis(query.timeout_ms.unwrap_or(WAIT_MS_MAX).min(WAIT_MS_MAX));
    match tokio::time::timeout(most, context.operations.changed(id, query.lines)).await {
        Ok(changed) => Ok(Json(changed?)),
        Err(_) => Ok(Json(context.operations.get(id)?)),
    }
}
