//! Answers without end: events and logs.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::response::sse::{self, KeepAlive, Sse};
use futures_util::{Stream, StreamExt};
use tokio_stream::wrappers::BroadcastStream;

use insula_api::{LogLine, LogsQuery, Problem, ProblemCode};
use jiff::Timestamp;
use tokio_stream::wrappers::ReceiverStream;

use super::Shared;
use super::extract::{Path, Query, Refusal};
use crate::logs;

/// Pause between signs of life on an idle stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Events from now on, as server-sent events; `data` is an `Event`. A gap in the sequence numbers means that the
/// client was too slow.
#[utoipa::path(get, path = "/v1/events", tag = "node", responses(
    (status = 200, description = "Events", body = insula_api::Event, content_type = "text/event-stream")))]
pub(super) async fn events(State(context): Shared) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    let events = BroadcastStream::new(context.events.subscribe()).filter_map(|event| async move {
        // What was missed shows as a gap in the sequence numbers of what follows.
        let event = event.ok()?;
        sse::Event::default().id(event.sequence.to_string()).json_data(&event).ok().map(Ok)
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

/// A container's log as JSON lines, each a `LogLine`; with `follow` until the container has ended.
#[utoipa::path(get, path = "/v1/containers/{name}/logs", tag = "containers",
    params(("name" = String, Path, description = "Name or id"), LogsQuery), responses(
    (status = 200, description = "Pieces of the log", body = LogLine, content_type = "application/jsonl")))]
pub(super) async fn logs(
    State(context): Shared,
    Path(name): Path<String>,
    Query(query): Query<LogsQuery>,
) -> Result<impl IntoResponse, Refusal> {
    let handle = context.directory.find(&name)?;
    let since = query.since.as_deref().map(str::parse::<Timestamp>).transpose().map_err(|error| {
        let detail = format!("`since` is not a time such as 2026-01-31T12:00:00Z: {error}");
        Problem::new(ProblemCode::Invalid, detail)
    })?;
    let wanted = logs::Wanted { follow: query.follow, since, tail: query.tail };
    let pieces = logs::read(context.host.log_directory(handle.id), handle, wanted);
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], Body::from_stream(ReceiverStream::new(pieces))))
}
