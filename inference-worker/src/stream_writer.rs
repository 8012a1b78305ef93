//! The one writer of a query's token stream.
//!
//! Every append expects the sequence of the message before it. On a refusal or without an answer
//! the stream is read again: our own message may be there; the server may have lost the latest
//! ones in a crash, which are then written again under their numbers; or somebody else has
//! written, and then this writer has lost.

use domain::{
    id::QueryId,
    wire::token::{Body, Chunk, Message},
};
use infra::{
    append, clock,
    retry::Backoff,
    sealing::QueryKey,
    telemetry,
    tokens::{History, Tokens},
};
use std::time::Duration;
use tracing::{info, warn};

/// Somebody else writes this stream now, or it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost;

/// A stream as its writer knows it.
pub(crate) struct StreamWriter {
    tokens: Tokens,
    query: QueryId,
    /// What messages are sealed with, where they are.
    key: Option<QueryKey>,
    messages: Vec<Message>,
    /// Stream sequence of the last message.
    last: u64,
}

impl StreamWriter {
    /// Goes on with a stream after what it holds.
    pub(crate) fn after(
        tokens: Tokens,
        query: QueryId,
        key: Option<QueryKey>,
        history: History,
    ) -> Self {
        Self {
            tokens,
            query,
            key,
            messages: history.messages,
            last: history.last,
        }
    }

    /// The chunks so far.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        self.messages
            .iter()
            .filter_map(|message| match &message.body {
                Body::Chunk(chunk) => Some(chunk),
                Body::Queued { .. } | Body::Terminal(_) => None,
            })
    }

    /// Whether nothing was ever written.
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Writes the next message; comes back when it is stored.
    pub(crate) async fn push(&mut self, body: Body) -> Result<(), Lost> {
        let seq = self.messages.last().map_or(0, |message| message.seq) + 1;
        let message = Message {
            seq,
            at: clock::now(),
            body,
            log_seq: None,
        };
        self.messages.push(message);
        self.store_from(self.messages.len() - 1).await
    }

    /// Makes sure that everything pushed is stored, also after a crash of the server.
    pub(crate) async fn settle(&mut self) -> Result<(), Lost> {
        let stored = self.reconcile().await?;
        self.store_from(stored).await
    }

    /// Stores the messages from this index on, one after the other.
    async fn store_from(&mut self, mut index: usize) -> Result<(), Lost> {
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(500));
        while let Some(message) = self.messages.get(index) {
            let key = self.key.as_ref();
            match self
                .tokens
                .append(self.query, self.last, message, key)
                .await
            {
                Ok(seq) => {
                    self.last = seq;
                    index += 1;
                }
                Err(error) => {
                    if !matches!(error, append::Error::Conflict { .. }) {
                        warn!(query.id = %self.query, reason = telemetry::chain(&error), "a chunk is tried again");
                        backoff.wait().await;
                    }
                    index = self.reconcile().await?;
                }
            }
        }
        Ok(())
    }

    /// Reads the stream and compares: how many of our messages are stored.
    async fn reconcile(&mut self) -> Result<usize, Lost> {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        let history = loop {
            let stored = match self.tokens.stored(self.query).await {
                Ok(stored) => stored,
                Err(error) => {
                    warn!(query.id = %self.query, reason = telemetry::chain(&error), "the token stream is out of reach");
                    backoff.wait().await;
                    continue;
                }
            };
            // What we cannot open, or is none of ours, somebody else has written.
            match stored.open(self.key.as_ref()) {
                Ok(history) => break history,
                Err(_) => return Err(Lost),
            }
        };
        if !self.messages.starts_with(&history.messages) {
            return Err(Lost);
        }
        let stored = history.messages.len();
        if stored + 1 < self.messages.len() {
            info!(query.id = %self.query, lost = self.messages.len() - stored, "bringing chunks back");
        }
        self.last = history.last;
        Ok(stored)
    }
}
