//! `POST /v1/auth/refresh`: exchanges a refresh token for a new pair. An `Authorization` header is
//! not looked at.

use super::{TokenBody, token_body};
use crate::{
    app::{App, Order},
    edge::{self, Call, Error, Fields, Key, identity::demand_person},
    openapi::Doc,
    tokens,
};
use axum::{Json, extract::State};
use domain::{
    Actor,
    wire::{command::Body, error::Code},
};

pub(crate) const DOC: Doc = Doc::post(
    "/v1/auth/refresh",
    "Exchange a refresh token for a new pair",
)
.takes("RefreshToken")
.answers(200, "TokenBody")
.refuses(&[
    Code::AuthTokenExpired,
    Code::AuthTokenInvalid,
    Code::AuthUserNotFound,
]);

pub(crate) async fn handle(
    State(app): State<App>,
    call: Call,
    key: Key,
    body: edge::Body,
) -> Result<Json<TokenBody>, Error> {
    let mut fields = Fields::of(&body);
    let token = fields.required_text("refresh_token");
    fields.finish()?;
    let good = app.tokens.refresh(token, infra::clock::now())?;
    if app.revocations.is_revoked(good.session.uuid()) {
        return Err(tokens::revoked().into());
    }
    demand_person(&app, good.user)?;
    // A superseded `jti` is not refused here: the session must learn that it was used again.
    let command = Body::Refresh {
        session: good.session,
        refresh: good.refresh,
    };
    let order = Order::new(&key, &good.session.to_string(), "refresh", command);
    let outcome = app.order(&call, Actor::Anonymous, order).await?;
    Ok(token_body(&app, &call, outcome)?)
}
