//! `DELETE /v1/users/me`: everything about the person is forgotten. It begins at once, and no token
//! of theirs is good any more; how it goes on is told nobody, since nobody is there to ask.

use crate::{
    app::{App, Order},
    edge::{self, Call, Error, Fields, Identity},
    openapi::Doc,
    rest::auth::LOGIN_PASSWORD_BYTES,
};
use axum::{Json, extract::State};
use domain::{
    Actor, Timestamp,
    id::CommandId,
    wire::{
        command::{Body, Outcome},
        error::{Code, DetailKind, Failure},
    },
};
use http::StatusCode;
use serde::Serialize;

pub(crate) const DOC: Doc =
    Doc::delete("/v1/users/me", "Delete the account and everything about it")
        .signed_in()
        .takes("Password")
        .answers(202, "Erasing")
        .refuses(&[Code::AuthInvalidCredentials, Code::AuthUserNotFound]);

#[derive(Debug, Serialize)]
pub(crate) struct Erasing {
    message: &'static str,
    requested_at: Timestamp,
}

pub(crate) async fn handle(
    State(app): State<App>,
    call: Call,
    identity: Identity,
    body: edge::Body,
) -> Result<(StatusCode, Json<Erasing>), Error> {
    let mut fields = Fields::of(&body);
    let password = fields.required_text("password").to_owned();
    if password.len() > LOGIN_PASSWORD_BYTES {
        fields.problem("password", DetailKind::TooLarge, "Is too long");
    }
    fields.finish()?;
    let account = identity.user;
    let order = Order {
        // A wrong password is no command that was given: each attempt counts for itself.
        id: CommandId::new(infra::clock::fresh_id()),
        fingerprint: None,
        body: Body::EraseAccount {
            account,
            password: Some(password),
        },
    };
    let outcome = app.order(&call, Actor::User(account), order).await?;
    let Outcome::Erasing { since } = outcome else {
        return Err(Failure::internal().into());
    };
    app.revocations.mark(account.uuid());
    let answer = Erasing {
        message: "The account is being deleted",
        requested_at: since,
    };
    Ok((StatusCode::ACCEPTED, Json(answer)))
}
