//! `POST /v1/queries/{id}/cancel`

use super::parse;
use crate::{
    app::{App, Order},
    edge::{Call, Caller, Error, Key, Writes},
    openapi::Doc,
};
use axum::{
    Json,
    extract::{Path, State},
};
use domain::{
    Actor,
    id::QueryId,
    wire::{command::Body, error::Code},
};
use serde::Serialize;

pub(crate) const DOC: Doc = Doc::post("/v1/queries/{id}/cancel", "End a query without an answer")
    .by_key::<Writes>()
    .answers(200, "Cancelled")
    .refuses(&[Code::NotFound, Code::Conflict]);

#[derive(Debug, Serialize)]
pub(crate) struct Cancelled {
    query_id: QueryId,
    status: &'static str,
}

pub(crate) async fn handle(
    State(app): State<App>,
    call: Call,
    caller: Caller<Writes>,
    key: Key,
    Path(id): Path<String>,
) -> Result<Json<Cancelled>, Error> {
    let query = parse(&id)?;
    let who = format!("{}/{query}", caller.user);
    let order = Order::new(&key, &who, "cancel", Body::CancelQuery { query });
    app.order(&call, Actor::User(caller.user), order).await?;
    Ok(Json(Cancelled {
        query_id: query,
        status: "cancelled",
    }))
}
