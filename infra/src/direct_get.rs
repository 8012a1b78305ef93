//! Reading the messages of one subject in a single round trip per thousand, without a consumer
//! (batched direct get, nats-server 2.11 and newer).

use async_nats::{Client, HeaderMap, Message, header};
use bytes::Bytes;
use futures_util::StreamExt;
use std::time::Duration;

/// Messages per round trip.
const BATCH: usize = 1_000;
/// Longest silence within a batch.
const SILENCE: Duration = Duration::from_secs(5);

/// A message as the stream holds it.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its sequence in the stream.
    pub seq: u64,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its payload.
    pub payload: Bytes,
}

/// The messages could not be read; trying again may help.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request did not get out, or nobody answered it.
    #[error("no answer from stream {stream}")]
    NoAnswer {
        /// The stream.
        stream: String,
    },
    /// The server answered with an error status.
    #[error("stream {stream} answers {status}: {description}")]
    Status {
        /// The stream.
        stream: String,
        /// Its status.
        status: u16,
        /// In its words.
        description: String,
    },
}

/// All messages of `subject` from stream sequence `from` on, in order.
///
/// # Errors
/// When the stream cannot be read just now.
pub async fn subject(
    client: &Client,
    stream: &str,
    subject: &str,
    from: u64,
) -> Result<Vec<Stored>, Error> {
    let mut found = Vec::new();
    let mut next = from.max(1);
    loop {
        let (batch, more) = round_trip(client, stream, subject, next).await?;
        if let Some(last) = batch.last() {
            next = last.seq + 1;
        }
        let empty = batch.is_empty();
        found.extend(batch);
        if !more || empty {
            return Ok(found);
        }
    }
}

async fn round_trip(
    client: &Client,
    stream: &str,
    subject: &str,
    from: u64,
) -> Result<(Vec<Stored>, bool), Error> {
    let no_answer = || Error::NoAnswer {
        stream: stream.to_owned(),
    };
    let inbox = client.new_inbox();
    let mut replies = client
        .subscribe(inbox.clone())
        .await
        .map_err(|_| no_answer())?;
    let ask = serde_json::json!({ "seq": from, "next_by_subj": subject, "batch": BATCH });
    let api = format!("$JS.API.DIRECT.GET.{stream}");
    client
        .publish_with_reply(api, inbox, ask.to_string().into())
        .await
        .map_err(|_| no_answer())?;
    let mut batch = Vec::new();
    loop {
        let reply = tokio::time::timeout(SILENCE, replies.next()).await;
        let Ok(Some(reply)) = reply else {
            return Err(no_answer());
        };
        match reply.status.map(|status| status.as_u16()) {
            None => batch.push(stored(reply).ok_or_else(no_answer)?),
            // End of batch; how many more there are stands beside it.
            Some(204) => {
                let pending = number(reply.headers.as_ref(), NUM_PENDING).unwrap_or(0);
                return Ok((batch, pending > 0));
            }
            Some(404) => return Ok((batch, false)),
            Some(status) => {
                return Err(Error::Status {
                    stream: stream.to_owned(),
                    status,
                    description: reply.description.unwrap_or_default(),
                });
            }
        }
    }
}

const NUM_PENDING: &str = "Nats-Num-Pending";

fn stored(message: Message) -> Option<Stored> {
    let headers = message.headers?;
    let seq = number(Some(&headers), header::NATS_SEQUENCE.as_ref())?;
    Some(Stored {
        seq,
        headers,
        payload: message.payload,
    })
}

fn number(headers: Option<&HeaderMap>, name: &str) -> Option<u64> {
    headers?.get(name)?.as_str().parse().ok()
}
