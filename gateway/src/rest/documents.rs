//! `GET /openapi.json`, `GET /asyncapi.json`

use crate::{
    asyncapi,
    openapi::{self, Doc},
};
use axum::{Json, response::IntoResponse};
use serde_json::Value;
use std::sync::LazyLock;

pub(crate) const OPENAPI: Doc =
    Doc::get("/openapi.json", "This document").answers(200, "AnyObject");

pub(crate) const ASYNCAPI: Doc = Doc::get(
    "/asyncapi.json",
    "The AsyncAPI 3 document: the frames of the socket, token streams, events on the bus",
)
.answers(200, "AnyObject");

pub(crate) async fn openapi() -> impl IntoResponse {
    static DOCUMENT: LazyLock<Value> =
        LazyLock::new(|| serde_json::to_value(openapi::document()).unwrap_or_default());
    Json(&*DOCUMENT)
}

pub(crate) async fn asyncapi() -> impl IntoResponse {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(asyncapi::document);
    Json(&*DOCUMENT)
}
