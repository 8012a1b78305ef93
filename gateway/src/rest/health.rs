//! `GET /health` and `GET /health/ready`

use crate::{app::App, edge::Error, openapi::Doc};
use axum::{Json, extract::State};
use domain::wire::error::Code;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

pub(crate) const ALIVE: Doc =
    Doc::get("/health", "Whether the process lives").answers(200, "Alive");
pub(crate) const READY: Doc =
    Doc::get("/health/ready", "Whether requests can be served").answers(200, "Ready");

/// Each check's patience; the probe's own is 3 s.
const PATIENCE: Duration = Duration::from_millis(1_500);

pub(crate) async fn alive() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

pub(crate) async fn ready(State(app): State<App>) -> Result<Json<Value>, Error> {
    let (nats, postgres) = tokio::join!(nats(&app), postgres(&app));
    let stopping = app.lifecycle.is_stopping();
    let checks = json!({"nats": word(nats), "postgres": word(postgres)});
    if nats && postgres && !stopping {
        return Ok(Json(json!({"status": "ready", "checks": checks})));
    }
    let message = if stopping {
        "Shutting down"
    } else {
        "A dependency is down"
    };
    Err(Error {
        beside: BTreeMap::from([("status", "unavailable".into()), ("checks", checks)]),
        ..Error::new(Code::SystemUnavailable, message)
    })
}

const fn word(works: bool) -> &'static str {
    if works { "ok" } else { "down" }
}

async fn nats(app: &App) -> bool {
    let flushed = tokio::time::timeout(PATIENCE, app.nats.flush()).await;
    let connection = *app.hub.connection().borrow();
    matches!(flushed, Ok(Ok(()))) && connection.is_up && app.revocations.is_synced()
}

/// The gateway has no database of its own: the read models do.
async fn postgres(app: &App) -> bool {
    let millis = i64::try_from(PATIENCE.as_millis()).unwrap_or(i64::MAX);
    app.reads_work(infra::clock::now().plus_millis(millis))
        .await
}
