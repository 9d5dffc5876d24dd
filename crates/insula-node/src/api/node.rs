//! The node itself: version, doctor, who is it.

use axum::Json;
use axum::extract::State;
use insula_api::{NodeBackup, NodeReport, Problem, ProblemCode, TemplateView, VersionView, WhoisAnswer, WhoisQuery};
use insula_model::TemplateName;

use super::Shared;
use super::extract::{Answered, Path, Query};
use crate::whois;

/// Version of the API.
const API_VERSION: &str = "1.0";

/// Version of the daemon, the API and the kernel.
#[utoipa::path(get, path = "/v1/version", tag = "node",
    responses((status = 200, description = "Versions", body = VersionView)))]
pub(super) async fn version(State(context): Shared) -> Answered<VersionView> {
    Ok(Json(VersionView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api: API_VERSION.to_owned(),
        node: context.config.name.to_string(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
    }))
}

/// What this machine has and lacks for containers.
#[utoipa::path(get, path = "/v1/doctor", tag = "node",
    responses((status = 200, description = "Findings", body = NodeReport)))]
pub(super) async fn doctor(State(context): Shared) -> Answered<NodeReport> {
    Ok(Json(NodeReport { findings: context.host.findings().await }))
}

/// A copy of what the node is to have: containers with their configuration, not their data.
#[utoipa::path(get, path = "/v1/backup", tag = "node",
    responses((status = 200, description = "Of one moment", body = NodeBackup)))]
pub(super) async fn backup(State(context): Shared) -> Answered<NodeBackup> {
    let work = tokio::task::spawn_blocking(move || context.store.back_up(context.config.name.as_str()));
    let failed = |error: &dyn std::fmt::Display| Problem::new(ProblemCode::Internal, format!("backup: {error}"));
    let backup = work.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    Ok(Json(backup))
}

/// Templates of the node's configuration.
#[utoipa::path(get, path = "/v1/templates", tag = "node",
    responses((status = 200, description = "In the order of their names", body = Vec<TemplateView>)))]
pub(super) async fn templates(State(context): Shared) -> Answered<Vec<TemplateView>> {
    let config = &context.config;
    let views = config.templates.names().map(|name| config.view_template(name)).collect::<Result<_, _>>()?;
    Ok(Json(views))
}

/// One template, with what it has from its ancestors and the node.
#[utoipa::path(get, path = "/v1/templates/{name}", tag = "node",
    params(("name" = String, Path, description = "Name")), responses(
    (status = 200, description = "The template", body = TemplateView),
    (status = 404, description = "Not found", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn template(State(context): Shared, Path(name): Path<String>) -> Answered<TemplateView> {
    let name = TemplateName::new(name).map_err(|error| Problem::from_chain(ProblemCode::Invalid, &error))?;
    Ok(Json(context.config.view_template(&name)?))
}

/// Which container a process, address, path or group belongs to.
#[utoipa::path(get, path = "/v1/whois", tag = "node", params(WhoisQuery), responses(
    (status = 200, description = "The container", body = WhoisAnswer),
    (status = 404, description = "It is no container's", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn whois(State(context): Shared, Query(query): Query<WhoisQuery>) -> Answered<WhoisAnswer> {
    Ok(Json(whois::answer(&context, &query)?))
}
