//! Creating containers: resolve, admit, reserve, record, drive. Whatever fails gives back what came before it.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use insula_api::{CreateContainer, CreatedContainer, EventSubject, Problem, ProblemCode};
use insula_model::{ContainerId, ContainerName, ImageId, RestartPolicy};
use jiff::Timestamp;
use uuid::Uuid;

use super::Shared;
use super::extract::{Body, Refusal};
use crate::attach::Purpose;
use crate::catalog::{Resolved, Strictness};
use crate::container::driver::{self, Subject};
use crate::container::facts::Facts;
use crate::container::handle::ContainerHandle;
use crate::container::record::{Addresses, ContainerRecord, Kept};
use crate::container::words::{Ask, Force, Found, Wanted};
use crate::context::Context;
use crate::events::About;

/// Longest time from a container's end to the moment that the node hears of it.
const END_HEARD_MAX: Duration = Duration::from_millis(50);
/// Longest wait for the removal of a container that has ended.
const CLEANED_MAX: Duration = Duration::from_secs(2);

/// Creates a container.
#[utoipa::path(post, path = "/v1/containers", tag = "containers", request_body = CreateContainer, responses(
    (status = 201, description = "Created", body = CreatedContainer),
    (status = 404, description = "Unknown image", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The name is taken", body = Problem, content_type = "application/problem+json"),
    (status = 507, description = "No room", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn create(
    State(context): Shared,
    Body(request): Body<CreateContainer>,
) -> Result<(StatusCode, Json<CreatedContainer>), Refusal> {
    let (attach, start) = (request.attach, request.start);
    let (handle, mut created) = create_and_tell(&context, request).await?;
    if attach {
        created.attach_token = Some(context.tokens.issue(Purpose::Start(handle.id))?);
    } else if start && let Err(problem) = handle.ask(Ask::Start).await {
        // As in the field: what could not be started stays, to be looked at, unless it was to go anyway.
        if handle.snapshot().record.remove {
            handle.ask(Ask::Delete(Force::Yes)).await.ok();
        }
        return Err(problem.into());
    }
    Ok((StatusCode::CREATED, Json(created)))
}

/// Creates a container; what its creator is to be told.
///
/// # Errors
///
/// As for [`create_container`].
pub(crate) async fn create_and_tell(
    context: &Arc<Context>,
    request: CreateContainer,
) -> Result<(ContainerHandle, CreatedContainer), Problem> {
    let (handle, resolved) = create_container(context, request, Owner::Administrator).await?;
    let snapshot = handle.snapshot();
    let mut warnings: Vec<String> = resolved.warning.into_iter().collect();
    if !snapshot.spec.volumes.is_empty() {
        let spec = snapshot.spec.clone();
        let told = tokio::task::spawn_blocking(move || crate::volumes::warnings(&spec.volumes));
        // What cannot be looked at is not warned of; the start says what it is.
        warnings.extend(told.await.unwrap_or_default());
    }
    let (id, name) = (handle.id, snapshot.record.name.clone());
    Ok((handle, CreatedContainer { id, name, image: resolved.image, warnings, attach_token: None }))
}

/// For whom a container is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Who administers the node.
    Administrator,
    /// An operation of the daemon's, with which it goes.
    Operation,
}

/// Creates a container and its driver.
///
/// # Errors
///
/// Unknown image, taken name, no room, a contradiction in the request.
pub(crate) async fn create_container(
    context: &Arc<Context>,
    request: CreateContainer,
    owner: Owner,
) -> Result<(ContainerHandle, Resolved), Problem> {
    check(&request)?;
    let strictness = if request.strict { Strictness::Strict } else { Strictness::FallBack };
    let resolved = context.catalog.resolve(&request.spec.image, strictness)?;
    context.config.resolve(&request.spec)?;
    if let Some(zone) = &request.spec.timezone {
        expect_time_zone(context, &resolved.image, zone).await?;
    }
    if !request.remove {
        context.images.room().check()?;
    }
    let id = ContainerId::from_uuid(Uuid::new_v4());
    let name = match request.name {
        Some(name) => name,
        None => ContainerName::new(id.short()).map_err(|error| Problem::from_chain(ProblemCode::Internal, &error))?,
    };
    reserve(context, &name, id).await?;
    let ids = context.ids.take().inspect_err(|_| context.directory.remove(&name, id))?;
    let addresses = context.host.claim_addresses(request.spec.network, Addresses::default()).inspect_err(|_| {
        context.directory.remove(&name, id);
        context.ids.give_back(ids);
    })?;
    let mut spec = request.spec;
    spec.image = resolved.image.clone().into();
    let record = ContainerRecord {
        id,
        name: name.clone(),
        spec,
        image: resolved.image.clone(),
        previous_image: None,
        next_image: None,
        trial_health: None,
        upgrade_grace: None,
        rolled_back: None,
        ids,
        addresses,
        created: Timestamp::now(),
        wanted: Wanted::Stopped,
        remove: request.remove,
        of_operation: owner == Owner::Operation,
        last_run: None,
    };
    // One that is run at once and goes at its end needs no commit.
    let kept = if request.remove && (request.attach || request.start) { Kept::WhileItRuns } else { Kept::Stored };
    if kept == Kept::Stored
        && let Err(error) = context.store.put(record.clone()).await
    {
        context.release(&record);
        return Err(Problem::from_chain(ProblemCode::Internal, &error));
    }
    let facts = Facts::default();
    let handle = driver::spawn(context, Subject { record, facts, found: Found::Created, running: None, kept });
    context.directory.insert(handle.clone());
    context.names.tell();
    let image = [("image", resolved.image.to_string())];
    let about = About { subject: EventSubject::Container, name: name.as_str(), id: Some(id.to_string()) };
    context.events.publish(about, "created", &image);
    Ok((handle, resolved))
}

/// Only for those who name a zone: the image's own was looked at when it was built.
///
/// # Errors
///
/// The image has zones, and this is none of them.
pub(crate) async fn expect_time_zone(context: &Arc<Context>, image: &ImageId, zone: &str) -> Result<(), Problem> {
    let (context, image, zone) = (context.clone(), image.clone(), zone.to_owned());
    tokio::task::spawn_blocking(move || context.images.expect_time_zone(&image, &zone))
        .await
        .map_err(|error| Problem::from_chain(ProblemCode::Internal, &error))?
}

/// Takes the name. One that a container has which is deleted at its end, and which has just ended, is waited for:
/// its client knows of the end before the node has cleaned up.
async fn reserve(context: &Context, name: &ContainerName, id: ContainerId) -> Result<(), Problem> {
    let most = context.config.capacity.containers;
    let taken = match context.directory.reserve(name, id, most) {
        Err(problem) if problem.code == ProblemCode::Conflict => problem,
        result => return result,
    };
    let Ok(owner) = context.directory.find(name.as_str()) else { return context.directory.reserve(name, id, most) };
    if !owner.snapshot().record.remove {
        return Err(taken);
    }
    let ended = owner.wait_for(|now| now.starts > 0 && !now.is_up());
    tokio::time::timeout(END_HEARD_MAX, ended).await.map_err(|_| taken.clone())?;
    tokio::time::timeout(CLEANED_MAX, owner.wait_for(|_| false)).await.map_err(|_| taken)?;
    context.directory.reserve(name, id, most)
}

fn check(request: &CreateContainer) -> Result<(), Problem> {
    let invalid = |detail: &str| Err(Problem::new(ProblemCode::Invalid, detail));
    if request.attach && request.start {
        return invalid("`attach` and `start` exclude each other: attaching starts the container");
    }
    if request.remove && request.spec.restart != RestartPolicy::No {
        return invalid("a container that is deleted when it ends cannot have a restart policy");
    }
    request.spec.check().map_err(|error| Problem::from_chain(ProblemCode::Invalid, &error))?;
    Ok(())
}
