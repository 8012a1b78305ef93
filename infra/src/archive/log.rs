//! Reading the log as it is stored, without a consumer, and saying what is not there.

use super::{Message, Record};
use crate::{direct_get, jetstream::is_not_found};
use async_nats::{
    Client,
    jetstream::{
        self,
        context::GetStreamError,
        stream::{InfoError, RawMessageError, RawMessageErrorKind, Stream},
    },
};
use domain::subject;

/// Bytes of one round trip; the message that passes them comes as well.
const BYTES: usize = 2 * 1024 * 1024;

/// The log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no log.
    #[error("there is no log: the server does not know the stream")]
    Absent,
    /// The server does not tell of the stream now.
    #[error("the log cannot be looked up")]
    Lookup(#[source] async_nats::Error),
    /// Messages cannot be read now.
    #[error("the log cannot be read from {from}")]
    Read {
        /// The first sequence that was wanted.
        from: u64,
        /// Why not.
        source: direct_get::Error,
    },
    /// The leader cannot be asked now.
    #[error("the leader of the log does not tell of {from}")]
    Leader {
        /// The first sequence that was wanted.
        from: u64,
        /// Why not.
        source: RawMessageError,
    },
    /// The server says that there are messages, and does not have them.
    #[error("the log goes to {last}, and the server finds nothing from {from} on")]
    Unreadable {
        /// The first sequence that was wanted.
        from: u64,
        /// The last one that there should be.
        last: u64,
    },
}

/// From where to where the log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The first sequence that is there; the next one to come where there is none.
    pub first: u64,
    /// The last sequence that was given away.
    pub last: u64,
}

/// The log.
#[derive(Clone, Debug)]
pub struct Log {
    client: Client,
    stream: Stream<()>,
}

impl Log {
    /// Behind this connection; it may not be there.
    ///
    /// # Errors
    /// When the name of the stream is not valid.
    pub async fn new(client: &Client) -> Result<Self, GetStreamError> {
        let context = jetstream::new(client.clone());
        Ok(Self {
            client: client.clone(),
            stream: context.get_stream_no_info(subject::EVENTS).await?,
        })
    }

    /// From where to where it goes.
    ///
    /// # Errors
    /// When it is not there, or its server does not answer.
    pub async fn state(&self) -> Result<State, Error> {
        let info = self.stream.get_info().await.map_err(lookup)?;
        Ok(State {
            first: info.state.first_sequence.max(1),
            last: info.state.last_sequence,
        })
    }

    /// Records from `from` on without a hole: what is missing between two messages, in the leader
    /// as well, is a gap. Nothing where the log ends before.
    ///
    /// # Errors
    /// When that cannot be said now.
    pub async fn read(&self, from: u64) -> Result<Vec<Record>, Error> {
        let found = direct_get::range(&self.client, subject::EVENTS, from, BYTES).await;
        let found = found.map_err(|source| Error::Read { from, source })?;
        let mut records = Vec::with_capacity(found.len());
        let mut next = from;
        for stored in found {
            let message = Message::stored(stored);
            while next < message.seq {
                // Whoever answered lacks something. The leader has the last word.
                let Some(other) = self.leader(next).await? else {
                    return self.unreadable(next).await.map(|()| records);
                };
                next = fill(&mut records, next, other);
            }
            if message.seq == next {
                next = fill(&mut records, next, message);
            }
        }
        if records.is_empty() {
            match self.leader(from).await? {
                Some(message) => _ = fill(&mut records, from, message),
                None => self.unreadable(from).await?,
            }
        }
        Ok(records)
    }

    /// The first message from this sequence on that the leader has.
    async fn leader(&self, from: u64) -> Result<Option<Message>, Error> {
        let found = self
            .stream
            .get_first_raw_message_by_subject(">", from)
            .await;
        match found {
            Ok(stored) => Ok(Some(Message::stored(stored))),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(source) => Err(Error::Leader { from, source }),
        }
    }

    /// Whether the log should have something from this sequence on.
    async fn unreadable(&self, from: u64) -> Result<(), Error> {
        let last = self.state().await?.last;
        if last < from {
            return Ok(());
        }
        Err(Error::Unreadable { from, last })
    }
}

/// Adds a message, and what is missing before it.
fn fill(records: &mut Vec<Record>, next: u64, message: Message) -> u64 {
    let seq = message.seq;
    if seq > next {
        records.push(Record::Gap {
            first: next,
            last: seq - 1,
        });
    }
    records.push(Record::Message(message));
    seq + 1
}

fn lookup(error: InfoError) -> Error {
    if is_not_found(&error) {
        return Error::Absent;
    }
    Error::Lookup(error.into())
}
