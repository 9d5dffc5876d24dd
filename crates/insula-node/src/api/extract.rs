//! Requests in, problems out: every refusal of the HTTP layer is a problem document too.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use insula_api::{Problem, ProblemCode};
use jiff::Timestamp;
use serde::de::DeserializeOwned;

use crate::audit::{AuditLine, Caller};
use crate::context::Context;

/// A problem as an HTTP answer.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) Problem);

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(header::CONTENT_TYPE, "application/problem+json")], serde_json::to_vec(&self.0).unwrap_or_default())
            .into_response()
    }
}

/// What handlers answer with.
pub(crate) type Answered<T> = Result<Json<T>, Refusal>;

/// A JSON body; no body at all is `{}`.
#[derive(Debug)]
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let bytes = bytes::Bytes::from_request(request, state).await.map_err(|rejection| {
            let mut problem = Problem::new(ProblemCode::Invalid, format!("request body: {}", rejection.body_text()));
            problem.status = rejection.status().as_u16();
            Refusal(problem)
        })?;
        let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(bytes)
            .map(Self)
            .map_err(|error| Refusal(Problem::new(ProblemCode::Invalid, format!("request body: {error}"))))
    }
}

/// Query parameters.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let query = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        query.map(|axum::extract::Query(query)| Self(query)).map_err(|rejection| {
            Refusal(Problem::new(ProblemCode::Invalid, format!("query: {}", rejection.body_text())))
        })
    }
}

/// Parts of the path.
#[derive(Debug)]
pub(crate) struct Path<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(path)| Self(path)).map_err(|rejection| {
            Refusal(Problem::new(ProblemCode::Invalid, format!("path: {}", rejection.body_text())))
        })
    }
}

/// 404 for paths that are not of the API.
pub(crate) async fn no_such_path(request: Request) -> Refusal {
    Refusal(Problem::new(ProblemCode::NotFound, format!("path {} is not of this API", request.uri().path())))
}

/// 405 for methods that a path does not take.
pub(crate) async fn no_such_method(request: Request) -> Refusal {
    let detail = format!("path {} does not take {}", request.uri().path(), request.method());
    let mut problem = Problem::new(ProblemCode::Invalid, detail);
    problem.status = 405;
    Refusal(problem)
}

/// Notes every request that can change something.
pub(crate) async fn note_in_audit_log(State(context): State<Arc<Context>>, request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let caller = request.extensions().get::<Caller>().copied();
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let response = next.run(request).await;
    context.audit.note(AuditLine {
        time: Timestamp::now(),
        caller,
        method,
        path,
        status: response.status().as_u16(),
        lost: 0,
    });
    response
}
