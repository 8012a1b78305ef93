//! `GET /.well-known/jwks.json` and `GET /v1/auth/jwks`: the keys that tokens are signed with.

use crate::{app::App, keys::KeySet, openapi::Doc};
use axum::{Json, extract::State, response::IntoResponse};
use http::header;

pub(crate) const DOC: Doc =
    Doc::get("/v1/auth/jwks", "Public keys of the tokens").answers(200, "KeySet");
pub(crate) const WELL_KNOWN: Doc =
    Doc::get("/.well-known/jwks.json", "Public keys of the tokens").answers(200, "KeySet");

pub(crate) async fn handle(State(app): State<App>) -> impl IntoResponse {
    let set: KeySet = app.tokens.key_set().clone();
    ([(header::CACHE_CONTROL, "max-age=300")], Json(set))
}
