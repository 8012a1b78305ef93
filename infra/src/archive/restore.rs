//! Writing the log anew out of its copy, every message at the sequence that it had.
//!
//! Messages are published as they were stored, headers included: what a commit was appended with
//! holds again, since everything before it is there, and atomic batches go as batches. Only the
//! server's own time of storing is another one. Where the log had lost messages before they were
//! copied, a message on [`LOST`] takes the place of each: projections and policies park it, so that
//! somebody decides about it, and nothing stands still. What was appended behind a lost message is
//! appended behind the one before that.

use super::{Archive, Error, Message, Part, Reader, Record};
use crate::{config, direct_get, jetstream};
use async_nats::{
    Client, HeaderMap, header,
    jetstream::context::{CreateStreamError, PublishAckFuture, PublishError},
};
use bytes::Bytes;
use domain::subject;
use std::collections::VecDeque;

/// Takes the place of a message that neither log nor copy has.
pub const LOST: &str = "ev.lost";

/// Appends that are not acknowledged yet, and their bytes: the server drops what it cannot hold.
const WINDOW: usize = 512;
const WINDOW_BYTES: usize = 8 * 1024 * 1024;

/// What has been written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// The first sequence.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// Messages.
    pub messages: u64,
    /// Sequences that the copy has no message for.
    pub lost: u64,
    /// When the lost log stored its last message, in nanoseconds since 1970.
    pub last_at_nanos: i64,
}

/// The log is not restored. What was written of it is no log yet: delete the stream and begin anew.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The copy cannot be read.
    #[error(transparent)]
    Copy(#[from] Error),
    /// There is nothing to restore.
    #[error("the copy is empty")]
    Empty,
    /// The stream cannot be made.
    #[error("the stream of the log cannot be made")]
    Stream(#[source] CreateStreamError),
    /// A message cannot be written.
    #[error("sequence {seq} cannot be written")]
    Publish {
        /// Its sequence.
        seq: u64,
        /// Why not.
        source: async_nats::Error,
    },
    /// A message came to lie elsewhere than it was: somebody else writes as well.
    #[error("what was at sequence {wanted} came to {found}: does something else write?")]
    Elsewhere {
        /// Where it was.
        wanted: u64,
        /// Where it is now.
        found: u64,
    },
}

/// Writes the log of this copy into a stream that it makes, and tells the last sequence now and
/// then. The caller has made sure that there is no log, and that no service runs.
///
/// # Errors
/// See [`Failed`].
pub async fn restore(
    archive: &Archive,
    client: &Client,
    nats: &config::Nats,
    mut progress: impl FnMut(u64),
) -> Result<Restored, Failed> {
    let mut reader = Reader::new(archive.clone(), 1);
    let mut part = reader.next().await?.ok_or(Failed::Empty)?;
    let first = part.from.max(part.records.first());
    let context = async_nats::jetstream::new(client.clone());
    let mut events = jetstream::events(nats);
    events.first_sequence = (first > 1).then_some(first);
    let made = context.create_stream(events).await;
    made.map_err(Failed::Stream)?;
    let mut pen = Pen {
        client: client.clone(),
        context,
        batch: Vec::new(),
        gaps: Vec::new(),
        waiting: VecDeque::new(),
        bytes: 0,
        restored: Restored {
            first,
            ..Restored::default()
        },
    };
    loop {
        let last = part.last;
        pen.part(archive, part).await?;
        progress(last);
        match reader.next().await? {
            Some(next) => part = next,
            None => break,
        }
    }
    pen.end_batch(false).await?;
    pen.settle(0).await?;
    Ok(pen.restored)
}

struct Pen {
    client: Client,
    context: async_nats::jetstream::Context,
    /// The parts so far of an atomic batch.
    batch: Vec<Message>,
    /// First and last sequences of what the copy has no message for.
    gaps: Vec<(u64, u64)>,
    waiting: VecDeque<(u64, usize, PublishAckFuture)>,
    bytes: usize,
    restored: Restored,
}

impl Pen {
    async fn part(&mut self, archive: &Archive, part: Part) -> Result<(), Failed> {
        let key = archive.segment_key(part.records.first());
        for record in part.records {
            let (record, _) = record.map_err(|source| {
                let key = key.clone();
                Error::Corrupt { key, source }
            })?;
            if record.last() < part.from {
                continue;
            }
            self.restored.last = record.last();
            match record {
                Record::Message(message) => self.message(message).await?,
                Record::Gap { first, last } => {
                    self.end_batch(false).await?;
                    for seq in first..=last {
                        let payload = Bytes::from_static(b"[]");
                        self.append(seq, LOST, HeaderMap::new(), payload).await?;
                    }
                    self.restored.lost += last - first + 1;
                    self.gaps.push((first, last));
                }
            }
        }
        Ok(())
    }

    async fn message(&mut self, message: Message) -> Result<(), Failed> {
        self.restored.messages += 1;
        self.restored.last_at_nanos = message.at_nanos;
        let id = |message: &Message| {
            message
                .header(header::NATS_BATCH_ID.as_ref())
                .map(str::to_owned)
        };
        let batch = id(&message);
        if self.batch.last().is_some_and(|last| id(last) != batch) {
            self.end_batch(false).await?;
        }
        if batch.is_none() {
            let headers = self.headers(&message).await?;
            return self
                .append(message.seq, &message.subject, headers, message.payload)
                .await;
        }
        let is_end = !message.goes_on();
        self.batch.push(message);
        if is_end {
            self.end_batch(true).await?;
        }
        Ok(())
    }

    /// Writes the parts of a batch: as a batch if all of them are there, else one by one.
    async fn end_batch(&mut self, has_end: bool) -> Result<(), Failed> {
        let parts = std::mem::take(&mut self.batch);
        let number = |part: &Message| {
            part.header(header::NATS_BATCH_SEQUENCE.as_ref())?
                .parse()
                .ok()
        };
        let numbers = parts.iter().map(number);
        let is_whole = has_end && numbers.eq((1..=parts.len()).map(Some));
        let count = parts.len();
        for (index, part) in parts.into_iter().enumerate() {
            let mut headers = self.headers(&part).await?;
            if is_whole && index + 1 < count {
                let sent = self
                    .client
                    .publish_with_headers(part.subject, headers, part.payload)
                    .await;
                sent.map_err(failed(part.seq))?;
                continue;
            }
            if !is_whole {
                headers = headers
                    .iter()
                    .filter(|(name, _)| !is_of_batch(name.as_ref()))
                    .flat_map(|(name, values)| {
                        values.iter().map(|value| (name.clone(), value.clone()))
                    })
                    .collect();
            }
            self.append(part.seq, &part.subject, headers, part.payload)
                .await?;
        }
        Ok(())
    }

    /// The headers to write it with: those that it had, unless it was appended behind a message
    /// that is lost.
    async fn headers(&mut self, message: &Message) -> Result<HeaderMap, Failed> {
        let mut headers = message.header_map();
        let expected = header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
        let seq = message
            .header(expected.as_ref())
            .and_then(|seq| seq.parse().ok());
        let is_lost = |seq: u64| self.gaps.iter().any(|(a, b)| (*a..=*b).contains(&seq));
        if seq.is_some_and(is_lost) {
            self.settle(0).await?;
            let subject = message.subject.as_str();
            let heads = direct_get::heads(&self.client, subject::EVENTS, &[subject]).await;
            let heads = heads.map_err(failed(message.seq))?;
            let head = heads.get(subject).copied().unwrap_or(0);
            headers.insert(expected, head.to_string());
        }
        Ok(headers)
    }

    async fn append(
        &mut self,
        seq: u64,
        subject: &str,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<(), Failed> {
        let bytes = payload.len();
        let sent = self
            .context
            .publish_with_headers(subject.to_owned(), headers, payload)
            .await;
        let stored = sent.map_err(failed::<PublishError>(seq))?;
        self.waiting.push_back((seq, bytes, stored));
        self.bytes += bytes;
        self.settle(WINDOW).await
    }

    /// Waits until at most so many are not acknowledged.
    async fn settle(&mut self, most: usize) -> Result<(), Failed> {
        while self.waiting.len() > most || (self.bytes > WINDOW_BYTES && most > 0) {
            let Some((wanted, bytes, stored)) = self.waiting.pop_front() else {
                return Ok(());
            };
            let found = stored.await.map_err(failed(wanted))?.sequence;
            if found != wanted {
                return Err(Failed::Elsewhere { wanted, found });
            }
            self.bytes -= bytes;
        }
        Ok(())
    }
}

/// Whether a header says how a message was written together with others.
pub(super) fn is_of_batch(name: &str) -> bool {
    name.starts_with("Nats-Batch-")
}

fn failed<E: Into<async_nats::Error>>(seq: u64) -> impl FnOnce(E) -> Failed {
    move |source| Failed::Publish {
        seq,
        source: source.into(),
    }
}
