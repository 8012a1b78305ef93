//! Answers to `qry.<view>`, as endpoints of the NATS micro service `projection-svc`.

use crate::view::{Store, Unanswered, accounts, api_keys, persons, queries, sessions};
use async_nats::{
    Client,
    service::{Request, ServiceExt, endpoint::Endpoint},
};
use domain::{
    limits,
    subject::View,
    wire::view::{self, Reply},
};
use futures_util::StreamExt;
use infra::{clock, lifecycle::Lifecycle, telemetry::chain};
use serde::{Serialize, de::DeserializeOwned};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout_at},
};
use tracing::{debug, error, info, warn};

/// Most questions in work at a time. Above that the answer is `Unavailable` at once: a caller who
/// waits for rows that do not come should not make others wait as well.
const IN_WORK: usize = 256;

/// Answers until the life ends, for as long as the live generation is of our version: where it is
/// not, the questions are left to instances of that version.
pub(crate) async fn serve(
    client: &Client,
    store: &Store,
    mut applied: watch::Receiver<Option<u64>>,
    lifecycle: &Lifecycle,
) -> Result<(), async_nats::Error> {
    let permits = Arc::new(Semaphore::new(IN_WORK));
    loop {
        tokio::select! {
            () = lifecycle.stopping() => return Ok(()),
            _ = applied.wait_for(Option::is_some) => {}
        }
        let service = client
            .service_builder()
            .description("Read models")
            .queue_group("projection-svc")
            .start("projection-svc", env!("CARGO_PKG_VERSION"))
            .await?;
        let desk = Desk {
            client: client.clone(),
            store: store.clone(),
            applied: applied.clone(),
            permits: permits.clone(),
            lifecycle: lifecycle.clone(),
        };
        for view in View::ALL {
            let endpoint = service.endpoint(view.subject()).await?;
            lifecycle.spawn("questions", desk.clone().attend(view, endpoint));
        }
        // Whoever hears of this service may ask it from now on.
        client.flush().await?;
        info!(views = View::ALL.len(), "answering questions");
        tokio::select! {
            () = lifecycle.stopping() => {}
            _ = applied.wait_for(Option::is_none) => {
                info!("no questions are answered: the live generation is not of our version");
            }
        }
        service.stop().await?;
    }
}

/// What answering takes.
#[derive(Clone)]
struct Desk {
    client: Client,
    store: Store,
    applied: watch::Receiver<Option<u64>>,
    permits: Arc<Semaphore>,
    lifecycle: Lifecycle,
}

impl Desk {
    /// Takes the questions to one view, until the endpoint is closed or the life ends.
    async fn attend(self, view: View, mut endpoint: Endpoint) {
        loop {
            let request = tokio::select! {
                request = endpoint.next() => request,
                () = self.lifecycle.stopping() => None,
            };
            let Some(request) = request else { return };
            let permit = self.permits.clone().try_acquire_owned();
            let desk = self.clone();
            self.lifecycle.spawn("question", async move {
                let payload = match &permit {
                    Ok(_) => desk.answer(view, &request.message.payload).await,
                    Err(_) => unavailable(),
                };
                desk.reply(view, &request, payload).await;
            });
        }
    }

    async fn answer(&self, view: View, payload: &[u8]) -> Vec<u8> {
        match view {
            View::Accounts => self.ask(view, payload, accounts::query).await,
            View::Sessions => self.ask(view, payload, sessions::query).await,
            View::Queries => self.ask(view, payload, queries::query).await,
            View::ApiKeys => self.ask(view, payload, api_keys::query).await,
            View::Persons => self.ask(view, payload, persons::query).await,
        }
    }

    /// Waits until the rows reflect what the caller has seen, then looks.
    async fn ask<Q, R, F>(
        &self,
        view: View,
        payload: &[u8],
        query: impl FnOnce(Store, Q) -> F,
    ) -> Vec<u8>
    where
        Q: DeserializeOwned,
        R: Serialize,
        F: Future<Output = Result<R, Unanswered>>,
    {
        let view = view.as_str();
        let request: view::Request<Q> = match serde_json::from_slice(payload) {
            Ok(request) => request,
            Err(error) => {
                warn!(view, %error, "unreadable question");
                return unavailable();
            }
        };
        let request_id = request.request_id.as_str();
        let left = request.deadline.millis_since(clock::now());
        let now = Instant::now();
        let wait = now + Duration::from_millis(left.min(limits::READ_WAIT_MILLIS));
        let deadline = now + Duration::from_millis(left);
        let Some(as_of) = self.reached(request.at_least, wait).await else {
            let (at_least, applied) = (request.at_least, *self.applied.borrow());
            // The projection itself tells why; while it pauses there is one of these a question.
            debug!(request_id, view, at_least, applied, "the rows lag behind");
            return unavailable();
        };
        // `as_of` was read before the rows are, so that they reflect at least that.
        let error = match timeout_at(deadline, query(self.store.clone(), request.question)).await {
            Ok(Ok(result)) => match serde_json::to_vec(&Reply::Found { as_of, result }) {
                Ok(json) => return json,
                Err(error) => Box::<dyn std::error::Error + Send + Sync>::from(error),
            },
            Ok(Err(error)) => error.into(),
            Err(late) => late.into(),
        };
        let error = chain(&*error);
        warn!(request_id, view, error, "the question cannot be answered");
        unavailable()
    }

    /// The sequence that the rows reflect, once it is at least `wanted`.
    async fn reached(&self, wanted: u64, until: Instant) -> Option<u64> {
        let mut applied = self.applied.clone();
        let reached = timeout_at(until, applied.wait_for(|seq| *seq >= Some(wanted))).await;
        *reached.ok()?.ok()?
    }

    async fn reply(&self, view: View, request: &Request, mut payload: Vec<u8>) {
        let most = self.client.server_info().max_payload;
        if payload.len() > most {
            // The server would end the connection.
            error!(
                view = view.as_str(),
                bytes = payload.len(),
                most,
                "an answer is too large"
            );
            payload = unavailable();
        }
        if let Err(error) = request.respond(Ok(payload.into())).await {
            warn!(view = view.as_str(), %error, "an answer cannot be sent");
        }
    }
}

fn unavailable() -> Vec<u8> {
    serde_json::to_vec(&Reply::<()>::Unavailable).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unavailable_is_read_as_such_whatever_was_asked() {
        let reply: Reply<view::QueryPage> = serde_json::from_slice(&unavailable()).unwrap();
        assert!(matches!(reply, Reply::Unavailable));
    }
}
