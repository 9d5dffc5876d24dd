//! Images: list and look.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use insula_api::{ImageView, Problem, ProblemCode};
use insula_model::ImageId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::extract::{Answered, Path};
use crate::context::Context;

/// Routes of images.
pub(super) fn routes() -> OpenApiRouter<Arc<Context>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show))
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
    let image = image_id(&name, &version)?;
    let view = context.catalog.get(&image)?;
    Ok(Json(with_users(&context, &view)))
}

/// `name@version` of two path parts.
///
/// # Errors
///
/// Invalid, saying which character is wrong.
pub(super) fn image_id(name: &str, version: &str) -> Result<ImageId, Problem> {
    format!("{name}@{version}").parse().map_err(|error| Problem::from_chain(ProblemCode::Invalid, &error))
}

fn with_users(context: &Context, view: &ImageView) -> ImageView {
    let mut view = view.clone();
    view.used_by = context.containers_of(&view.image);
    view
}
