//! The log: loading an aggregate and making a commit.
//!
//! An aggregate is one literal subject of the stream `EVENTS`; it is read by batched direct get
//! and written ([`crate::group_commit`]) with the sequence that the reader saw, so that a stale
//! decision is refused.

use crate::{
    append, clock, direct_get, purged,
    sealing::{self, Keyring, Opened, keyring},
    snapshots::Snapshots,
};
use async_nats::{Client, HeaderMap, jetstream};
use domain::{
    Actor, Aggregate, Context, Fingerprint, Timestamp,
    commit::{self, header},
    id::{AccountId, CommandId},
    limits,
    subject::{self, Kind},
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
    /// Whether it has left the log cannot be said now.
    #[error("{subject} cannot be loaded")]
    Purged {
        /// The aggregate's subject.
        subject: String,
        /// Why.
        source: purged::Error,
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
    /// The key of a person cannot be had, or a commit is not what was sealed with it.
    #[error(transparent)]
    Key(#[from] keyring::Error),
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

    /// Whether it was not tried because too much waits already.
    pub const fn is_overload(&self) -> bool {
        matches!(
            self,
            Self::Append(append::Error::NotSent {
                reason: append::NotSent::Overloaded,
                ..
            })
        )
    }

    /// Whether the person whom it is about is erased.
    pub const fn is_erased(&self) -> bool {
        matches!(self, Self::Key(keyring::Error::Erased { .. }))
    }

    /// Whether the same call may succeed later, unchanged.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Load { .. } | Self::Purged { .. } | Self::Append(_) | Self::Leader { .. } => true,
            Self::Key(error) => error.is_transient(),
            Self::Undecodable(_) | Self::Encode { .. } => false,
        }
    }
}

/// An aggregate as the log has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(bound = "A: Aggregate")]
pub struct Loaded<A> {
    /// The folded state.
    pub state: A,
    /// Stream sequence of its last commit, zero if there is none.
    pub last_seq: u64,
    recent: VecDeque<Known>,
    /// Commits since it was last written down as a snapshot, as far as this process knows.
    #[serde(skip)]
    unsaved: usize,
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
            unsaved: 0,
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
        self.moved(by)
    }

    /// This aggregate after one more commit that nobody can read any more.
    fn after_erased(mut self, by: Known) -> Self {
        self.state = self.state.erased();
        self.moved(by)
    }

    fn moved(mut self, by: Known) -> Self {
        self.last_seq = by.seq;
        if self.recent.len() == limits::RECENT_COMMANDS {
            // The one that made the aggregate is known for ever.
            self.recent.remove(1);
        }
        self.recent.push_back(by);
        self.unsaved += 1;
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

/// The log.
#[derive(Clone, Debug)]
pub struct EventStore {
    client: Client,
    context: jetstream::Context,
    snapshots: Option<Snapshots>,
    keys: Keyring,
    is_bounded: bool,
}

/// Commits of an aggregate between two snapshots, and messages that are read while the snapshot is
/// looked for: a shorter aggregate costs one round trip and needs no snapshot.
const SNAPSHOT_EVERY: usize = 256;

impl EventStore {
    /// The log behind this connection; its stream was made by [`crate::jetstream::prepare`].
    pub fn new(client: Client, keys: Keyring) -> Self {
        Self {
            context: jetstream::new(client.clone()),
            client,
            snapshots: None,
            keys,
            is_bounded: false,
        }
    }

    /// The same log, where long aggregates are read from their snapshots on.
    #[must_use]
    pub fn with_snapshots(mut self, snapshots: Snapshots) -> Self {
        self.snapshots = Some(snapshots);
        self
    }

    /// The same log, where queries that ended long ago may have left ([`purged`]), if `is_bounded`.
    #[must_use]
    pub fn bounded(mut self, is_bounded: bool) -> Self {
        self.is_bounded = is_bounded;
        self
    }

    /// Reads an aggregate whole, from the log or, if it has left that, from the copy.
    ///
    /// # Errors
    /// When it cannot be read now, or holds what this program does not understand.
    pub async fn load<A: Aggregate>(&self, id: Uuid) -> Result<Loaded<A>, Error> {
        let loaded = self.load_from_log(id).await?;
        if loaded.last_seq == 0 {
            return self.load_from_copy(id).await;
        }
        Ok(loaded)
    }

    /// An aggregate of which the log has nothing: what the copy has, if it has left the log, else
    /// one that does not exist. That is asked only where its id may be an old one.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub async fn load_from_copy<A: Aggregate>(&self, id: Uuid) -> Result<Loaded<A>, Error> {
        let may_have_left = self.is_bounded && A::KIND == Kind::Query;
        if !may_have_left || !purged::may_have_left(id, clock::now()) {
            return Ok(Loaded::default());
        }
        let subject = A::named(id).subject();
        let history = purged::history(&self.client, &subject).await;
        let history = history.map_err(|source| {
            let subject = subject.clone();
            Error::Purged { subject, source }
        })?;
        self.fold(Loaded::default(), &subject, &history).await
    }

    /// Reads an aggregate whole: its beginning and its snapshot side by side, then, if it is a long
    /// one, the rest.
    async fn load_from_log<A: Aggregate>(&self, id: Uuid) -> Result<Loaded<A>, Error> {
        let subject = A::named(id).subject();
        let Some(snapshots) = &self.snapshots else {
            return self.catch_up(id, Loaded::default()).await;
        };
        let beginning =
            direct_get::page(&self.client, subject::EVENTS, &subject, 1, SNAPSHOT_EVERY);
        let (snapshot, beginning) = tokio::join!(snapshots.get::<A>(id), beginning);
        let (messages, more) = beginning.map_err(load(&subject))?;
        let loaded = match snapshot {
            Some(snapshot) if more => self.go_on_from(&subject, snapshot).await?,
            _ => None,
        };
        let mut loaded = match loaded {
            Some(loaded) => loaded,
            None => {
                let loaded = self.fold(Loaded::default(), &subject, &messages).await?;
                if more {
                    self.catch_up(id, loaded).await?
                } else {
                    loaded
                }
            }
        };
        self.keep(id, &mut loaded);
        Ok(loaded)
    }

    /// An aggregate from its snapshot on. The snapshot's own last commit is read again: if it is
    /// not in the log, the snapshot is of another log, or the log was set back, or a replica
    /// answered that lags; then there is nothing to go on from.
    async fn go_on_from<A: Aggregate>(
        &self,
        subject: &str,
        snapshot: Loaded<A>,
    ) -> Result<Option<Loaded<A>>, Error> {
        let from = snapshot.last_seq;
        let messages = direct_get::subject(&self.client, subject::EVENTS, subject, from)
            .await
            .map_err(load(subject))?;
        let Some((first, rest)) = messages.split_first() else {
            return Ok(None);
        };
        let last = snapshot.recent.back().map(|known| known.command);
        if first.seq != from || command_of(&first.headers) != last {
            return Ok(None);
        }
        self.fold(snapshot, subject, rest).await.map(Some)
    }

    /// Has an aggregate written down as a snapshot, if enough has happened since it was last. Where
    /// there is too much to write down, it is left for another time.
    pub fn keep<A: Aggregate>(&self, id: Uuid, loaded: &mut Loaded<A>) {
        if loaded.unsaved >= SNAPSHOT_EVERY
            && let Some(snapshots) = &self.snapshots
            && snapshots.offer(id, loaded)
        {
            loaded.unsaved = 0;
        }
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
            .map_err(load(&subject))?;
        self.fold(loaded, &subject, &messages).await
    }

    async fn fold<A: Aggregate>(
        &self,
        mut loaded: Loaded<A>,
        subject: &str,
        messages: &[direct_get::Stored],
    ) -> Result<Loaded<A>, Error> {
        for message in messages {
            let by = known(&message.headers, message.seq);
            let opened = self
                .keys
                .open(subject, Some(&message.headers), &message.payload);
            loaded = match opened.await? {
                Opened::Text(payload) => {
                    let events: Vec<A::Event> = commit::decode(subject, &payload)?;
                    loaded.after(by, &events)
                }
                Opened::Erased => loaded.after_erased(by),
            };
        }
        Ok(loaded)
    }

    /// The keys that it seals and opens with.
    pub const fn keys(&self) -> &Keyring {
        &self.keys
    }

    /// Reads an aggregate at least as far as the stream's leader has it, for use after a conflict:
    /// a direct get may be answered by a replica that lags.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub async fn load_from_leader<A: Aggregate>(&self, id: Uuid) -> Result<Loaded<A>, Error> {
        self.catch_up_from_leader(id, Loaded::default()).await
    }

    /// The same for an aggregate that is known up to a point.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub async fn catch_up_from_leader<A: Aggregate>(
        &self,
        id: Uuid,
        known: Loaded<A>,
    ) -> Result<Loaded<A>, Error> {
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
        let loaded = if known.last_seq == 0 || known.last_seq > head {
            // Nothing is known, or the log was set back under us and what we know is worth nothing.
            self.load(id).await?
        } else {
            self.catch_up(id, known).await?
        };
        if loaded.last_seq < head {
            Err(leader())
        } else {
            Ok(loaded)
        }
    }

    /// Makes a commit of `events`, to be appended to `id` behind what is loaded by
    /// [`crate::group_commit::GroupCommit`], sealed with the key of the person whom it concerns. It has no message id: the server would remember it for
    /// two minutes, while a repeat is refused for ever by the expected sequence.
    ///
    /// # Errors
    /// When an event cannot be encoded, or the person's key cannot be had.
    pub async fn pending<A: Aggregate>(
        &self,
        id: Uuid,
        loaded: &Loaded<A>,
        provenance: &Provenance,
        now: Timestamp,
        events: &[A::Event],
    ) -> Result<append::Part, Error> {
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
        let mut payload = encoded.payload;
        if let Some(person) = self.person(loaded, events)
            && let Some(key) = self.keys.for_writing(person).await?
        {
            payload = sealing::seal(&subject, &mut headers, &payload, person, &key.log)
                .map_err(keyring::Error::NotSealed)?;
        }
        Ok(append::Part {
            subject,
            expected: loaded.last_seq,
            headers,
            payload: payload.into(),
        })
    }

    /// Whom a commit concerns that follows what is loaded.
    fn person<A: Aggregate>(&self, loaded: &Loaded<A>, events: &[A::Event]) -> Option<AccountId> {
        if !self.keys.seals() {
            return None;
        }
        loaded.state.person(events).or_else(|| {
            let state = events.iter().fold(loaded.state.clone(), A::evolve);
            state.person(events)
        })
    }
}

fn load(subject: &str) -> impl FnOnce(direct_get::Error) -> Error {
    let subject = subject.to_owned();
    move |source| Error::Load { subject, source }
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
