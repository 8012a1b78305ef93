//! The log: loading an aggregate and appending a commit.
//!
//! An aggregate is one literal subject of the stream `EVENTS`; it is read by batched direct get
//! and written with the sequence that the reader saw, so that a stale decision is refused.

use crate::{append, direct_get};
use async_nats::{Client, HeaderMap, header as nats_header, jetstream};
use bytes::Bytes;
use domain::{
    Actor, Aggregate, Context, Fingerprint, Timestamp,
    commit::{self, header},
    id::CommandId,
    limits, subject,
};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use uuid::Uuid;

/// The log could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading failed for now.
    #[error("{subject} cannot be loaded")]
    Load {
        /// The aggregate's subject.
        subject: String,
        /// Why.
        source: direct_get::Error,
    },
    /// Writing failed, or there was a conflict.
    #[error(transparent)]
    Append(#[from] append::Error),
    /// A message in the log cannot be read by this version of the program.
    #[error(transparent)]
    Undecodable(#[from] commit::Undecodable),
    /// Events cannot be written as JSON.
    #[error("the events for {subject} cannot be encoded")]
    Encode {
        /// The aggregate's subject.
        subject: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The last message of the aggregate could not be looked up at the stream's leader.
    #[error("the leader does not tell the last sequence of {subject}")]
    Leader {
        /// The aggregate's subject.
        subject: String,
    },
}

impl Error {
    /// Whether the state that was decided on was stale.
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Append(append::Error::Conflict { .. }))
    }

    /// Whether the same call may succeed later, unchanged.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Load { .. } | Self::Append(_) | Self::Leader { .. } => true,
            Self::Undecodable(_) | Self::Encode { .. } => false,
        }
    }
}

/// An aggregate as the log has it.
#[derive(Clone, Debug)]
pub struct Loaded<A> {
    /// The folded state.
    pub state: A,
    /// Stream sequence of its last commit, zero if there is none.
    pub last_seq: u64,
    recent: VecDeque<Known>,
}

/// A command that made a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its id.
    pub command: CommandId,
    /// The commit's sequence in the stream.
    pub seq: u64,
    /// What it said, where it came with an idempotency key.
    pub fingerprint: Option<Fingerprint>,
}

impl Known {
    /// Whether a repeat that says `fingerprint` says what this one said. What has no fingerprint
    /// cannot be compared and is taken at its word.
    pub fn says(&self, fingerprint: Option<Fingerprint>) -> bool {
        match (self.fingerprint, fingerprint) {
            (Some(first), Some(repeat)) => first == repeat,
            (None, _) | (_, None) => true,
        }
    }
}

impl<A: Aggregate> Default for Loaded<A> {
    fn default() -> Self {
        Self {
            state: A::default(),
            last_seq: 0,
            recent: VecDeque::new(),
        }
    }
}

impl<A: Aggregate> Loaded<A> {
    /// This command, if it made the first commit or one of the latest
    /// [`limits::RECENT_COMMANDS`].
    pub fn known(&self, command: CommandId) -> Option<&Known> {
        self.recent
            .iter()
            .rev()
            .find(|known| known.command == command)
    }

    /// This aggregate after one more commit.
    #[must_use]
    pub fn after(mut self, by: Known, events: &[A::Event]) -> Self {
        self.state = events.iter().fold(self.state, A::evolve);
        self.last_seq = by.seq;
        if self.recent.len() == limits::RECENT_COMMANDS {
            // The one that made the aggregate is known for ever.
            self.recent.remove(1);
        }
        self.recent.push_back(by);
        self
    }
}

/// What belongs to a commit beside its events.
#[derive(Clone, Debug)]
pub struct Provenance {
    /// The command's id.
    pub command: CommandId,
    /// Who gave it.
    pub actor: Actor,
    /// The request that it belongs to.
    pub request_id: String,
    /// What caused it: a request or an event.
    pub causation: String,
    /// W3C Trace Context.
    pub traceparent: Option<String>,
    /// What the command says, where it came with an idempotency key.
    pub fingerprint: Option<Fingerprint>,
    /// After this instant nobody waits for the answer, and no attempt is begun. Not stored.
    pub deadline: Timestamp,
}

impl Provenance {
    /// The context that a decision about this command is taken in.
    pub fn context(&self, now: Timestamp) -> Context {
        Context {
            now,
            actor: self.actor.clone(),
            command_id: self.command,
        }
    }
}

/// A commit that waits to be appended.
#[derive(Clone, Debug)]
pub struct Pending {
    subject: String,
    expected: u64,
    headers: HeaderMap,
    payload: Bytes,
}

/// The log.
#[derive(Clone, Debug)]
pub struct EventStore {
    client: Client,
    context: jetstream::Context,
}

impl EventStore {
    /// The log behind this connection; its stream was made by [`crate::jetstream::prepare`].
    pub fn new(client: Client) -> Self {
        Self {
            context: jetstream::new(client.clone()),
            client,
        }
    }

    /// Reads an aggregate whole.
    ///
    /// # Errors
    /// When the log cannot be read now, or holds what this program does not understand.
    pub async fn load<A: Aggregate>(&self, id: Uuid) -> Result<Loaded<A>, Error> {
        self.catch_up(id, Loaded::default()).await
    }

    /// Reads what an aggregate has become since `loaded`.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub async fn catch_up<A: Aggregate>(
        &self,
        id: Uuid,
        loaded: Loaded<A>,
    ) -> Result<Loaded<A>, Error> {
        let subject = A::named(id).subject();
        let from = loaded.last_seq + 1;
        let messages = direct_get::subject(&self.client, subject::EVENTS, &subject, from)
            .await
            .map_err(|source| Error::Load {
                subject: subject.clone(),
                source,
            })?;
        let mut loaded = loaded;
        for message in messages {
            let events: Vec<A::Event> = commit::decode(&subject, &message.payload)?;
            loaded = loaded.after(known(&message.headers, message.seq), &events);
        }
        Ok(loaded)
    }

    /// Reads an aggregate at least as far as the stream's leader has it, for use after a conflict:
    /// a direct get may be answered by a replica that lags.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub async fn load_from_leader<A: Aggregate>(&self, id: Uuid) -> Result<Loaded<A>, Error> {
        let subject = A::named(id).subject();
        let leader = || Error::Leader {
            subject: subject.clone(),
        };
        let stream = self
            .context
            .get_stream_no_info(subject::EVENTS)
            .await
            .map_err(|_| leader())?;
        let head = match stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => message.sequence,
            Err(error)
                if error.kind() == jetstream::stream::LastRawMessageErrorKind::NoMessageFound =>
            {
                0
            }
            Err(_) => return Err(leader()),
        };
        let loaded = self.load::<A>(id).await?;
        if loaded.last_seq < head {
            Err(leader())
        } else {
            Ok(loaded)
        }
    }

    /// Makes a commit of `events`, to be appended to `id` at `expected`.
    ///
    /// # Errors
    /// When an event cannot be encoded.
    pub fn pending<A: Aggregate>(
        &self,
        id: Uuid,
        expected: u64,
        provenance: &Provenance,
        now: Timestamp,
        events: &[A::Event],
    ) -> Result<Pending, Error> {
        let subject = A::named(id).subject();
        let encoded =
            commit::encode::<A>(id, provenance.command, now, events).map_err(|source| {
                Error::Encode {
                    subject: subject.clone(),
                    source,
                }
            })?;
        let actor = serde_json::to_string(&provenance.actor).map_err(|source| Error::Encode {
            subject: subject.clone(),
            source,
        })?;
        let mut headers = HeaderMap::new();
        headers.insert(header::COMMAND_ID, provenance.command.to_string());
        headers.insert(header::EVENT_TYPES, encoded.types);
        headers.insert(header::ACTOR, actor);
        headers.insert(header::CORRELATION_ID, provenance.request_id.as_str());
        headers.insert(header::CAUSATION_ID, provenance.causation.as_str());
        headers.insert(header::REQUEST_ID, provenance.request_id.as_str());
        headers.insert(header::SCHEMA, commit::SCHEMA);
        if let Some(traceparent) = &provenance.traceparent {
            headers.insert(header::TRACEPARENT, traceparent.as_str());
        }
        if let Some(fingerprint) = &provenance.fingerprint {
            headers.insert(header::FINGERPRINT, fingerprint.to_string());
        }
        Ok(Pending {
            subject,
            expected,
            headers,
            payload: encoded.payload.into(),
        })
    }

    /// Appends one commit. The message id is the command id, so that a repeat within the server's
    /// window stores nothing and is answered as a duplicate.
    ///
    /// # Errors
    /// See [`append::Error`].
    pub async fn append(&self, pending: Pending) -> Result<append::Stored, Error> {
        let Pending {
            subject,
            expected,
            mut headers,
            payload,
        } = pending;
        if let Some(command) = headers.get(header::COMMAND_ID).map(ToString::to_string) {
            headers.insert(nats_header::NATS_MESSAGE_ID, command);
        }
        Ok(append::append(&self.client, &subject, expected, headers, payload).await?)
    }

    /// Appends commits to several aggregates, all or none, and answers with the last one's
    /// sequence. They carry no message id: a repeat is recognised by the expected sequences.
    ///
    /// # Errors
    /// See [`append::Error`].
    pub async fn append_all(&self, batch: CommandId, commits: Vec<Pending>) -> Result<u64, Error> {
        let parts = commits
            .into_iter()
            .map(
                |Pending {
                     subject,
                     expected,
                     headers,
                     payload,
                 }| append::Part {
                    subject,
                    expected,
                    headers,
                    payload,
                },
            )
            .collect();
        // A retry of the same command is another batch to the server.
        let batch = format!("{batch}-{:08x}", crate::clock::fresh_id().as_u128() as u32);
        Ok(append::append_batch(&self.client, &batch, parts).await?.seq)
    }
}

fn known(headers: &HeaderMap, seq: u64) -> Known {
    Known {
        command: command_of(headers).unwrap_or(CommandId::new(Uuid::nil())),
        seq,
        fingerprint: headers
            .get(header::FINGERPRINT)
            .and_then(|text| text.as_str().parse().ok()),
    }
}

/// The command that a message in the log came from.
pub fn command_of(headers: &HeaderMap) -> Option<CommandId> {
    headers.get(header::COMMAND_ID)?.as_str().parse().ok()
}
