//! Reading the log in order from a place on, as an ordered consumer of the stream `EVENTS`, and
//! decoding it ahead of whoever writes.

mod copy;
mod hole;

use crate::{
    commit::{self, Commit, Raw},
    projector::Source,
};
use async_nats::{
    HeaderMap, Subject,
    jetstream::{
        self,
        consumer::{DeliverPolicy, StreamError, pull},
        context::GetStreamError,
        stream::ConsumerError,
    },
};
use bytes::Bytes;
use domain::subject;
use futures_util::{StreamExt, stream::ReadyChunks};
use hole::Holes;
use infra::{
    archive,
    nats::connects,
    sealing::keyring::{self, Keyring},
};
use std::{collections::VecDeque, time::Duration};
use tokio::sync::mpsc;

/// Most commits and bytes of one slice. A slice ends with the message that passes the bytes.
const SLICE: usize = 512;
const SLICE_BYTES: usize = 1024 * 1024;
/// Slices that are read ahead; when they are there the reader waits, and with it the server.
const AHEAD: usize = 4;
/// How often a reader looks whether its connection was lost meanwhile.
const LOOK: Duration = Duration::from_millis(500);
/// Life of one request for messages. The server's heartbeats come twice as often, and two missed
/// ones make the client library look for a lost consumer.
const PULL: Duration = Duration::from_secs(4);

/// The log cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The stream is not there now.
    #[error("the log cannot be found")]
    Stream(#[from] GetStreamError),
    /// The consumer cannot be made now.
    #[error("the log cannot be read from {from}")]
    Consumer {
        /// The first sequence to read.
        from: u64,
        /// What the server says.
        source: ConsumerError,
    },
    /// Messages cannot be asked for.
    #[error("the log's consumer does not begin")]
    Begin(#[from] StreamError),
    /// The consumer is lost.
    #[error("the log's consumer is lost")]
    Lost(#[from] pull::OrderedError),
    /// The consumer ended, or the connection under it was lost.
    #[error("the log's consumer has ended")]
    Ended,
    /// A message has no sequence.
    #[error("a message of the log tells no sequence")]
    Unnumbered,
    /// A message is missing, or comes again.
    #[error("the log goes on with {found} where {expected} was due")]
    Gap {
        /// The sequence that was due.
        expected: u64,
        /// The sequence that came.
        found: u64,
    },
    /// The copy of the log cannot be read on.
    #[error("the copy of the log cannot be read")]
    Copy(#[from] infra::archive::Error),
    /// The keys of persons cannot be had.
    #[error("what the log holds cannot be opened")]
    Keys(#[from] keyring::Error),
    /// Which log it is cannot be said now, and so not which copy.
    #[error(transparent)]
    Epoch(#[from] infra::epoch::Error),
    /// The read models know more than the log: it was lost, or it is another log.
    #[error("the log ends at {head}, before the checkpoint {checkpoint}")]
    Shorter {
        /// The log's last sequence.
        head: u64,
        /// The checkpoint.
        checkpoint: u64,
    },
}

impl Error {
    /// Whether somebody has to look at it; everything else passes by itself.
    pub(crate) const fn is_grave(&self) -> bool {
        match self {
            Self::Gap { .. } | Self::Shorter { .. } | Self::Unnumbered | Self::Copy(_) => true,
            Self::Keys(error) => error.is_grave(),
            _ => false,
        }
    }
}

/// Commits that follow each other without a gap.
#[derive(Debug)]
pub(crate) struct Slice {
    /// None in the first slice, which only tells how many are to come.
    pub(crate) commits: Vec<Commit>,
    /// How many commits were still to come when the last of them was sent.
    pub(crate) behind: u64,
}

/// Reads and decodes everything after the sequence `last` in a task of its own, which ends with an
/// error, or when nobody takes its slices any more.
pub(crate) fn read_ahead(source: &Source, last: u64) -> mpsc::Receiver<Result<Slice, Error>> {
    let (slices, taken) = mpsc::channel(AHEAD);
    let each = source.clone();
    source.lifecycle.spawn("log", async move {
        // `None` means that nobody takes them any more.
        if let Some(Err(error)) = read_all(&each, last, &slices).await {
            slices.send(Err(error)).await.ok();
        }
    });
    taken
}

type Slices = mpsc::Sender<Result<Slice, Error>>;

async fn read_all(source: &Source, last: u64, slices: &Slices) -> Option<Result<(), Error>> {
    let mut last = last;
    if let Some(bucket) = &source.copy {
        match copy::read(source, bucket, last, slices).await? {
            Ok(end) => last = end,
            Err(error) => return Some(Err(error)),
        }
    }
    let mut log = match Log::open(source, last).await {
        Ok(log) => log,
        Err(error) => return Some(Err(error)),
    };
    let first = Slice {
        commits: Vec::new(),
        behind: log.behind,
    };
    slices.send(Ok(first)).await.ok()?;
    loop {
        let slice = tokio::select! {
            slice = log.next() => slice,
            () = slices.closed() => return None,
        };
        match slice {
            Ok(slice) => slices.send(Ok(slice)).await.ok()?,
            Err(error) => return Some(Err(error)),
        }
    }
}

/// A reader of the log.
struct Log {
    messages: ReadyChunks<pull::Ordered>,
    connects: u64,
    last: u64,
    behind: u64,
    source: Source,
    /// What has left it, if it has a copy.
    holes: Option<Holes>,
    /// Messages that were there with the others, for the next slice.
    left: VecDeque<Result<jetstream::Message, pull::OrderedError>>,
}

impl Log {
    async fn open(source: &Source, last: u64) -> Result<Self, Error> {
        let connects = connects(&source.client);
        let stream = source.context.get_stream(subject::EVENTS).await?;
        let head = stream.cached_info().state.last_sequence;
        if head < last {
            return Err(Error::Shorter {
                head,
                checkpoint: last,
            });
        }
        let from = last + 1;
        let consumer = stream
            .create_consumer(pull::OrderedConfig {
                description: Some("projection-svc".to_owned()),
                deliver_policy: DeliverPolicy::ByStartSequence {
                    start_sequence: from,
                },
                max_expires: PULL,
                ..pull::OrderedConfig::default()
            })
            .await
            .map_err(|source| Error::Consumer { from, source })?;
        Ok(Self {
            messages: consumer.messages().await?.ready_chunks(SLICE),
            connects,
            last,
            behind: head - last,
            source: source.clone(),
            holes: source.archive.clone().map(Holes::new),
            left: VecDeque::new(),
        })
    }

    /// The commits that are there, at least one and without a gap.
    async fn next(&mut self) -> Result<Slice, Error> {
        if self.left.is_empty() {
            self.left = self.receive().await?.into();
        }
        let mut messages: Vec<Found> = Vec::with_capacity(self.left.len());
        let mut bytes = 0;
        while bytes < SLICE_BYTES
            && messages.len() < SLICE
            && let Some(message) = self.left.pop_front()
        {
            let message = message?;
            let info = message.info().map_err(|_| Error::Unnumbered)?;
            let (found, expected) = (info.stream_sequence, self.last + 1);
            if let Some(holes) = &mut self.holes
                && found > expected
            {
                self.left.push_front(Ok(message));
                match holes.fill(&self.source, expected, found).await {
                    Ok(filled) => {
                        self.last = filled.last().map_or(self.last, |last| last.seq);
                        bytes += filled.iter().map(|each| each.payload.len()).sum::<usize>();
                        messages.extend(filled);
                    }
                    // What comes before the hole goes on; the error comes again.
                    Err(_) if !messages.is_empty() => break,
                    Err(error) => return Err(error),
                }
                continue;
            }
            // Also a consumer that the client library made anew may begin elsewhere than where the
            // old one stopped: without a message so far, async-nats 0.51 begins with the first.
            if found != expected {
                return Err(Error::Gap { expected, found });
            }
            self.last = expected;
            self.behind = info.pending;
            bytes += message.payload.len();
            messages.push(Found::in_log(expected, message));
        }
        Ok(Slice {
            commits: read(&self.source.keys, &messages).await?,
            behind: self.behind,
        })
    }

    async fn receive(
        &mut self,
    ) -> Result<Vec<Result<jetstream::Message, pull::OrderedError>>, Error> {
        loop {
            match tokio::time::timeout(LOOK, self.messages.next()).await {
                Ok(messages) => return messages.ok_or(Error::Ended),
                // The server has forgotten the consumer of a lost connection, and the client
                // library would notice only after some missed heartbeats.
                Err(_) if connects(&self.source.client) != self.connects => {
                    return Err(Error::Ended);
                }
                Err(_) => {}
            }
        }
    }
}

/// A message, wherever it was found.
struct Found {
    seq: u64,
    subject: Subject,
    headers: Option<HeaderMap>,
    payload: Bytes,
}

impl Found {
    fn in_log(seq: u64, message: jetstream::Message) -> Self {
        let message = message.message;
        Self {
            seq,
            subject: message.subject,
            headers: message.headers,
            payload: message.payload,
        }
    }

    fn in_copy(message: archive::Message) -> Self {
        Self {
            seq: message.seq,
            headers: Some(message.header_map()),
            subject: message.subject.into(),
            payload: message.payload,
        }
    }
}

/// Opens and decodes messages that follow each other.
async fn read(keys: &Keyring, messages: &[Found]) -> Result<Vec<Commit>, keyring::Error> {
    let raw: Vec<Raw<'_>> = messages
        .iter()
        .map(|message| Raw {
            seq: message.seq,
            subject: &message.subject,
            headers: message.headers.as_ref(),
            payload: &message.payload,
        })
        .collect();
    commit::read_all(keys, &raw).await
}
