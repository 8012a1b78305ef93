//! `GET /v1/catalog/events`

use crate::openapi::Doc;
use axum::{Json, response::IntoResponse};
use domain::{
    catalogue::{ENTRIES, Entry},
    subject::Kind,
};
use serde::Serialize;
use serde_json::Value;
use std::sync::LazyLock;

pub(crate) const EVENTS: Doc = Doc::get(
    "/v1/catalog/events",
    "Every type and version of event in the log, with its JSON Schema and an example",
)
.answers(200, "EventTypes");

#[derive(Debug, Serialize)]
pub(crate) struct EventType {
    r#type: &'static str,
    version: u32,
    aggregate: Kind,
    status: Status,
    superseded_by: Option<&'static str>,
    description: Value,
    schema: Value,
    example: Value,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    /// It is written today.
    Current,
    /// It is read, and written no more.
    Superseded,
}

impl From<&Entry> for EventType {
    fn from(entry: &Entry) -> Self {
        let (schema, superseded_by) = (entry.schema(), entry.superseded_by());
        Self {
            r#type: entry.name,
            version: entry.version(),
            aggregate: entry.aggregate,
            status: superseded_by.map_or(Status::Current, |_| Status::Superseded),
            superseded_by,
            description: schema["description"].clone(),
            schema,
            example: entry.example(),
        }
    }
}

pub(crate) async fn events() -> impl IntoResponse {
    static LIST: LazyLock<Vec<EventType>> =
        LazyLock::new(|| ENTRIES.iter().map(EventType::from).collect());
    Json(&*LIST)
}

#[cfg(test)]
pub(crate) fn example() -> EventType {
    EventType::from(&ENTRIES[0])
}
