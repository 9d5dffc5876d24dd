//! Verbs that change containers.

use std::collections::BTreeMap;

use hyper::Method;
use insula_api::{
    ContainerSummary, KillRequest, Operation, RenameRequest, SetRequest, SetResult, StopRequest, UpgradeRequest,
    UpgradeResult,
};
use insula_model::ContainerState;
use serde::Serialize;
use serde::de::IgnoredAny;

use super::inspect::image_with_next;
use super::{Session, container_path, each, operation, verb_path};
use crate::args::{
    DeleteArgs, KillArgs, NamesArgs, PruneArgs, RenameArgs, RollbackArgs, SetArgs, StopArgs, UpgradeArgs,
};
use crate::client::with_query;
use crate::failure::Failure;
use crate::render::{Cell, Table, print, tell};
use crate::spec::health_command;
use crate::values::milliseconds;

/// `POST` a verb to each container and print its name.
async fn verb_on_each<B: Serialize>(session: &Session, names: &[String], verb: &str, body: &B) -> Result<u8, Failure> {
    let work = |name: String| async move {
        let _: IgnoredAny = session.client.another().post(&verb_path(&name, verb), body).await?;
        Ok(())
    };
    each(names, work, |name, ()| print(&format!("{name}\n"))).await
}

/// `stop`, `restart`
pub(super) async fn stop(session: &Session, args: StopArgs, verb: &str) -> Result<u8, Failure> {
    verb_on_each(session, &args.names, verb, &StopRequest { timeout_ms: args.timeout.map(milliseconds) }).await
}

/// `kill`
pub(super) async fn kill(session: &Session, args: KillArgs) -> Result<u8, Failure> {
    verb_on_each(session, &args.names, "kill", &KillRequest { signal: Some(args.signal) }).await
}

/// `pause`, `resume`, `start` without attachment
pub(super) async fn plain_verb(session: &Session, args: NamesArgs, verb: &str) -> Result<u8, Failure> {
    verb_on_each(session, &args.names, verb, &serde_json::json!({})).await
}

/// `delete`
pub(super) async fn delete(session: &Session, args: DeleteArgs) -> Result<u8, Failure> {
    let force = args.force.then(|| "true".to_owned());
    let work = |name: String| {
        let path = with_query(&container_path(&name), &[("force", force.clone())]);
        async move { delete_one(session, &path).await }
    };
    each(&args.names, work, |name, ()| print(&format!("{name}\n"))).await
}

async fn delete_one(session: &Session, path: &str) -> Result<(), Failure> {
    let _: IgnoredAny = session.client.another().call(Method::DELETE, path, None::<&()>).await?;
    Ok(())
}

/// `rename`
pub(super) async fn rename(session: &mut Session, args: RenameArgs) -> Result<u8, Failure> {
    let request = RenameRequest { name: args.new_name.clone() };
    let _: IgnoredAny = session.client.post(&verb_path(&args.name, "rename"), &request).await?;
    print(&format!("{}\n", args.new_name))?;
    Ok(0)
}

/// `set`
pub(super) async fn set(session: &mut Session, args: SetArgs) -> Result<u8, Failure> {
    let settings: BTreeMap<String, String> = args.settings.into_iter().map(|pair| (pair.key, pair.value)).collect();
    let result: SetResult =
        session.client.call(Method::PATCH, &container_path(&args.name), Some(&SetRequest { settings })).await?;
    let mut table = Table::new(["SETTING", "ACTS"]);
    for key in &result.live {
        table.push([Cell::from(key.as_str()), Cell::two("at once", "live")]);
    }
    for key in &result.at_next_start {
        table.push([Cell::from(key.as_str()), Cell::two("at the next start", "at_next_start")]);
    }
    session.printer.value(&result, &table)?;
    Ok(0)
}

/// `prune`
pub(super) async fn prune(session: &mut Session, args: PruneArgs) -> Result<u8, Failure> {
    let mut deleted: Vec<String> = session.client.post(insula_api::paths::PRUNE, &serde_json::json!({})).await?;
    if args.all {
        let created = with_query(insula_api::paths::CONTAINERS, &[("filter", Some("state=created".to_owned()))]);
        let rest: Vec<ContainerSummary> = session.client.get(&created).await?;
        for summary in rest.into_iter().filter(|summary| summary.state == ContainerState::Created) {
            delete_one(session, &container_path(summary.name.as_str())).await?;
            deleted.push(summary.name.to_string());
        }
    }
    let mut table = Table::new(["DELETED"]);
    deleted.iter().for_each(|name| table.push([Cell::from(name.as_str())]));
    if deleted.is_empty() && session.printer.is_for_people() {
        tell("nothing to delete");
        return Ok(0);
    }
    session.printer.listing(&deleted, &table)?;
    Ok(0)
}

/// `upgrade`
pub(super) async fn upgrade(session: &mut Session, args: UpgradeArgs) -> Result<u8, Failure> {
    let image = match args.image {
        Some(image) => Some(image),
        // What `set image=…` left pending, or else the newest default of what it runs.
        None => {
            let summary: ContainerSummary = session.client.get(&container_path(&args.name)).await?;
            let own = insula_model::ImageRef { name: summary.image.name.clone(), version: None };
            Some(summary.next_image.unwrap_or(own))
        }
    };
    let health = args.health.as_deref().map(health_command).transpose()?;
    let request = UpgradeRequest { image, health, deadline_ms: args.deadline.map(milliseconds) };
    change_image(session, &args.name, "upgrade", &request).await
}

/// `rollback`
pub(super) async fn rollback(session: &mut Session, args: RollbackArgs) -> Result<u8, Failure> {
    let request = UpgradeRequest { deadline_ms: args.deadline.map(milliseconds), ..UpgradeRequest::default() };
    change_image(session, &args.name, "rollback", &request).await
}

async fn change_image(session: &mut Session, name: &str, verb: &str, request: &UpgradeRequest) -> Result<u8, Failure> {
    let started: Operation = session.client.post(&verb_path(name, verb), request).await?;
    let result: UpgradeResult = operation::finish(session, started).await?;
    let mut table = Table::new(["NAME", "IMAGE", "PREVIOUS IMAGE", "ROLLED BACK"]);
    table.push([
        Cell::from(name),
        Cell::two(image_with_next(&result.image, result.next_image.as_ref()), result.image.to_string()),
        Cell::optional(result.previous_image.as_ref()),
        Cell::optional(result.rolled_back.as_ref()),
    ]);
    session.printer.value(&result, &table)?;
    if let (Some(next), true) = (&result.next_image, session.printer.is_for_people()) {
        tell(&format!("{name} does not run; its next start is from {next}"));
    }
    match result.rolled_back {
        None => Ok(0),
        Some(why) => Err(Failure::Negative {
            finding: format!("{name} was put back to {}: {why}", result.image),
            remedy: Some(format!("`insula logs {name}` has what it wrote")),
        }),
    }
}
