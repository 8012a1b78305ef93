//! `DELETE /v1/api-keys/{id}`: the key is worthless at once, at every gateway.

use crate::{
    app::{App, Order},
    edge::{Call, Error, Identity},
    openapi::Doc,
};
use axum::{
    Json,
    extract::{Path, State},
};
use domain::{
    Actor,
    id::{ApiKeyId, CommandId},
    wire::{command::Body, error::Code},
};
use serde::Serialize;

pub(crate) const DOC: Doc = Doc::delete("/v1/api-keys/{id}", "Make an API key worthless")
    .signed_in()
    .answers(200, "ApiKeyRevoked")
    .refuses(&[Code::NotFound]);

#[derive(Debug, Serialize)]
pub(crate) struct Revoked {
    id: ApiKeyId,
    revoked: bool,
}

pub(crate) async fn handle(
    State(app): State<App>,
    call: Call,
    identity: Identity,
    Path(id): Path<String>,
) -> Result<Json<Revoked>, Error> {
    let key: ApiKeyId = id.parse().map_err(|_| Error::not_found("API key"))?;
    let order = Order {
        // Strangers' attempts are other commands.
        id: CommandId::derived(&[&identity.user.to_string(), &key.to_string(), "revoke"]),
        fingerprint: None,
        body: Body::RevokeApiKey { key },
    };
    app.order(&call, Actor::User(identity.user), order).await?;
    app.revocations.mark(key.uuid());
    Ok(Json(Revoked {
        id: key,
        revoked: true,
    }))
}
