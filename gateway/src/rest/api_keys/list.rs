//! `GET /v1/api-keys`

use super::Item;
use crate::{
    app::App,
    edge::{Call, Error, Identity},
    openapi::Doc,
};
use axum::{Json, extract::State};
use domain::{
    subject::View,
    wire::{
        error::Failure,
        view::{ApiKeys, ApiKeysFound},
    },
};

pub(crate) const DOC: Doc = Doc::get("/v1/api-keys", "The caller's API keys that live")
    .signed_in()
    .answers(200, "ApiKeys");

pub(crate) async fn handle(
    State(app): State<App>,
    call: Call,
    identity: Identity,
) -> Result<Json<Vec<Item>>, Error> {
    let account = identity.user;
    let question = ApiKeys::List { account };
    let found = app.ask(&call, account, View::ApiKeys, question).await?;
    let ApiKeysFound::List(keys) = found else {
        return Err(Failure::internal().into());
    };
    Ok(Json(keys.into_iter().map(Item::from).collect()))
}
