//! Reading the messages of one subject in a single round trip per thousand, and the last ones of
//! many subjects, without a consumer (batched direct get, nats-server 2.11 and newer).
//!
//! Each request has a subscription of its own for its answers. That is two lines to the server and
//! no round trip; a shared one would need a task that hands the answers out.

use async_nats::{Client, HeaderMap, Message, header, jetstream::message::StreamMessage};
use bytes::Bytes;
use futures_util::StreamExt;
use std::{collections::HashMap, time::Duration};

/// Messages per round trip.
pub const BATCH: usize = 1_000;
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
    let mut next = from;
    loop {
        let (page, more) = page(client, stream, subject, next, BATCH).await?;
        if let Some(last) = page.last() {
            next = last.seq + 1;
        }
        let empty = page.is_empty();
        found.extend(page);
        if !more || empty {
            return Ok(found);
        }
    }
}

/// At most `most` messages of `subject` from stream sequence `from` on, in order, in one round
/// trip, and whether there are more.
///
/// # Errors
/// When the stream cannot be read just now.
pub async fn page(
    client: &Client,
    stream: &str,
    subject: &str,
    from: u64,
    most: usize,
) -> Result<(Vec<Stored>, bool), Error> {
    let from = from.max(1);
    let ask = serde_json::json!({ "seq": from, "next_by_subj": subject, "batch": most });
    let (found, more) = ask_for(client, stream, &ask).await?;
    let found: Option<Vec<Stored>> = found.into_iter().map(stored).collect();
    let found = found.ok_or_else(|| no_answer(stream));
    Ok((found?, more))
}

/// The messages of all subjects from stream sequence `from` on, in order, in one round trip: at
/// most [`BATCH`], and none after the one that passes `bytes`. Sequences may be missing, and a
/// replica that lags behind answers with what it has; nothing where it has nothing.
///
/// # Errors
/// When the stream cannot be read just now.
pub async fn range(
    client: &Client,
    stream: &str,
    from: u64,
    bytes: usize,
) -> Result<Vec<StreamMessage>, Error> {
    let from = from.max(1);
    let ask = serde_json::json!({
        "seq": from, "next_by_subj": ">", "batch": BATCH, "max_bytes": bytes
    });
    as_stored(client, stream, &ask).await
}

/// At most [`BATCH`] messages of one subject from the beginning, in order, as they are stored.
///
/// # Errors
/// When the stream cannot be read just now.
pub async fn whole(
    client: &Client,
    stream: &str,
    subject: &str,
) -> Result<Vec<StreamMessage>, Error> {
    let ask = serde_json::json!({ "seq": 1, "next_by_subj": subject, "batch": BATCH });
    as_stored(client, stream, &ask).await
}

async fn as_stored(
    client: &Client,
    stream: &str,
    ask: &serde_json::Value,
) -> Result<Vec<StreamMessage>, Error> {
    let (found, _) = ask_for(client, stream, ask).await?;
    let found: Result<_, _> = found.into_iter().map(StreamMessage::try_from).collect();
    found.map_err(|_| no_answer(stream))
}

/// The sequences of the last messages of these subjects; those without one are not in it. A
/// replica may answer that lags behind, so a head may be older than it is, never newer.
///
/// # Errors
/// When the stream cannot be read just now.
pub async fn heads(
    client: &Client,
    stream: &str,
    subjects: &[&str],
) -> Result<HashMap<String, u64>, Error> {
    let lasts = lasts(client, stream, subjects).await?;
    let heads = lasts.into_iter().map(|(subject, last)| (subject, last.seq));
    Ok(heads.collect())
}

/// The last messages of these subjects, as [`heads`] finds them.
///
/// # Errors
/// When the stream cannot be read just now.
pub async fn lasts(
    client: &Client,
    stream: &str,
    subjects: &[&str],
) -> Result<HashMap<String, Stored>, Error> {
    let mut lasts = HashMap::new();
    for some in subjects.chunks(BATCH) {
        let ask = serde_json::json!({ "multi_last": some, "batch": some.len() });
        let (found, _) = ask_for(client, stream, &ask).await?;
        lasts.extend(found.into_iter().filter_map(|message| {
            let stored = stored(message)?;
            let subject = stored
                .headers
                .get(header::NATS_SUBJECT)?
                .as_str()
                .to_owned();
            Some((subject, stored))
        }));
    }
    Ok(lasts)
}

async fn ask_for(
    client: &Client,
    stream: &str,
    ask: &serde_json::Value,
) -> Result<(Vec<Message>, bool), Error> {
    let no_answer = || no_answer(stream);
    let inbox = client.new_inbox();
    let mut replies = client
        .subscribe(inbox.clone())
        .await
        .map_err(|_| no_answer())?;
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
            None => batch.push(reply),
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

fn no_answer(stream: &str) -> Error {
    Error::NoAnswer {
        stream: stream.to_owned(),
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
