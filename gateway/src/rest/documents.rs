//! `GET /openapi.json`

use crate::openapi::{self, Doc};
use axum::{Json, response::IntoResponse};

pub(crate) const OPENAPI: Doc =
    Doc::get("/openapi.json", "This document").answers(200, "AnyObject");

pub(crate) async fn openapi() -> impl IntoResponse {
    static DOCUMENT: std::sync::LazyLock<serde_json::Value> =
        std::sync::LazyLock::new(|| serde_json::to_value(openapi::document()).unwrap_or_default());
    Json(&*DOCUMENT)
}
