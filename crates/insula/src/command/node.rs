//! The node itself: run one, ask one.

use std::path::PathBuf;

use insula_api::{FindingLevel, NodeReport, TemplateView, VersionView, paths};
use insula_model::TemplateName;
use serde::Serialize;

use super::Session;
use crate::args::NodeRunArgs;
use crate::failure::{Failure, chain};
use crate::render::{Cell, Table, tell_failure};

/// `node run`: until it is told to end.
pub(super) fn run(args: NodeRunArgs, socket: Option<PathBuf>) -> Result<u8, Failure> {
    let NodeRunArgs { config, name, state_dir, run_dir } = args;
    let overrides = insula_node::Overrides { name, state_dir, run_dir, socket };
    let config = insula_node::Config::load(config.as_deref(), overrides)
        .map_err(|error| Failure::argument("node run", chain(&error)))?;
    insula_node::run(config).map(|()| 0).map_err(|error| Failure::Node(Box::new(error)))
}

/// Versions of both sides.
#[derive(Debug, Serialize)]
struct Versions {
    client: &'static str,
    node: Option<VersionView>,
}

/// `version`: without a node the program's own, and a failure that says that no node answers.
pub(super) async fn version(session: &mut Session) -> Result<u8, Failure> {
    let asked = session.client.get::<VersionView>(paths::VERSION).await;
    let (node, failure) = match asked {
        Ok(node) => (Some(node), None),
        Err(error) => (None, Some(Failure::from(error))),
    };
    let versions = Versions { client: env!("CARGO_PKG_VERSION"), node };
    let mut table = Table::new(["PART", "VERSION"]);
    table.push([Cell::from("client"), Cell::from(versions.client)]);
    if let Some(node) = &versions.node {
        table.push([Cell::from("node"), Cell::from(node.version.as_str())]);
        table.push([Cell::from("api"), Cell::from(node.api.as_str())]);
        table.push([Cell::from("name"), Cell::from(node.node.as_str())]);
        table.push([Cell::from("kernel"), Cell::from(node.kernel.as_str())]);
    }
    session.printer.value(&versions, &table)?;
    if let Some(failure) = failure {
        // The program's own version was asked for too, and given.
        tell_failure(&failure);
    }
    Ok(0)
}

/// `template list`
pub(super) async fn templates(session: &mut Session) -> Result<u8, Failure> {
    let views: Vec<TemplateView> = session.client.get(paths::TEMPLATES).await?;
    let mut table = Table::new(["NAME", "FROM", "LIMITS"]);
    for view in &views {
        let limits: Vec<String> =
            view.resources.values().into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        table.push([Cell::from(view.name.as_str()), Cell::optional(view.from.as_ref()), Cell::from(limits.join(" "))]);
    }
    session.printer.listing(&views, &table)?;
    Ok(0)
}

/// `template show`
pub(super) async fn template(session: &mut Session, name: &TemplateName) -> Result<u8, Failure> {
    let view: TemplateView = session.client.get(&paths::template(name.as_str())).await?;
    let mut table = Table::new(["SETTING", "VALUE", "FROM"]);
    for (key, value) in view.resources.values() {
        let origin = view.origins.get(&key);
        table.push([Cell::from(key), Cell::from(value), Cell::optional(origin)]);
    }
    session.printer.value(&view, &table)?;
    Ok(0)
}

/// `doctor`: fails if something will not work.
pub(super) async fn doctor(session: &mut Session) -> Result<u8, Failure> {
    let report: NodeReport = session.client.get(paths::DOCTOR).await?;
    let mut table = Table::new(["LEVEL", "SUBJECT", "FINDING", "REMEDY"]);
    for finding in &report.findings {
        let level = match finding.level {
            FindingLevel::Good => "good",
            FindingLevel::Warning => "warning",
            FindingLevel::Failure => "failure",
        };
        table.push([
            Cell::from(level),
            Cell::from(finding.subject.as_str()),
            Cell::from(finding.detail.as_str()),
            Cell::optional(finding.remedy.as_ref()),
        ]);
    }
    session.printer.value(&report, &table)?;
    let failures = report.findings.iter().filter(|finding| finding.level == FindingLevel::Failure).count();
    if failures == 0 {
        return Ok(0);
    }
    Err(Failure::Negative {
        finding: format!("{failures} of {} findings will keep something from working", report.findings.len()),
        remedy: None,
    })
}
