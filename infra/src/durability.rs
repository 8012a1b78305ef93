//! Whether the servers of the log do what the configuration promises: sync every write before they
//! acknowledge it.
//!
//! A client cannot see that. A user of the system account can: every server answers
//! `$SYS.REQ.SERVER.PING.JSZ` with its settings, the members of a cluster one by one.
//! `infra/deploy/nats-system.conf` makes such a user, who may ask nothing else.

use crate::{config, nats};
use futures_util::StreamExt;
use serde::Deserialize;
use std::time::Duration;
use tracing::{info, warn};

const ASK: &str = "$SYS.REQ.SERVER.PING.JSZ";
/// How long to wait for the first answer.
const FIRST: Duration = Duration::from_secs(5);
/// How long to wait for one more member of a cluster.
const NEXT: Duration = Duration::from_millis(500);

/// Why nobody should rely on what the log acknowledges.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A server acknowledges before its disk has the message.
    #[error(
        "NATS_SYNC=always, but nats-server {server} does not sync every write: set `sync_interval: always` in its `jetstream` block, or say NATS_SYNC=relaxed"
    )]
    Weaker {
        /// The server's name.
        server: String,
    },
    /// Nobody can be asked.
    #[error(
        "NATS_SYNC=always, but no server can be asked whether it syncs every write: set NATS_SYSTEM_URL to a user of the system account (infra/deploy/nats-system.conf), or NATS_SYNC_UNCHECKED=true if you have made sure yourself, or NATS_SYNC=relaxed"
    )]
    Unknown,
    /// The system account cannot be reached.
    #[error("NATS_SYSTEM_URL cannot be used")]
    Connect(#[from] nats::Error),
    /// Nobody answered what only a user of the system account may ask.
    #[error("no server answers {ASK} at NATS_SYSTEM_URL: is its user one of the system account?")]
    NoAnswer,
}

#[derive(Deserialize)]
struct Answer {
    server: Server,
    data: Data,
}

#[derive(Deserialize)]
struct Server {
    name: String,
}

#[derive(Deserialize)]
struct Data {
    /// Absent where JetStream is off: such a server stores nothing.
    config: Option<JetStream>,
}

#[derive(Deserialize)]
struct JetStream {
    #[serde(default)]
    sync_always: bool,
}

/// Checks that every server that answers syncs every write, if that is promised. A member that is
/// down is not asked: it cannot store anything either.
///
/// # Errors
/// When a server does not, or none can be asked and nobody vouches for them.
pub async fn check(config: &config::Nats) -> Result<(), Error> {
    if config.sync == config::Sync::Relaxed {
        return Ok(());
    }
    let Some(url) = &config.system_url else {
        if config.sync_unchecked {
            warn!("NATS_SYNC_UNCHECKED: that the log syncs every write is taken on trust");
            return Ok(());
        }
        return Err(Error::Unknown);
    };
    let system = config::Nats {
        url: url.clone(),
        ..config.clone()
    };
    let client = nats::connect(&system, "durability-check").await?;
    let inbox = client.new_inbox();
    let mut answers = client
        .subscribe(inbox.clone())
        .await
        .map_err(|_| Error::NoAnswer)?;
    client
        .publish_with_reply(ASK, inbox, "".into())
        .await
        .map_err(|_| Error::NoAnswer)?;
    let (mut asked, mut patience) = (0, FIRST);
    while let Ok(Some(message)) = tokio::time::timeout(patience, answers.next()).await {
        let Ok(answer) = serde_json::from_slice::<Answer>(&message.payload) else {
            continue;
        };
        patience = NEXT;
        if let Some(jetstream) = answer.data.config {
            asked += 1;
            if !jetstream.sync_always {
                return Err(Error::Weaker {
                    server: answer.server.name,
                });
            }
        }
    }
    if asked == 0 {
        return Err(Error::NoAnswer);
    }
    info!(
        servers = asked,
        "the log syncs every write before it acknowledges"
    );
    Ok(())
}
