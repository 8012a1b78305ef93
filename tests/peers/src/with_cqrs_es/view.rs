//! The row of a query: a document in a table of `postgres-es`.

use super::aggregate::{Event, Query};
use cqrs_es::{EventEnvelope, View};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What is known of a query.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct QueryView {
    owner: Uuid,
    query: String,
    operation: String,
    status: String,
    worker: Option<String>,
    model: Option<String>,
    response_text: Option<String>,
    model_used: Option<String>,
    created_at: i64,
    started_at: Option<i64>,
    completed_at: Option<i64>,
}

impl View<Query> for QueryView {
    fn update(&mut self, event: &EventEnvelope<Query>) {
        match event.payload.clone() {
            Event::Submitted {
                owner,
                text,
                operation,
                at,
            } => {
                self.owner = owner;
                self.query = text;
                self.operation = operation;
                self.status = "queued".to_owned();
                self.created_at = at;
            }
            Event::Started { worker, model, at } => {
                self.status = "processing".to_owned();
                self.worker = Some(worker);
                self.model = Some(model);
                self.started_at = Some(at);
            }
            Event::Completed {
                response_text,
                model_used,
                at,
            } => {
                self.status = "completed".to_owned();
                self.response_text = Some(response_text);
                self.model_used = Some(model_used);
                self.completed_at = Some(at);
            }
        }
    }
}
