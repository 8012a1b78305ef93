//! Commands and questions between services, as NATS requests.

use crate::{clock, retry::Backoff};
use async_nats::{Client, Request};
use domain::{
    Timestamp, subject,
    wire::{command, view},
};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;
use tracing::warn;

/// How long one attempt waits; then the command is sent again with the same id.
const ATTEMPT: Duration = Duration::from_secs(6);

/// Sends commands to command-svc.
#[derive(Clone, Debug)]
pub struct Commands {
    client: Client,
}

impl Commands {
    /// Over this connection.
    pub const fn new(client: Client) -> Self {
        Self { client }
    }

    /// Sends a command until it is accepted or refused or its deadline has passed, for senders who
    /// can wait: an overload of command-svc is waited out.
    pub async fn insist(&self, request: &command::Request) -> command::Reply {
        loop {
            let reply = self.send(request).await;
            let command::Reply::Overloaded { retry_after_ms } = reply else {
                return reply;
            };
            let pause = Duration::from_millis(retry_after_ms.into());
            if pause >= left(request.deadline) {
                return reply;
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Sends a command until there is an answer or its deadline has passed, always with the same
    /// id, so that it takes effect at most once. `Unavailable` means that nothing is known. An
    /// overload is answered at once: trying again here would add to it.
    pub async fn send(&self, request: &command::Request) -> command::Reply {
        let Ok(payload) = serde_json::to_vec(request) else {
            return command::Reply::Unavailable;
        };
        let subject = subject::command(request.body.kind());
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            let left = left(request.deadline);
            if left.is_zero() {
                return command::Reply::Unavailable;
            }
            let attempt = Request::new()
                .payload(payload.clone().into())
                .timeout(Some(left.min(ATTEMPT)));
            match self.client.send_request(subject.clone(), attempt).await {
                Ok(message) => match serde_json::from_slice(&message.payload) {
                    Ok(command::Reply::Unavailable) => {}
                    Ok(reply) => return reply,
                    Err(error) => {
                        warn!(request_id = request.request_id, %error, "unreadable reply");
                    }
                },
                Err(error) => {
                    warn!(request_id = request.request_id, command = ?request.body, %error, "no reply");
                }
            }
            let pause = backoff.delay();
            if pause >= self::left(request.deadline) {
                return command::Reply::Unavailable;
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// Asks projection-svc.
#[derive(Clone, Debug)]
pub struct Views {
    client: Client,
}

impl Views {
    /// Over this connection.
    pub const fn new(client: Client) -> Self {
        Self { client }
    }

    /// Asks a view once; `Unavailable` when nobody answers in time.
    pub async fn ask<Q: Serialize + Sync, R: DeserializeOwned>(
        &self,
        view: subject::View,
        request: &view::Request<Q>,
    ) -> view::Reply<R> {
        let Ok(payload) = serde_json::to_vec(request) else {
            return view::Reply::Unavailable;
        };
        let ask = Request::new()
            .payload(payload.into())
            .timeout(Some(left(request.deadline)));
        match self.client.send_request(view.subject(), ask).await {
            Ok(message) => serde_json::from_slice(&message.payload).unwrap_or_else(|error| {
                warn!(request_id = request.request_id, %error, "unreadable answer");
                view::Reply::Unavailable
            }),
            Err(error) => {
                warn!(request_id = request.request_id, view = view.as_str(), %error, "no answer");
                view::Reply::Unavailable
            }
        }
    }
}

fn left(deadline: Timestamp) -> Duration {
    Duration::from_millis(deadline.millis_since(clock::now()))
}
