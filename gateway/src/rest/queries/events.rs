//! `GET /v1/queries/{id}/events`: what a socket would have been told so far.

use super::{Source, follow_as_seen, parse};
use crate::{
    app::App,
    edge::{Call, Caller, Error, Params, Reads},
    hub::Entry,
    openapi::Doc,
};
use axum::{
    Json,
    extract::{Path, State},
};
use domain::wire::error::Code;
use serde::Serialize;
use serde_json::value::RawValue;
use std::sync::Arc;
use tokio::sync::Notify;

pub(crate) const DOC: Doc = Doc::get("/v1/queries/{id}/events", "The updates of a query so far")
    .by_key::<Reads>()
    .parameters(&["from_seq"])
    .answers(200, "QueryEvents")
    .refuses(&[Code::NotFound]);

#[derive(Debug, Serialize)]
pub(crate) struct Event {
    seq: u32,
    data: Box<RawValue>,
}

pub(crate) async fn handle(
    State(app): State<App>,
    call: Call,
    caller: Caller<Reads>,
    Path(id): Path<String>,
    params: Params,
) -> Result<Json<Vec<Event>>, Error> {
    let query = parse(&id)?;
    let from_seq = params.parsed("from_seq")?.unwrap_or(0);
    let bell = Arc::new(Notify::new());
    let entries = match follow_as_seen(&app, &call, caller.user, query, bell).await? {
        Source::Stream(follower) => follower.after(from_seq, usize::MAX),
        Source::Ended(item) => vec![Entry::ending(&item, from_seq)],
    };
    let events = entries.into_iter().filter_map(|entry| {
        Some(Event {
            seq: entry.seq,
            data: RawValue::from_string(entry.data().to_owned()).ok()?,
        })
    });
    Ok(Json(events.collect()))
}
