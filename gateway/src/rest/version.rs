//! `GET /v1/version`

use crate::{app::App, openapi::Doc};
use axum::{Json, extract::State};
use serde::Serialize;

pub(crate) const DOC: Doc =
    Doc::get("/v1/version", "Versions of the interface and the server").answers(200, "Version");

#[derive(Debug, Serialize)]
pub(crate) struct Version {
    api_version: &'static str,
    server_version: &'static str,
    min_client_version: String,
}

pub(crate) async fn handle(State(app): State<App>) -> Json<Version> {
    Json(Version {
        api_version: "v1",
        server_version: env!("CARGO_PKG_VERSION"),
        min_client_version: app.min_client_version.clone(),
    })
}
