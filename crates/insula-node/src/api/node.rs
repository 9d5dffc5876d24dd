//! The node itself: version, doctor, who is it.

use axum::Json;
use axum::extract::State;
use insula_api::{NodeReport, Problem, VersionView, WhoisAnswer, WhoisQuery};

use super::Shared;
use super::extract::{Answered, Query};
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

/// Which container a process, address, path or group belongs to.
#[utoipa::path(get, path = "/v1/whois", tag = "node", params(WhoisQuery), responses(
    (status = 200, description = "The container", body = WhoisAnswer),
    (status = 404, description = "It is no container's", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn whois(State(context): Shared, Query(query): Query<WhoisQuery>) -> Answered<WhoisAnswer> {
    Ok(Json(whois::answer(&context, &query)?))
}
