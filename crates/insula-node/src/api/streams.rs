//! Answers without end: events.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{self, KeepAlive, Sse};
use futures_util::{Stream, StreamExt};
use tokio_stream::wrappers::BroadcastStream;

use super::Shared;

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
