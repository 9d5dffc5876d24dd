//! The node itself: run one, ask one.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use insula_api::{FindingLevel, NodeBackup, NodeReport, TemplateView, VersionView, paths};
use insula_model::TemplateName;
use serde::Serialize;

use super::Session;
use crate::args::{NodeRestoreArgs, NodeRunArgs, NodeTuneArgs};
use crate::failure::{Failure, chain};
use crate::render::{Cell, Printer, Table, tell_failure};

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

/// `node backup`: the file is there as a whole or not at all.
pub(super) async fn backup(session: &mut Session, file: &Path) -> Result<u8, Failure> {
    let backup: NodeBackup = session.client.get(paths::BACKUP).await?;
    let failed = |action| move |source| Failure::File { action, path: file.to_owned(), source };
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = file.with_file_name(name);
    let text = serde_json::to_vec(&backup).map_err(|error| failed("write")(error.into()))?;
    let mut options = std::fs::File::options();
    let mut out = options.write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(failed("write"))?;
    out.write_all(&text).and_then(|()| out.sync_all()).map_err(failed("write"))?;
    std::fs::rename(&new, file).map_err(failed("replace"))?;
    told(&session.printer, &backup.node, backup.containers.len())?;
    Ok(0)
}

/// `node restore`
pub(super) fn restore(args: NodeRestoreArgs, printer: Printer) -> Result<u8, Failure> {
    let NodeRestoreArgs { node: NodeRunArgs { config, name, state_dir, run_dir }, file } = args;
    let overrides = insula_node::Overrides { name, state_dir, run_dir, socket: None };
    let config = insula_node::Config::load(config.as_deref(), overrides)
        .map_err(|error| Failure::argument("node restore", chain(&error)))?;
    let containers = insula_node::restore(&config, &file).map_err(|error| Failure::Restore(Box::new(error)))?;
    told(&printer, config.name.as_str(), containers)?;
    Ok(0)
}

/// A limit of the machine.
#[derive(Debug, Serialize)]
struct Tuned {
    name: String,
    before: u64,
    wanted: u64,
    after: u64,
    bounds: &'static str,
}

/// `node tune`
pub(super) fn tune(args: &NodeTuneArgs, printer: Printer) -> Result<u8, Failure> {
    let config = insula_node::Config::load(args.config.as_deref(), insula_node::Overrides::default())
        .map_err(|error| Failure::argument("node tune", chain(&error)))?;
    let mut tuned = Vec::new();
    for limit in insula_node::host_limits(&config.capacity) {
        let Some(before) = limit.now() else { continue };
        if args.apply {
            limit.raise().map_err(|source| Failure::File { action: "write", path: limit.path(), source })?;
        }
        let after = limit.now().unwrap_or(before);
        tuned.push(Tuned { wanted: limit.wanted, bounds: limit.bounds, name: limit.name, before, after });
    }
    let mut table = Table::new(["LIMIT", "BEFORE", "WANTED", "AFTER", "BOUNDS"]);
    for row in &tuned {
        let [before, wanted, after] = [row.before, row.wanted, row.after].map(|value| Cell::from(value.to_string()));
        table.push([Cell::from(row.name.as_str()), before, wanted, after, Cell::from(row.bounds)]);
    }
    printer.listing(&tuned, &table)?;
    Ok(0)
}

/// Whose intent it is, and how much of it.
#[derive(Debug, Serialize)]
struct Copied<'a> {
    node: &'a str,
    containers: usize,
}

fn told(printer: &Printer, node: &str, containers: usize) -> Result<(), Failure> {
    let mut table = Table::new(["NODE", "CONTAINERS"]);
    table.push([Cell::from(node), Cell::from(containers.to_string())]);
    printer.value(&Copied { node, containers }, &table)
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
