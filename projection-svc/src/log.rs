//! Reading the log in order from a place on, as an ordered consumer of the stream `EVENTS`.

use crate::commit::Commit;
use async_nats::{
    Client,
    jetstream::{
        self,
        consumer::{DeliverPolicy, StreamError, pull},
        context::GetStreamError,
        stream::ConsumerError,
    },
};
use domain::subject;
use futures_util::{StreamExt, stream::ReadyChunks};
use std::{sync::atomic::Ordering, time::Duration};

/// Most commits of one batch.
const BATCH: usize = 512;
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
        matches!(
            self,
            Self::Gap { .. } | Self::Shorter { .. } | Self::Unnumbered
        )
    }
}

/// A reader of the log.
pub(crate) struct Log {
    messages: ReadyChunks<pull::Ordered>,
    client: Client,
    connects: u64,
    last: u64,
    behind: u64,
    failed: Option<Error>,
}

impl Log {
    /// Reads everything after the sequence `last`.
    pub(crate) async fn open(
        client: &Client,
        context: &jetstream::Context,
        last: u64,
    ) -> Result<Self, Error> {
        let connects = connects(client);
        let stream = context.get_stream(subject::EVENTS).await?;
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
            messages: consumer.messages().await?.ready_chunks(BATCH),
            client: client.clone(),
            connects,
            last,
            behind: head - last,
            failed: None,
        })
    }

    /// How many commits were still to come when the latest one was sent.
    pub(crate) const fn behind(&self) -> u64 {
        self.behind
    }

    /// Whether the connection was lost since the reader was opened: the server has forgotten the
    /// consumer, and the client library would notice only after some missed heartbeats.
    pub(crate) fn is_stale(&self) -> bool {
        connects(&self.client) != self.connects
    }

    /// The commits that are there, at least one and without a gap. Dropping the future loses
    /// nothing.
    pub(crate) async fn next(&mut self) -> Result<Vec<Commit>, Error> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let messages = self.messages.next().await.ok_or(Error::Ended)?;
        let mut commits = Vec::with_capacity(messages.len());
        for message in messages {
            match message.map_err(Error::from).and_then(|m| self.read(&m)) {
                Ok(commit) => commits.push(commit),
                Err(error) if commits.is_empty() => return Err(error),
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            }
        }
        Ok(commits)
    }

    /// Also a consumer that the client library made anew may begin elsewhere than where the old
    /// one stopped: without a message so far, async-nats 0.51 begins with the stream's first.
    fn read(&mut self, message: &jetstream::Message) -> Result<Commit, Error> {
        let info = message.info().map_err(|_| Error::Unnumbered)?;
        let expected = self.last + 1;
        if info.stream_sequence != expected {
            return Err(Error::Gap {
                expected,
                found: info.stream_sequence,
            });
        }
        self.last = expected;
        self.behind = info.pending;
        Ok(Commit::read(expected, message))
    }
}

fn connects(client: &Client) -> u64 {
    client.statistics().connects.load(Ordering::Relaxed)
}
