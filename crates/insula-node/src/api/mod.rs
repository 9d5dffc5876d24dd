//! The API: handlers that parse, ask the owner of the state, and answer.
//!
//! Each handler is documented where it stands; the OpenAPI document is made from these comments and is compared with
//! the committed one by a test. Errors of every kind, also of the router and of the body's form, are problem
//! documents ([`extract`]).

mod archive;
mod containers;
mod create;
mod extract;
mod images;
mod listen;
mod node;
mod operations;
mod streams;
mod verbs;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::context::Context;

pub(crate) use create::{Owner, create_and_tell, create_container};
pub(crate) use listen::{bind, open_to_group, remove_stale, serve};

/// Largest request body, in bytes.
const BODY_BYTES_MAX: usize = 1 << 20;

/// State of the handlers.
pub(crate) type Shared = axum::extract::State<Arc<Context>>;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Insula node",
        description = "Containers, images and long actions of one node.",
        license(name = "Apache-2.0")
    ),
    components(schemas(insula_api::Problem, insula_api::Event, insula_api::LogLine))
)]
struct Document;

fn routes() -> OpenApiRouter<Arc<Context>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(node::version))
        .routes(routes!(node::doctor))
        .routes(routes!(node::whois))
        .routes(routes!(node::backup))
        .routes(routes!(node::templates))
        .routes(routes!(node::template))
        .routes(routes!(streams::events))
        .routes(routes!(containers::list, create::create))
        .routes(routes!(containers::prune))
        .routes(routes!(containers::show, containers::set, containers::delete))
        .routes(routes!(verbs::start))
        .routes(routes!(verbs::stop))
        .routes(routes!(verbs::restart))
        .routes(routes!(verbs::kill))
        .routes(routes!(verbs::pause))
        .routes(routes!(verbs::resume))
        .routes(routes!(verbs::rename))
        .routes(routes!(verbs::attach))
        .routes(routes!(verbs::exec))
        .routes(routes!(verbs::upgrade))
        .routes(routes!(verbs::rollback))
        .routes(routes!(containers::wait))
        .routes(routes!(containers::stats))
        .routes(routes!(containers::top))
        .routes(routes!(containers::ports))
        .merge(files_routes())
        .routes(routes!(streams::logs))
        .routes(routes!(operations::list))
        .routes(routes!(operations::show, operations::cancel))
        .routes(routes!(operations::wait))
        .merge(images::routes())
}

/// What comes in here is a stream without a bound of ours: the container's own bounds what it holds.
fn files_routes() -> OpenApiRouter<Arc<Context>> {
    OpenApiRouter::new().routes(routes!(archive::read, archive::write)).layer(DefaultBodyLimit::disable())
}

/// The OpenAPI 3.1 document, as it is served.
pub(crate) fn document() -> utoipa::openapi::OpenApi {
    let mut document = routes().into_openapi();
    env!("CARGO_PKG_VERSION").clone_into(&mut document.info.version);
    document
}

/// Everything that is served.
pub(crate) fn router(context: Arc<Context>) -> Router {
    let (router, _) = routes().split_for_parts();
    let document = serde_json::to_vec(&document()).unwrap_or_default();
    let document = bytes::Bytes::from(document);
    router
        .route(
            insula_api::paths::OPENAPI,
            axum::routing::get(move || async move {
                ([(axum::http::header::CONTENT_TYPE, "application/json")], document.clone())
            }),
        )
        .fallback(extract::no_such_path)
        .method_not_allowed_fallback(extract::no_such_method)
        .layer(axum::middleware::from_fn_with_state(context.clone(), extract::note_in_audit_log))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(context)
}

#[cfg(test)]
mod tests;
