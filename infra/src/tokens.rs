//! The token streams of queries: appending to one, following it live, reading it again.

use crate::{append, direct_get};
use async_nats::{Client, HeaderMap, Subscriber};
use domain::{id::QueryId, subject, wire::token::Message};
use futures_util::{Stream, StreamExt};
use tracing::warn;

/// A token stream could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading failed for now.
    #[error("the token stream of {query} cannot be read")]
    Read {
        /// The query.
        query: QueryId,
        /// Why.
        source: direct_get::Error,
    },
    /// A message is not one of ours.
    #[error("the token stream of {query} holds what cannot be read")]
    Undecodable {
        /// The query.
        query: QueryId,
        /// Why.
        source: serde_json::Error,
    },
    /// Following failed for now.
    #[error("the token stream of {query} cannot be followed")]
    Follow {
        /// The query.
        query: QueryId,
        /// Why.
        source: async_nats::SubscribeError,
    },
}

/// What a stream holds, and where a writer goes on.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The messages, in order.
    pub messages: Vec<Message>,
    /// Stream sequence of the last one, zero if there is none: the next append expects it.
    pub last: u64,
}

/// Access to token streams.
#[derive(Clone, Debug)]
pub struct Tokens {
    client: Client,
}

impl Tokens {
    /// Over this connection.
    pub const fn new(client: Client) -> Self {
        Self { client }
    }

    /// Everything that the stream of a query holds.
    ///
    /// # Errors
    /// When the stream cannot be read now.
    pub async fn history(&self, query: QueryId) -> Result<History, Error> {
        let stored = direct_get::subject(&self.client, subject::TOKENS, &subject::tokens(query), 1)
            .await
            .map_err(|source| Error::Read { query, source })?;
        let last = stored.last().map_or(0, |message| message.seq);
        let messages = stored
            .iter()
            .map(|message| serde_json::from_slice(&message.payload))
            .collect::<Result<_, _>>()
            .map_err(|source| Error::Undecodable { query, source })?;
        Ok(History { messages, last })
    }

    /// Messages from now on, as the stream stores them. Core NATS: after a lost connection some
    /// may be missing, which their `seq` shows; read [`Self::history`] then.
    ///
    /// # Errors
    /// When the subscription cannot be made.
    pub async fn live(&self, query: QueryId) -> Result<Live, Error> {
        let subscriber = self
            .client
            .subscribe(subject::live(query))
            .await
            .map_err(|source| Error::Follow { query, source })?;
        Ok(Live { subscriber })
    }

    /// Appends a message if the last one has the stream sequence `expected`, zero meaning that
    /// there is none. Answers with the new one's sequence.
    ///
    /// # Errors
    /// See [`append::Error`].
    pub async fn append(
        &self,
        query: QueryId,
        expected: u64,
        message: &Message,
    ) -> Result<u64, append::Error> {
        let subject = subject::tokens(query);
        let payload = serde_json::to_vec(message).map_err(|source| append::Error::Unreadable {
            subject: subject.clone(),
            source,
        })?;
        append::append(
            &self.client,
            &subject,
            expected,
            HeaderMap::new(),
            payload.into(),
        )
        .await
        .map(|stored| stored.seq)
    }
}

/// Live messages of one query.
#[derive(Debug)]
pub struct Live {
    subscriber: Subscriber,
}

impl Stream for Live {
    type Item = Message;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Message>> {
        loop {
            match std::task::ready!(self.subscriber.poll_next_unpin(cx)) {
                None => return std::task::Poll::Ready(None),
                Some(message) => match serde_json::from_slice(&message.payload) {
                    Ok(message) => return std::task::Poll::Ready(Some(message)),
                    Err(error) => warn!(%error, "a live message cannot be read"),
                },
            }
        }
    }
}
