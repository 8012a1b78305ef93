//! Gives out keys of single queries on [`subject::QUERY_KEY`], to gateways that follow one and
//! workers that answer one. They hold no master keys.
//!
//! Who asks names the person as well: the key is derived from that person's, so that asked in
//! another one's name it opens nothing.

use async_nats::{
    Client,
    service::{Request, ServiceExt},
};
use domain::{
    subject,
    wire::query_key::{self, Reply},
};
use futures_util::{FutureExt, StreamExt};
use infra::{lifecycle::Lifecycle, sealing::Keyring, telemetry};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tracing::{error, warn};

/// Questions that are answered at the same time, most of them without reading anything. More are
/// turned away, and come again.
const IN_WORK: usize = 1_024;

/// Offers it as a NATS micro service; everything belongs to the lifecycle.
///
/// # Errors
/// When the service cannot be announced.
pub async fn serve(
    client: &Client,
    keys: &Keyring,
    lifecycle: &Lifecycle,
) -> Result<(), async_nats::Error> {
    let service = client
        .service_builder()
        .description("Gives the key of one query to whoever follows or answers it")
        .start("query-keys", env!("CARGO_PKG_VERSION"))
        .await?;
    let mut endpoint = service
        .endpoint_builder()
        .name("query_key")
        .add(subject::QUERY_KEY)
        .await?;
    let permits = Arc::new(Semaphore::new(IN_WORK));
    let (keys, life) = (keys.clone(), lifecycle.clone());
    lifecycle.spawn("query keys", async move {
        // The service is announced for as long as it is held.
        let _service = service;
        loop {
            let request = tokio::select! {
                request = endpoint.next() => request,
                () = life.stopping() => return,
            };
            let Some(request) = request else { return };
            let Ok(permit) = permits.clone().try_acquire_owned() else {
                // Nothing here may wait: a subscription that is not read loses messages.
                if respond(&request, Reply::Unavailable)
                    .now_or_never()
                    .is_none()
                {
                    warn!("a question for a key could not be turned away");
                }
                continue;
            };
            let keys = keys.clone();
            life.spawn("query key", async move {
                let reply = answer(&keys, &request.message.payload).await;
                respond(&request, reply).await;
                drop(permit);
            });
        }
    });
    Ok(())
}

async fn answer(keys: &Keyring, question: &[u8]) -> Reply {
    let query_key::Request { query, owner } = match serde_json::from_slice(question) {
        Ok(question) => question,
        Err(error) => {
            error!(%error, "a question for a key cannot be read");
            return Reply::Unavailable;
        }
    };
    match keys.of_query(query, owner).await {
        Ok(answer) => answer.into(),
        Err(error) => {
            let reason = telemetry::chain(&error);
            warn!(query.id = %query, reason, "a key cannot be given");
            Reply::Unavailable
        }
    }
}

async fn respond(request: &Request, reply: Reply) {
    match serde_json::to_vec(&reply) {
        Ok(payload) => {
            if let Err(error) = request.respond(Ok(payload.into())).await {
                warn!(%error, "a key did not get out");
            }
        }
        Err(error) => error!(%error, "a key cannot be encoded"),
    }
}
