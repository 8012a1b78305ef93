//! Tells others, again and again, what this worker can take.

use crate::models::Models;
use async_nats::Client;
use domain::wire::worker::{HEARTBEAT_MILLIS, Registration};
use infra::{clock, telemetry, workers};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Tells it until `ended`, and takes the worker off the list then. Nobody hands work to one that
/// is `draining`.
pub(crate) async fn run(
    client: &Client,
    name: &str,
    models: &Models,
    draining: CancellationToken,
    ended: CancellationToken,
) {
    let mut beat = tokio::time::interval(Duration::from_millis(HEARTBEAT_MILLIS));
    let mut is_draining = false;
    loop {
        tokio::select! {
            _ = beat.tick() => {}
            () = draining.cancelled(), if !is_draining => is_draining = true,
            () = ended.cancelled() => break,
        }
        let registration = Registration {
            worker: name.to_owned(),
            models: models.registered(),
            draining: is_draining,
            at: clock::now(),
        };
        if let Err(error) = workers::register(client, &registration).await {
            warn!(
                reason = telemetry::chain(&error),
                "the worker is not on the list"
            );
        }
    }
    // It would count as gone a few seconds later.
    if let Err(error) = workers::leave(client, name).await {
        warn!(
            reason = telemetry::chain(&error),
            "the worker stays on the list for now"
        );
    }
}
