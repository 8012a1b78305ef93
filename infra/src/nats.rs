//! The connection to NATS. It comes back by itself after every loss, for as long as the process
//! lives; what is asked meanwhile fails after its own deadline.

use crate::config;
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use std::{sync::atomic::Ordering, time::Duration};
use tracing::{info, warn};

/// NATS could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("NATS cannot be reached")]
pub struct Error(#[from] async_nats::ConnectError);

/// Longest wait between two attempts to connect again.
const RECONNECT_MAX: Duration = Duration::from_millis(500);

/// Connects. `name` is shown in the server's list of connections.
///
/// # Errors
/// When the first connection cannot be made, or its server refuses the credentials in the URL; later
/// losses are mended in the background.
pub async fn connect(config: &config::Nats, name: &str) -> Result<Client, Error> {
    let servers: Vec<&str> = config.url.expose().split(',').collect();
    let mut options = ConnectOptions::new();
    // The client library takes no notice of credentials in a URL.
    let first = servers
        .first()
        .and_then(|url| url.parse::<ServerAddr>().ok());
    if let Some(first) = &first
        && let (Some(user), Some(password)) = (first.username(), first.password())
    {
        options = options.user_and_password(user.to_owned(), password.to_owned());
    }
    let client = options
        .name(name)
        .max_reconnects(None)
        .ping_interval(Duration::from_secs(10))
        .connection_timeout(Duration::from_secs(5))
        .request_timeout(Some(Duration::from_secs(5)))
        .subscription_capacity(65_536)
        .client_capacity(8_192)
        .reconnect_delay_callback(|attempt| {
            let millis = 20u64.saturating_mul(1 << attempt.min(5));
            Duration::from_millis(millis).min(RECONNECT_MAX)
        })
        .event_callback(|event| async move {
            match event {
                Event::Connected => info!("connected to NATS"),
                Event::Disconnected => warn!("lost the connection to NATS"),
                other => warn!(event = %other, "NATS client"),
            }
        })
        .connect(servers)
        .await?;
    Ok(client)
}

/// How many times this client has been connected. Where the number has changed, what the server
/// held for the connection before is gone, and messages may have been missed.
pub fn connects(client: &Client) -> u64 {
    client.statistics().connects.load(Ordering::Relaxed)
}
