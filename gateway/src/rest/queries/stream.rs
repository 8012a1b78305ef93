//! `GET /v1/queries/{id}/stream`: the updates of a query as server-sent events. `id` is the `seq`,
//! so that a browser resumes by itself.

use super::{Source, follow_as_seen, parse};
use crate::{
    app::App,
    edge::{Call, Error, Identity, Params},
    hub::{Entry, Follower},
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
use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};
use tokio::sync::Notify;

pub(crate) const DOC: Doc = Doc::get(
    "/v1/queries/{id}/stream",
    "The updates of a query, as they come",
)
.signed_in()
.parameters(&["from_seq"])
.headers(&["Last-Event-ID"])
.answers(200, "EventStream")
.refuses(&[Code::NotFound]);

const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Entries taken from the feed at once.
const BATCH: usize = 64;

pub(crate) async fn handle(
    State(app): State<App>,
    call: Call,
    identity: Identity,
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
    let source = follow_as_seen(&app, &call, identity.user, query, bell).await?;
    let reading = Reading {
        ready: match &source {
            Source::Stream(_) => VecDeque::new(),
            Source::Ended(item) => [Entry::ending(item, from_seq)].into(),
        },
        follower: match source {
            Source::Stream(follower) => Some(follower),
            Source::Ended(_) => None,
        },
        cursor: from_seq,
        app,
    };
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

struct Reading {
    app: App,
    follower: Option<Follower>,
    ready: VecDeque<Entry>,
    cursor: u32,
}

impl Reading {
    /// The next entry; none after the last one, or when the gateway stops.
    async fn next(&mut self) -> Option<Entry> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                self.cursor = entry.seq;
                return Some(entry);
            }
            let follower = self.follower.as_ref()?;
            let ended = follower.is_over();
            self.ready = follower.after(self.cursor, BATCH).into();
            if !self.ready.is_empty() {
                continue;
            }
            if ended {
                return None;
            }
            tokio::select! {
                () = follower.news() => {}
                () = self.app.lifecycle.stopping() => return None,
            }
        }
    }
}
