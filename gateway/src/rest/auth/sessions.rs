//! `GET /v1/auth/sessions`

use crate::{
    app::App,
    edge::{Call, Error, Identity},
    openapi::Doc,
};
use axum::{Json, extract::State};
use domain::{
    subject::View,
    wire::{
        rest::SessionItem,
        view::{Sessions, SessionsFound},
    },
};
use serde::Serialize;

pub(crate) const DOC: Doc = Doc::get("/v1/auth/sessions", "The caller's device sessions")
    .signed_in()
    .answers(200, "Sessions");

#[derive(Debug, Serialize)]
pub(crate) struct Item {
    #[serde(flatten)]
    session: SessionItem,
    /// Whether it is the caller's own.
    current: bool,
}

pub(crate) async fn handle(
    State(app): State<App>,
    call: Call,
    identity: Identity,
) -> Result<Json<Vec<Item>>, Error> {
    let question = Sessions::List {
        account: identity.user,
    };
    let found: SessionsFound = app
        .ask(&call, identity.user, View::Sessions, question)
        .await?;
    let items = found.into_iter().map(|session| Item {
        current: session.session_id == identity.session,
        session,
    });
    Ok(Json(items.collect()))
}
