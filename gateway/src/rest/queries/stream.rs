//! `GET /v1/queries/{id}/stream`: the updates of a query as server-sent events. `id` is the `seq`,
//! so that a browser resumes by itself.

use super::{Reading, follow_as_seen, parse};
use crate::{
    app::App,
    edge::{Call, Caller, Error, Params, Reads},
    openapi::Doc,
};
use axum::{
    extract::{Path, State},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use domain::wire::error::Code;
use futures_util::{StreamExt, stream};
use http::HeaderMap;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::sync::Notify;

pub(crate) const DOC: Doc = Doc::get(
    "/v1/queries/{id}/stream",
    "The updates of a query, as they come",
)
.by_key::<Reads>()
.parameters(&["from_seq"])
.headers(&["Last-Event-ID"])
.answers(200, "EventStream")
.refuses(&[Code::NotFound]);

const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(crate) async fn handle(
    State(app): State<App>,
    call: Call,
    caller: Caller<Reads>,
    Path(id): Path<String>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let query = parse(&id)?;
    let last = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let from_seq = match last {
        Some(seq) => seq,
        None => params.parsed("from_seq")?.unwrap_or(0),
    };
    let bell = Arc::new(Notify::new());
    let source = follow_as_seen(&app, &call, caller.user, query, bell).await?;
    let reading = Reading::of(app, source, from_seq);
    let events = stream::unfold(reading, |mut reading| async move {
        let entry = reading.next().await?;
        Some((entry, reading))
    });
    let events = events.map(|entry| {
        let event = Event::default().id(entry.seq.to_string());
        Ok::<_, Infallible>(event.data(entry.data()))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(events).keep_alive(keep_alive).into_response())
}
