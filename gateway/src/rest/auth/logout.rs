//! `POST /v1/auth/logout`: ends the session of a refresh token, which may have expired. A token
//! that names no session of ours has nothing to end, which is as good as ended.

use crate::{
    app::{App, Order},
    edge::{self, Call, Error, Fields, Key},
    openapi::Doc,
};
use axum::{Json, extract::State};
use domain::{
    Actor,
    id::CommandId,
    wire::{command::Body, error::Code},
};
use serde::Serialize;

pub(crate) const DOC: Doc = Doc::post("/v1/auth/logout", "Sign out")
    .takes("RefreshToken")
    .answers(200, "Message");

#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    message: &'static str,
}

pub(crate) async fn handle(
    State(app): State<App>,
    call: Call,
    _: Key,
    body: edge::Body,
) -> Result<Json<Answer>, Error> {
    let mut fields = Fields::of(&body);
    let token = fields.required_text("refresh_token");
    fields.finish()?;
    let done = Json(Answer {
        message: "Logged out",
    });
    let Ok(good) = app.tokens.outdated_refresh(token, infra::clock::now()) else {
        return Ok(done);
    };
    let session = good.session;
    // A session ends once, whatever the key.
    let order = Order {
        id: CommandId::derived(&[&session.to_string(), "logout"]),
        fingerprint: None,
        body: Body::Logout { session },
    };
    match app.order(&call, Actor::User(good.user), order).await {
        Ok(_) => {}
        Err(failure) if failure.code == Code::SystemUnavailable => return Err(failure.into()),
        Err(failure) => {
            tracing::info!(code = failure.code.as_str(), "there was no session to end");
        }
    }
    app.revocations.mark(session.uuid());
    Ok(done)
}
