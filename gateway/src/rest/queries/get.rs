//! `GET /v1/queries/{id}`

use super::parse;
use crate::{
    app::App,
    edge::{Call, Error, Identity},
    openapi::Doc,
};
use axum::{
    Json,
    extract::{Path, State},
};
use domain::wire::{error::Code, rest::QueryItem};

pub(crate) const DOC: Doc = Doc::get("/v1/queries/{id}", "One query")
    .signed_in()
    .answers(200, "QueryItem")
    .refuses(&[Code::NotFound]);

pub(crate) async fn handle(
    State(app): State<App>,
    call: Call,
    identity: Identity,
    Path(id): Path<String>,
) -> Result<Json<QueryItem>, Error> {
    let item = app.query(&call, identity.user, parse(&id)?).await?;
    item.map(Json).ok_or_else(|| Error::not_found("Query"))
}
