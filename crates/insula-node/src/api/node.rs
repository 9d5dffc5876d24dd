//! The node itself: version, doctor, who is it.

use axum::Json;
use axum::extract::State;
use insula_api::{
    Finding, FindingLevel, NodeBackup, NodeReport, Problem, ProblemCode, TemplateView, VersionView, WhoisAnswer,
    WhoisQuery,
};
use insula_model::{Bytes, TemplateName};

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
    let mut findings = context.host.findings().await;
    findings.extend(context.images.findings());
    findings.extend(context.images.room().finding());
    findings.push(context.config.socket_group.finding(&context.config.socket));
    let sizes = context.directory.all().into_iter().map(|handle| handle.snapshot().spec.resources.data_size);
    findings.push(data_finding(context.config.defaults.data_size, sizes));
    Ok(Json(NodeReport { findings }))
}

/// Whether the data of containers have a bound, by the node's default and what there is.
fn data_finding(default: Option<Bytes>, sizes: impl Iterator<Item = Option<Bytes>>) -> Finding {
    let (bounded, unbounded) = sizes.fold((0, 0), |(bounded, unbounded), size| match size {
        Some(_) => (bounded + 1, unbounded),
        None => (bounded, unbounded + 1),
    });
    let subject = "data of containers".to_owned();
    if let Some(default) = default {
        let detail = format!("bounded: {default} for each that does not say otherwise");
        return Finding { subject, level: FindingLevel::Good, detail, remedy: None };
    }
    let detail = format!(
        "not bounded: {unbounded} of {} containers have no data.size, and one of them can fill the node's file system",
        bounded + unbounded
    );
    let remedy = "set defaults.data_size in node.toml and restart the daemon (a start then takes about twice as long), or \
                  data.size of single containers and templates";
    Finding { subject, level: FindingLevel::Warning, detail, remedy: Some(remedy.to_owned()) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_without_a_bound_are_warned_of_with_how_many_and_what_to_do() {
        let finding = data_finding(None, [Some(Bytes::mib(8)), None, None].into_iter());
        assert_eq!(finding.level, FindingLevel::Warning);
        assert!(finding.detail.contains("2 of 3 containers"), "{}", finding.detail);
        assert!(finding.remedy.unwrap().contains("defaults.data_size"));
        let finding = data_finding(Some(Bytes::mib(64)), [None].into_iter());
        assert_eq!((finding.level, finding.remedy), (FindingLevel::Good, None));
        assert!(finding.detail.contains("64MiB"), "{}", finding.detail);
    }
}
