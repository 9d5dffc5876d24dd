//! Images: look, and change what the bare name means or which versions there are. What takes long is an operation.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use insula_api::{
    BuildImage, DefaultImage, DiffQuery, ExportImage, ImageDiff, ImageKeys, ImageLock, ImageUsage, ImageView,
    ImportImage, Operation, OperationKind, Problem, ProblemCode,
};
use insula_model::{ImageId, ImageName};
use insula_plan::protocol::launcher::ImageKey;
use serde::Serialize;
use tokio::sync::oneshot;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::extract::{Answered, Body, Path, Query, Refusal};
use crate::attach::Purpose;
use crate::context::Context;
use crate::image_build::{self, Runner};
use crate::image_test;
use crate::images::Images;
use crate::operations::Progress;

/// A begun operation.
type Begun = Result<(StatusCode, Json<Operation>), Refusal>;

/// Routes of images.
pub(super) fn routes() -> OpenApiRouter<Arc<Context>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show, remove))
        .routes(routes!(import))
        .routes(routes!(build))
        .routes(routes!(export))
        .routes(routes!(verify))
        .routes(routes!(test))
        .routes(routes!(promote))
        .routes(routes!(sign))
        .routes(routes!(keys))
        .routes(routes!(lock))
        .routes(routes!(usage))
        .routes(routes!(diff))
        .routes(routes!(show_default, set_default))
        .routes(routes!(gc))
}

/// Lists image versions.
#[utoipa::path(get, path = "/v1/images", tag = "images",
    responses((status = 200, description = "By name and version", body = Vec<ImageView>)))]
pub(super) async fn list(State(context): Shared) -> Answered<Vec<ImageView>> {
    Ok(Json(context.catalog.all().iter().map(|view| with_users(&context, view)).collect()))
}

/// Shows an image version.
#[utoipa::path(get, path = "/v1/images/{name}/{version}", tag = "images",
    params(("name" = String, Path), ("version" = String, Path)), responses(
    (status = 200, description = "The version", body = ImageView),
    (status = 404, description = "Not found", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn show(State(context): Shared, Path((name, version)): Path<(String, String)>) -> Answered<ImageView> {
    let view = context.catalog.get(&image_id(&name, &version)?)?;
    Ok(Json(with_users(&context, &view)))
}

/// `name@version` of two path parts.
///
/// # Errors
///
/// Invalid, saying which character is wrong.
fn image_id(name: &str, version: &str) -> Result<ImageId, Problem> {
    format!("{name}@{version}").parse().map_err(|error| Problem::from_chain(ProblemCode::Invalid, &error))
}

fn with_users(context: &Context, view: &ImageView) -> ImageView {
    let mut view = view.clone();
    view.used_by = context.containers_of(&view.image);
    view
}

/// Runs blocking work on the store, then brings the catalog up to date.
async fn on_store<T: Send + 'static>(
    context: &Arc<Context>,
    work: impl FnOnce(&Images) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let context = context.clone();
    let done = tokio::task::spawn_blocking(move || {
        let result = work(&context.images);
        context.images.publish(&context.catalog);
        result
    });
    done.await
        .map_err(|_| Problem::new(ProblemCode::Internal, "the work on the image store did not come to its end"))?
}

/// Runs blocking work on the store as an operation whose result is what the work gives.
async fn as_result<T: Serialize + Send + 'static>(
    context: Arc<Context>,
    progress: Progress,
    work: impl FnOnce(&Images, &Progress) -> Result<T, Problem> + Send + 'static,
) -> Result<serde_json::Value, Problem> {
    let result = on_store(&context, move |images| work(images, &progress)).await?;
    to_value(&result)
}

fn to_value(result: &impl Serialize) -> Result<serde_json::Value, Problem> {
    serde_json::to_value(result).map_err(|error| Problem::from_chain(ProblemCode::Internal, &error))
}

/// Lets go of the mount of a version that was removed: it would keep the file's room on the disk.
async fn unmount(context: &Context, removed: &ImageView) {
    if let Err(problem) = context.host.unmount(ImageKey(removed.digest.hex())).await {
        tracing::warn!(image = %removed.image, detail = problem.detail, "unmount");
    }
}

/// Where an operation's file comes from.
enum FileSource {
    Open(OwnedFd),
    Client(oneshot::Receiver<OwnedFd>),
}

impl FileSource {
    async fn get(self, progress: &Progress) -> Result<OwnedFd, Problem> {
        let receiver = match self {
            Self::Open(file) => return Ok(file),
            Self::Client(receiver) => receiver,
        };
        progress.report("waiting for the client's file", 0, None);
        tokio::select! {
            file = receiver => {
                file.map_err(|_| Problem::new(ProblemCode::Cancelled, "the client never handed its file over"))
            }
            () = progress.cancelled() => Err(Problem::new(ProblemCode::Cancelled, "cancelled")),
        }
    }
}

/// Imports an archive or directory as a new version. Without `path` the client hands its file over on the attach
/// socket with the operation's token. The operation's result is a `NewImage`.
#[utoipa::path(post, path = "/v1/images/{name}/{version}/import", tag = "images", request_body = ImportImage,
    params(("name" = String, Path), ("version" = String, Path)),
    responses((status = 202, description = "Under way", body = Operation)))]
pub(super) async fn import(
    State(context): Shared,
    Path((name, version)): Path<(String, String)>,
    Body(request): Body<ImportImage>,
) -> Begun {
    let image = image_id(&name, &version)?;
    let (token, source) = match &request.path {
        Some(path) => {
            let file = File::open(path).map_err(|error| unusable(path, &error))?;
            (None, FileSource::Open(file.into()))
        }
        None => {
            let (sender, receiver) = oneshot::channel();
            (Some(context.tokens.issue(Purpose::Transfer(sender))?), FileSource::Client(receiver))
        }
    };
    let work_context = context.clone();
    let subject = image.to_string();
    let operation = context.operations.begin(OperationKind::ImageImport, subject, token, |progress| async move {
        let file = source.get(&progress).await?;
        let ids = work_context.ids.take()?;
        let converter = work_context.host.converter(ids);
        let import =
            move |images: &Images, progress: &Progress| images.import(&image, (file, request), converter, progress);
        let imported = as_result(work_context.clone(), progress, import).await;
        work_context.ids.give_back(ids);
        imported
    })?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}

/// Makes an image from a recipe. Its relative paths start in a directory of the node. The lines that its commands write
/// are in the operation's output; its result is a `NewImage`.
#[utoipa::path(post, path = "/v1/images/build", tag = "images", request_body = BuildImage, responses(
    (status = 202, description = "Under way", body = Operation),
    (status = 400, description = "It is no recipe", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The version exists", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn build(State(context): Shared, Body(request): Body<BuildImage>) -> Begun {
    let recipe = image_build::check(&context, &request)?;
    let lock = image_build::read_lock(&request, &recipe)?;
    let work_context = context.clone();
    let subject = recipe.id.to_string();
    let operation = context.operations.begin(OperationKind::ImageBuild, subject, None, |progress| async move {
        let mut runner = Runner::new(work_context.clone(), progress.clone(), recipe.id.clone());
        let ids = work_context.ids.take()?;
        let converter = work_context.host.converter(ids);
        let work = move |images: &Images, progress: &Progress| {
            let directory = std::path::Path::new(&request.directory);
            images.build((&recipe, directory, lock.as_ref()), &mut runner, &*converter, progress)
        };
        let built = as_result(work_context.clone(), progress, work).await;
        work_context.ids.give_back(ids);
        built
    })?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}

fn unusable(path: &str, error: &std::io::Error) -> Problem {
    let code = match error.kind() {
        std::io::ErrorKind::NotFound => ProblemCode::NotFound,
        _ => ProblemCode::Invalid,
    };
    Problem::new(code, format!("path {}: {error}", path.escape_debug()))
}

/// Writes a version to a new file or directory on the node, or to the client's file handed over on the attach socket.
/// The operation's result is the number of bytes written.
#[utoipa::path(post, path = "/v1/images/{name}/{version}/export", tag = "images", request_body = ExportImage,
    params(("name" = String, Path), ("version" = String, Path)),
    responses((status = 202, description = "Under way", body = Operation)))]
pub(super) async fn export(
    State(context): Shared,
    Path((name, version)): Path<(String, String)>,
    Body(request): Body<ExportImage>,
) -> Begun {
    let image = image_id(&name, &version)?;
    context.catalog.get(&image)?;
    let (token, target) = match &request.path {
        Some(path) => (None, FileSource::Open(export_target(path, request.format)?)),
        None => {
            let (sender, receiver) = oneshot::channel();
            (Some(context.tokens.issue(Purpose::Transfer(sender))?), FileSource::Client(receiver))
        }
    };
    let work_context = context.clone();
    let subject = image.to_string();
    let operation = context.operations.begin(OperationKind::ImageExport, subject, token, |progress| async move {
        let file = target.get(&progress).await?;
        let format = request.format;
        as_result(work_context, progress, move |images, progress| images.export(&image, (format, file), progress)).await
    })?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}

/// A new file, or a new or empty directory, at `path`.
fn export_target(path: &str, format: insula_api::ExportFormat) -> Result<OwnedFd, Problem> {
    let refused = |error: std::io::Error| unusable(path, &error);
    if format != insula_api::ExportFormat::OciDirectory {
        return Ok(File::options().write(true).create_new(true).open(path).map_err(refused)?.into());
    }
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(refused(error)),
        _ => {}
    }
    if std::fs::read_dir(path).map_err(refused)?.next().is_some() {
        return Err(Problem::new(ProblemCode::Conflict, format!("directory {} is not empty", path.escape_debug())));
    }
    Ok(File::open(path).map_err(refused)?.into())
}

/// Reads every byte of a version and compares. The operation's result is a `VerifyReport`.
#[utoipa::path(post, path = "/v1/images/{name}/{version}/verify", tag = "images",
    params(("name" = String, Path), ("version" = String, Path)),
    responses((status = 202, description = "Under way", body = Operation)))]
pub(super) async fn verify(State(context): Shared, Path((name, version)): Path<(String, String)>) -> Begun {
    let image = image_id(&name, &version)?;
    context.catalog.get(&image)?;
    let work_context = context.clone();
    let subject = image.to_string();
    let operation = context.operations.begin(OperationKind::ImageVerify, subject, None, |progress| {
        as_result(work_context, progress, move |images, progress| images.verify(&image, progress))
    })?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}

/// Boots a container of a version and runs the image's checks in it. The operation's result is a `TestReport`.
#[utoipa::path(post, path = "/v1/images/{name}/{version}/test", tag = "images",
    params(("name" = String, Path), ("version" = String, Path)),
    responses((status = 202, description = "Under way", body = Operation)))]
pub(super) async fn test(State(context): Shared, Path((name, version)): Path<(String, String)>) -> Begun {
    let image = image_id(&name, &version)?;
    let view = context.catalog.get(&image)?;
    let work_context = context.clone();
    let subject = image.to_string();
    let operation = context.operations.begin(OperationKind::ImageTest, subject, None, |progress| async move {
        let report = image_test::run(&work_context, &view, &progress).await?;
        as_result(work_context, progress, move |images, _| images.record_test(&image, report)).await
    })?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}

/// Moves a version whose last test passed to production.
#[utoipa::path(post, path = "/v1/images/{name}/{version}/promote", tag = "images",
    params(("name" = String, Path), ("version" = String, Path)), responses(
    (status = 200, description = "It is in production", body = ImageView),
    (status = 409, description = "It was not tested, or failed", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn promote(
    State(context): Shared,
    Path((name, version)): Path<(String, String)>,
) -> Answered<ImageView> {
    let image = image_id(&name, &version)?;
    Ok(Json(on_store(&context, move |images| images.promote(&image)).await?))
}

/// Vouches for a version with this node's key for its stage, after its bytes were compared.
#[utoipa::path(post, path = "/v1/images/{name}/{version}/sign", tag = "images",
    params(("name" = String, Path), ("version" = String, Path)), responses(
    (status = 200, description = "It is signed", body = ImageView),
    (status = 409, description = "It is damaged", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn sign(State(context): Shared, Path((name, version)): Path<(String, String)>) -> Answered<ImageView> {
    let image = image_id(&name, &version)?;
    Ok(Json(on_store(&context, move |images| images.sign(&image)).await?))
}

/// Whose signatures count on this node.
#[utoipa::path(get, path = "/v1/images/keys", tag = "images",
    responses((status = 200, description = "By stage, the node's own first", body = ImageKeys)))]
pub(super) async fn keys(State(context): Shared) -> Answered<ImageKeys> {
    Ok(Json(context.images.keys()))
}

/// Shows the version that a bare name means, also when it is damaged.
#[utoipa::path(get, path = "/v1/images/{name}/default", tag = "images",
    params(("name" = String, Path)), responses(
    (status = 200, description = "The default version", body = ImageView),
    (status = 404, description = "No such image", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn show_default(State(context): Shared, Path(name): Path<String>) -> Answered<ImageView> {
    let name = ImageName::new(name).map_err(|error| Problem::from_chain(ProblemCode::Invalid, &error))?;
    Ok(Json(with_users(&context, &*context.catalog.default_of(&name)?)))
}

/// Makes a version the one that its bare name means.
#[utoipa::path(put, path = "/v1/images/{name}/default", tag = "images", request_body = DefaultImage,
    params(("name" = String, Path)),
    responses((status = 200, description = "It is the default", body = ImageView)))]
pub(super) async fn set_default(
    State(context): Shared,
    Path(name): Path<String>,
    Body(request): Body<DefaultImage>,
) -> Answered<ImageView> {
    let image = image_id(&name, request.version.as_str())?;
    Ok(Json(on_store(&context, move |images| images.set_default(&image)).await?))
}

/// Removes a version that no container names.
#[utoipa::path(delete, path = "/v1/images/{name}/{version}", tag = "images",
    params(("name" = String, Path), ("version" = String, Path)), responses(
    (status = 204, description = "It is gone"),
    (status = 409, description = "Containers name it", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn remove(
    State(context): Shared,
    Path((name, version)): Path<(String, String)>,
) -> Result<StatusCode, Refusal> {
    let image = image_id(&name, &version)?;
    // One whose manifest cannot be read has no view, and is not mounted either.
    let view = context.catalog.get(&image).ok();
    let work_context = context.clone();
    on_store(&context, move |images| {
        // Looked at here, after every create that resolved the version has its container in the directory.
        let users = work_context.containers_of(&image);
        if users.is_empty() {
            return images.remove(&image);
        }
        let detail = format!("image {image} is needed by {}", users.join(", "));
        Err(Problem::new(ProblemCode::Conflict, detail).with_remedy("delete these containers or change their image"))
    })
    .await?;
    if let Some(view) = view {
        unmount(&context, &view).await;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Removes every version that is neither a default nor needed by a container, also for going back. The operation's
/// result is a `CollectedImages`.
#[utoipa::path(post, path = "/v1/images/gc", tag = "images",
    responses((status = 202, description = "Under way", body = Operation)))]
pub(super) async fn gc(State(context): Shared) -> Begun {
    let work_context = context.clone();
    let operation =
        context.operations.begin(OperationKind::ImageGc, "images".to_owned(), None, |progress| async move {
            let live = work_context.live_images();
            let before = work_context.catalog.all();
            let collected = on_store(&work_context, move |images| images.gc(&live)).await?;
            for view in before.iter().filter(|view| collected.removed.contains(&view.image)) {
                unmount(&work_context, view).await;
            }
            progress.report("collected", collected.removed.len() as u64, None);
            to_value(&collected)
        })?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}

/// What a version costs.
#[utoipa::path(get, path = "/v1/images/{name}/{version}/usage", tag = "images",
    params(("name" = String, Path), ("version" = String, Path)),
    responses((status = 200, description = "Its costs", body = ImageUsage)))]
pub(super) async fn usage(
    State(context): Shared,
    Path((name, version)): Path<(String, String)>,
) -> Answered<ImageUsage> {
    let image = image_id(&name, &version)?;
    let asked = image.clone();
    let mount = context.host.image_root(&ImageKey(context.catalog.get(&image)?.digest.hex()));
    let mut usage = on_store(&context, move |images| images.usage(&asked, mount.as_ref())).await?;
    usage.containers = context.containers_of(&image);
    usage.running = context.running_of(&image);
    Ok(Json(usage))
}

/// The packages of a version, as a lock for builds.
#[utoipa::path(get, path = "/v1/images/{name}/{version}/lock", tag = "images",
    params(("name" = String, Path), ("version" = String, Path)), responses(
    (status = 200, description = "The lock", body = ImageLock),
    (status = 404, description = "Not found", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn lock(State(context): Shared, Path((name, version)): Path<(String, String)>) -> Answered<ImageLock> {
    let image = image_id(&name, &version)?;
    Ok(Json(on_store(&context, move |images| images.lock_of(&image)).await?))
}

/// What differs between two versions.
#[utoipa::path(get, path = "/v1/images/{name}/{version}/diff", tag = "images",
    params(("name" = String, Path), ("version" = String, Path), DiffQuery),
    responses((status = 200, description = "The differences", body = ImageDiff)))]
pub(super) async fn diff(
    State(context): Shared,
    Path((name, version)): Path<(String, String)>,
    Query(query): Query<DiffQuery>,
) -> Answered<ImageDiff> {
    let image = image_id(&name, &version)?;
    Ok(Json(on_store(&context, move |images| images.diff(&image, &query.to)).await?))
}
