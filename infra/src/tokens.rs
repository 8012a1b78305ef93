//! The token streams of queries: appending to one, following it live, reading it again.
//!
//! Message 1, which says whose the stream is, is stored as it is; all others are sealed with the
//! query's key where there is one. Each says itself whether it is sealed, and with whose key.

use crate::{
    append, direct_get,
    sealing::{NotOpened, QueryKey, Unknown, sealed_for},
};
use async_nats::{Client, HeaderMap, Subscriber};
use bytes::Bytes;
use domain::{
    id::{AccountId, QueryId},
    subject,
    wire::token::{Body, Message},
};
use futures_util::{Stream, StreamExt};

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
    /// A message is not one of ours. The words of the parser are left out, which may quote a
    /// person.
    #[error("the token stream of {query} holds what cannot be read ({category:?} error)")]
    Undecodable {
        /// The query.
        query: QueryId,
        /// Why.
        category: serde_json::error::Category,
    },
    /// A message is sealed, and its key is not at hand.
    #[error("the token stream of {query} takes the key of {person}")]
    NoKey {
        /// The query.
        query: QueryId,
        /// Whose key it takes.
        person: AccountId,
    },
    /// A message is not what was sealed.
    #[error("the token stream of {query} holds what cannot be opened")]
    NotOpened {
        /// The query.
        query: QueryId,
        /// Why.
        source: NotOpened,
    },
    /// A message was sealed in another way.
    #[error("the token stream of {query} holds what cannot be opened")]
    Unknown {
        /// The query.
        query: QueryId,
        /// Why.
        source: Unknown,
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

impl Error {
    /// Whether the same call, with the right key, may succeed later.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Read { .. } | Self::Follow { .. } | Self::NoKey { .. } => true,
            Self::Undecodable { .. } | Self::NotOpened { .. } | Self::Unknown { .. } => false,
        }
    }
}

/// A message as the stream holds it.
#[derive(Clone, Debug)]
pub struct Envelope {
    query: QueryId,
    headers: Option<HeaderMap>,
    payload: Bytes,
}

impl Envelope {
    /// Whose key it takes; `None` if it is not sealed.
    ///
    /// # Errors
    /// When it was sealed in a way that is not known here.
    pub fn person(&self) -> Result<Option<AccountId>, Error> {
        let query = self.query;
        sealed_for(self.headers.as_ref()).map_err(|source| Error::Unknown { query, source })
    }

    /// What it says. A key is not needed for what is not sealed.
    ///
    /// # Errors
    /// When it cannot be opened with this key, or is none of ours.
    pub fn open(&self, key: Option<&QueryKey>) -> Result<Message, Error> {
        let query = self.query;
        let decode = |text: &[u8]| {
            serde_json::from_slice(text).map_err(|error| Error::Undecodable {
                query,
                category: error.classify(),
            })
        };
        let Some(person) = self.person()? else {
            return decode(&self.payload);
        };
        let key = key.filter(|key| key.person() == person);
        let key = key.ok_or(Error::NoKey { query, person })?;
        // Published again it has another subject; it is sealed for the one where it is stored.
        let text = key.open(
            &subject::tokens(query),
            self.headers.as_ref(),
            &self.payload,
        );
        decode(&text.map_err(|source| Error::NotOpened { query, source })?)
    }
}

/// What a stream holds, before it is opened.
#[derive(Clone, Debug)]
pub struct Stored {
    envelopes: Vec<Envelope>,
    last: u64,
}

impl Stored {
    /// Whose it is: the person that the last message is sealed for, or else the one that message 1
    /// names. `None` for an empty stream, and a plain one whose beginning has expired.
    ///
    /// # Errors
    /// When it holds what is not known here.
    pub fn person(&self) -> Result<Option<AccountId>, Error> {
        let Some((first, last)) = self.envelopes.first().zip(self.envelopes.last()) else {
            return Ok(None);
        };
        if let Some(person) = last.person()? {
            return Ok(Some(person));
        }
        if let Some(person) = first.person()? {
            return Ok(Some(person));
        }
        Ok(match first.open(None)?.body {
            Body::Queued { owner } => Some(owner),
            Body::Chunk(_) | Body::Terminal(_) => None,
        })
    }

    /// What it says.
    ///
    /// # Errors
    /// When one of the messages cannot be opened with this key, or is none of ours.
    pub fn open(&self, key: Option<&QueryKey>) -> Result<History, Error> {
        let messages = self.envelopes.iter().map(|envelope| envelope.open(key));
        Ok(History {
            messages: messages.collect::<Result<_, _>>()?,
            last: self.last,
        })
    }
}

/// What a stream says, and where a writer goes on.
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
    pub async fn stored(&self, query: QueryId) -> Result<Stored, Error> {
        let stored = direct_get::subject(&self.client, subject::TOKENS, &subject::tokens(query), 1)
            .await
            .map_err(|source| Error::Read { query, source })?;
        let last = stored.last().map_or(0, |message| message.seq);
        let envelopes = stored.into_iter().map(|message| Envelope {
            query,
            headers: Some(message.headers),
            payload: message.payload,
        });
        Ok(Stored {
            envelopes: envelopes.collect(),
            last,
        })
    }

    /// The same, opened.
    ///
    /// # Errors
    /// As for [`Self::stored`] and [`Stored::open`].
    pub async fn history(&self, query: QueryId, key: Option<&QueryKey>) -> Result<History, Error> {
        self.stored(query).await?.open(key)
    }

    /// Messages from now on, as the stream stores them. Core NATS: after a lost connection some
    /// may be missing, which their `seq` shows; read [`Self::stored`] then.
    ///
    /// # Errors
    /// When the subscription cannot be made.
    pub async fn live(&self, query: QueryId) -> Result<Live, Error> {
        let subscriber = self
            .client
            .subscribe(subject::live(query))
            .await
            .map_err(|source| Error::Follow { query, source })?;
        Ok(Live { query, subscriber })
    }

    /// Appends a message, sealed with the key if there is one, if the last one has the stream
    /// sequence `expected`, zero meaning that there is none. Answers with the new one's sequence.
    ///
    /// # Errors
    /// See [`append::Error`].
    pub async fn append(
        &self,
        query: QueryId,
        expected: u64,
        message: &Message,
        key: Option<&QueryKey>,
    ) -> Result<u64, append::Error> {
        let subject = subject::tokens(query);
        let mut payload =
            serde_json::to_vec(message).map_err(|source| append::Error::Unreadable {
                subject: subject.clone(),
                source,
            })?;
        let key = key.filter(|_| !matches!(message.body, Body::Queued { .. }));
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            payload =
                key.seal(&subject, &mut headers, &payload)
                    .map_err(|_| append::Error::NotSent {
                        subject: subject.clone(),
                        reason: append::NotSent::NotSealed,
                    })?;
        }
        append::append(&self.client, &subject, expected, headers, payload.into())
            .await
            .map(|stored| stored.seq)
    }
}

/// Live messages of one query.
#[derive(Debug)]
pub struct Live {
    query: QueryId,
    subscriber: Subscriber,
}

impl Stream for Live {
    type Item = Envelope;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Envelope>> {
        let query = self.query;
        let polled = self.subscriber.poll_next_unpin(cx);
        polled.map(|message| {
            message.map(|message| Envelope {
                query,
                headers: message.headers,
                payload: message.payload,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealing::Key;
    use domain::{Timestamp, wire::token::Terminal};
    use uuid::Uuid;

    const QUERY: QueryId = QueryId::new(Uuid::from_u128(9));
    const MIA: AccountId = AccountId::new(Uuid::from_u128(1));
    const BEN: AccountId = AccountId::new(Uuid::from_u128(2));

    fn envelope(seq: u32, body: Body, key: Option<&QueryKey>) -> Envelope {
        let message = Message {
            seq,
            at: Timestamp::from_millis(0),
            body,
            log_seq: None,
        };
        let text = serde_json::to_vec(&message).unwrap();
        let mut headers = HeaderMap::new();
        let payload = match key {
            Some(key) => key
                .seal(&subject::tokens(QUERY), &mut headers, &text)
                .unwrap(),
            None => text,
        };
        Envelope {
            query: QUERY,
            headers: Some(headers),
            payload: payload.into(),
        }
    }

    fn key(person: AccountId) -> QueryKey {
        QueryKey::new(person, Key::fresh().unwrap())
    }

    fn stored(envelopes: Vec<Envelope>) -> Stored {
        Stored { envelopes, last: 7 }
    }

    #[test]
    fn a_stream_says_whose_key_it_takes() {
        let queued = || envelope(1, Body::Queued { owner: MIA }, None);
        let end = |key| envelope(2, Body::Terminal(Terminal::Cancelled), key);
        let mias = key(MIA);
        let person = |envelopes| stored(envelopes).person().unwrap();
        assert_eq!(person(vec![]), None);
        assert_eq!(person(vec![queued()]), Some(MIA));
        assert_eq!(person(vec![queued(), end(None)]), Some(MIA));
        // Its beginning has expired.
        assert_eq!(person(vec![end(Some(&mias))]), Some(MIA));
        assert_eq!(person(vec![end(None)]), None);
    }

    #[test]
    fn it_is_opened_with_that_key_and_with_no_other() {
        let mias = key(MIA);
        let queued = envelope(1, Body::Queued { owner: MIA }, None);
        let end = envelope(2, Body::Terminal(Terminal::Cancelled), Some(&mias));
        let stream = stored(vec![queued.clone(), end]);
        let history = stream.open(Some(&mias)).unwrap();
        assert_eq!((history.messages.len(), history.last), (2, 7));
        assert!(history.messages[1].is_terminal());
        for other in [None, Some(&key(BEN))] {
            let error = stream.open(other).unwrap_err();
            assert!(matches!(error, Error::NoKey { person: MIA, .. }), "{error}");
        }
        let error = stream.open(Some(&key(MIA))).unwrap_err();
        assert!(matches!(error, Error::NotOpened { .. }), "{error}");
        // What is not sealed needs no key.
        let plain = stored(vec![queued]);
        assert_eq!(plain.open(None).unwrap().messages.len(), 1);
        assert_eq!(plain.open(Some(&mias)).unwrap().messages.len(), 1);
    }
}
