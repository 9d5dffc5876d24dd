//! Looking at containers.

use std::fmt::Display;

use insula_api::{
    ContainerSummary, ContainerView, ProcessRow, WaitCondition, WaitQuery, WaitResult, WhoisAnswer, paths,
};
use insula_model::{ContainerState, ImageId};
use jiff::Timestamp;

use super::{Session, container_path, each, verb_path};
use crate::args::{ListArgs, NameArgs, NamesArgs, WaitArgs, WhoisArgs};
use crate::client::with_query;
use crate::failure::Failure;
use crate::render::{Cell, Table, age, print, size};
use crate::values::milliseconds;

/// `list`
pub(super) async fn list(session: &mut Session, args: ListArgs) -> Result<u8, Failure> {
    let filters: Vec<String> = args.filter.iter().map(|pair| format!("{}={}", pair.key, pair.value)).collect();
    if let Some(bad) = args.filter.iter().find(|pair| pair.value.contains(',')) {
        return Err(Failure::argument(format!("--filter {}", bad.key), "values of filters have no commas"));
    }
    let filter = (!filters.is_empty()).then(|| filters.join(","));
    let items: Vec<ContainerSummary> =
        session.client.get(&with_query(paths::CONTAINERS, &[("filter", filter)])).await?;
    session.printer.listing(&items, &summaries(&items, Timestamp::now()))?;
    Ok(0)
}

fn summaries(items: &[ContainerSummary], now: Timestamp) -> Table {
    let mut table = Table::new(["NAME", "STATE", "IMAGE", "ADDRESS", "PORTS", "PID", "EXIT CODE", "STARTED", "ID"]);
    for item in items {
        table.push([
            Cell::from(item.name.as_str()),
            Cell::two(state(item), item.state.to_string()),
            Cell::two(image(item), item.image.to_string()),
            Cell::optional(item.address.as_ref()),
            Cell::two(if item.ports.is_empty() { "-".to_owned() } else { item.ports.join(" ") }, item.ports.join(" ")),
            Cell::optional(item.pid),
            Cell::optional(item.exit_code.filter(|_| !is_up(item.state))),
            when(item.started, now),
            Cell::two(item.id.to_string().chars().take(8).collect::<String>(), item.id.to_string()),
        ]);
    }
    table
}

fn image(item: &ContainerSummary) -> String {
    image_with_next(&item.image, item.next_image.as_ref())
}

/// What runs or ran last, and what is pending.
pub(super) fn image_with_next(image: &ImageId, next: Option<impl Display>) -> String {
    next.map_or_else(|| image.to_string(), |next| format!("{image} -> {next}"))
}

/// With what the health check says, for people.
fn state(item: &ContainerSummary) -> String {
    let health = item.health.map(|health| format!(" ({health})"));
    format!("{}{}", item.state, health.unwrap_or_default())
}

fn is_up(state: ContainerState) -> bool {
    matches!(state, ContainerState::Running | ContainerState::Paused | ContainerState::Stopping)
}

fn when(time: Option<Timestamp>, now: Timestamp) -> Cell {
    time.map_or_else(|| Cell::two("-", ""), |time| Cell::two(format!("{} ago", age(time, now)), time.to_string()))
}

/// `show`
pub(super) async fn show(session: &mut Session, args: NamesArgs) -> Result<u8, Failure> {
    let mut views: Vec<ContainerView> = Vec::new();
    for name in &args.names {
        views.push(session.client.get(&container_path(name)).await?);
    }
    let mut table = if session.printer.quiet { Table::new(["NAME"]) } else { Table::new(["FIELD", "VALUE"]) };
    for view in &views {
        if session.printer.quiet {
            table.push([Cell::from(view.summary.name.as_str())]);
        } else {
            details(&mut table, view, Timestamp::now());
        }
    }
    match &views[..] {
        [view] => session.printer.value(view, &table)?,
        views => session.printer.listing(views, &table)?,
    }
    Ok(0)
}

fn details(table: &mut Table, view: &ContainerView, now: Timestamp) {
    let summary = &view.summary;
    let mut row = |field: &str, value: Cell| table.push([Cell::from(field), value]);
    row("name", Cell::from(summary.name.as_str()));
    row("id", Cell::from(summary.id.to_string()));
    row("state", Cell::two(state(summary), summary.state.to_string()));
    row("reason", Cell::optional(summary.reason.as_ref()));
    row("image", Cell::two(image(summary), summary.image.to_string()));
    row("previous image", Cell::optional(summary.previous_image.as_ref()));
    row("pid", Cell::optional(summary.pid));
    row("exit code", Cell::optional(summary.exit_code));
    row("address", Cell::optional(summary.address.as_ref()));
    row("address6", Cell::optional(summary.address6.as_ref()));
    row("ports", Cell::from(summary.ports.join(" ")));
    row("created", when(Some(summary.created), now));
    row("started", when(summary.started, now));
    row("finished", when(summary.finished, now));
    row("restart", Cell::from(view.spec.restart.to_string()));
    row("restarts", Cell::from(summary.restarts.to_string()));
    row("command", Cell::from(view.effective_command.join(" ")));
    row("uid base", Cell::from(summary.uid_base.to_string()));
    row("cgroup", Cell::from(summary.cgroup.as_str()));
    for (key, value) in view.effective_resources.values() {
        let origin = view.resource_origins.get(&key).map_or_else(String::new, |origin| format!(" ({origin})"));
        row(&key, Cell::two(format!("{value}{origin}"), value));
    }
    row("data", Cell::from(view.data_path.as_str()));
    for volume in &view.spec.volumes {
        row("volume", Cell::from(volume.to_string()));
    }
    for (key, value) in &summary.labels {
        row("label", Cell::from(format!("{key}={value}")));
    }
    if let Some(usage) = &view.usage {
        row("memory", Cell::two(size(usage.memory_bytes), usage.memory_bytes.to_string()));
        row("processes", Cell::from(usage.pids.to_string()));
    }
}

/// `top`
pub(super) async fn top(session: &mut Session, args: NameArgs) -> Result<u8, Failure> {
    let rows: Vec<ProcessRow> = session.client.get(&verb_path(&args.name, "top")).await?;
    let mut table = Table::new(["PID", "INNER PID", "PARENT", "UID", "STATE", "MEMORY", "CPU MS", "COMMAND"]);
    for row in &rows {
        table.push([
            Cell::from(row.pid.to_string()),
            Cell::from(row.inner_pid.to_string()),
            Cell::from(row.parent.to_string()),
            Cell::from(row.uid.to_string()),
            Cell::from(row.state.as_str()),
            Cell::two(size(row.resident_bytes), row.resident_bytes.to_string()),
            Cell::from(row.cpu_ms.to_string()),
            Cell::from(row.command.as_str()),
        ]);
    }
    session.printer.listing(&rows, &table)?;
    Ok(0)
}

/// `port`
pub(super) async fn port(session: &mut Session, args: NameArgs) -> Result<u8, Failure> {
    let ports: Vec<String> = session.client.get(&verb_path(&args.name, "ports")).await?;
    let mut table = Table::new(["PORT"]);
    ports.iter().for_each(|port| table.push([Cell::from(port.as_str())]));
    session.printer.listing(&ports, &table)?;
    Ok(0)
}

/// `whois`
pub(super) async fn whois(session: &mut Session, args: WhoisArgs) -> Result<u8, Failure> {
    let question = question(args);
    let answer: WhoisAnswer = session.client.get(&with_query(paths::WHOIS, &question)).await?;
    let mut table = Table::new(["NAME", "ID", "BY"]);
    table.push([Cell::from(answer.name.as_str()), Cell::from(answer.id.to_string()), Cell::from(answer.by.as_str())]);
    session.printer.value(&answer, &table)?;
    Ok(0)
}

/// Which of the four questions is asked. A bare number is a process, what begins with `/` a path.
fn question(args: WhoisArgs) -> [(&'static str, Option<String>); 4] {
    let (mut pid, mut address, mut path) = (args.pid.map(|pid| pid.to_string()), args.address, args.path);
    if let Some(what) = args.what {
        if what.starts_with('/') {
            path = Some(what);
        } else if what.bytes().all(|byte| byte.is_ascii_digit()) {
            pid = Some(what);
        } else {
            address = Some(what);
        }
    }
    [("pid", pid), ("address", address), ("path", path), ("gid", args.gid.map(|gid| gid.to_string()))]
}

/// `wait`
pub(super) async fn wait(session: &Session, args: WaitArgs) -> Result<u8, Failure> {
    let query = WaitQuery { condition: args.condition.into(), timeout_ms: args.timeout.map(milliseconds) };
    let condition = serde_json::to_value(query.condition).ok().and_then(|value| value.as_str().map(str::to_owned));
    let timeout = query.timeout_ms.map(|timeout| timeout.to_string());
    let work = |name: String| {
        let pairs = [("condition", condition.clone()), ("timeout_ms", timeout.clone())];
        let path = with_query(&verb_path(&name, "wait"), &pairs);
        async move { Ok(session.client.another().get::<WaitResult>(&path).await?) }
    };
    let printer = session.printer;
    each(&args.names, work, |name, result: WaitResult| {
        // As in the field: the code alone, a line each.
        if printer.is_for_people() || printer.quiet {
            if query.condition != WaitCondition::Stopped {
                return print(&format!("{name}\n"));
            }
            let code = result.exit_code.map_or_else(|| "-".to_owned(), |code| code.to_string());
            return print(&format!("{code}\n"));
        }
        let mut table = Table::new(["NAME", "STATE", "EXIT CODE"]);
        table.push([Cell::from(name), Cell::optional(result.state), Cell::optional(result.exit_code)]);
        printer.record(&result, &table)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    #[test]
    fn what_is_asked_is_told_by_its_form() {
        let asked = |words: &[&str]| {
            let cli = Cli::try_parse_from(["insula", "whois"].iter().chain(words)).unwrap();
            let Command::Whois(args) = cli.command else { panic!("whois") };
            question(args).into_iter().find_map(|(key, value)| value.map(|value| format!("{key} {value}"))).unwrap()
        };
        assert_eq!(asked(&["4711"]), "pid 4711");
        assert_eq!(asked(&["/srv/x"]), "path /srv/x");
        assert_eq!(asked(&["10.88.0.2:80"]), "address 10.88.0.2:80");
        assert_eq!(asked(&["[fd00::1]:80"]), "address [fd00::1]:80");
        assert_eq!(asked(&["--gid", "7"]), "gid 7");
    }
}
