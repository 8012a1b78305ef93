//! `GET /v1/queries/{id}`

use super::parse;
use crate::{
    app::App,
    edge::{Call, Caller, Error, Reads},
    openapi::Doc,
};
use axum::{
    Json,
    extract::{Path, State},
};
use domain::wire::{error::Code, rest::QueryItem};

pub(crate) const DOC: Doc = Doc::get("/v1/queries/{id}", "One query")
    .by_key::<Reads>()
    .answers(200, "QueryItem")
    .refuses(&[Code::NotFound]);

pub(crate) async fn handle(
    State(app): State<App>,
    call: Call,
    caller: Caller<Reads>,
    Path(id): Path<String>,
) -> Result<Json<QueryItem>, Error> {
    let item = app.query(&call, caller.user, parse(&id)?).await?;
    item.map(Json).ok_or_else(|| Error::not_found("Query"))
}
