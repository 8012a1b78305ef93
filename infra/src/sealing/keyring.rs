//! The keys of persons, in the stream `KEYS`: one subject for each person, whose last message is
//! the key, wrapped with a master key, or says that the person was erased.
//!
//! It is no key-value bucket, since those refuse to delete a message so that its bytes are
//! overwritten on the disk. A key is destroyed in two steps that can be repeated: the last message
//! says so, then the ones before are deleted.

use super::{
    Failed, Key, NoRandomness, NotOpened, NotUnwrapped, Opened, Sealing, Unknown, open, sealed_for,
};
use crate::{append, clock, direct_get, lifecycle::Lifecycle, nats::connects, telemetry};
use async_nats::{
    Client, HeaderMap, SubscribeError,
    jetstream::{
        self,
        context::GetStreamError,
        message::StreamMessage,
        stream::{DeleteMessageError, LastRawMessageErrorKind, RawMessageError, Stream},
    },
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use domain::{
    Timestamp,
    id::{AccountId, QueryId},
    subject,
};
use futures_util::StreamExt;
use lru::LruCache;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tracing::{debug, warn};

/// Persons whose keys are kept unwrapped in memory, some 300 bytes each.
const KNOWN: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();
/// Keys that are unwrapped side by side.
const UNWRAPPED_AT_ONCE: usize = 32;
/// How often a change of a person's entry is tried while others change it too.
const ATTEMPTS: u32 = 16;

/// A person's key, and those that are derived from it.
#[derive(Clone, Debug)]
pub struct PersonKey {
    root: Key,
    /// Seals commits.
    pub log: Key,
    /// Seals columns of read models.
    pub rows: Key,
}

impl PersonKey {
    fn new(root: Key) -> Self {
        Self {
            log: root.derived("log", b""),
            rows: root.derived("rows", b""),
            root,
        }
    }

    /// Seals the token stream and the job of one query. Who knows it can read nothing else.
    pub fn query(&self, query: QueryId) -> Key {
        self.root.derived("query", query.uuid().as_bytes())
    }

    /// Seals a snapshot.
    pub fn snapshots(&self) -> Key {
        self.root.derived("snapshots", b"")
    }
}

/// What is known of a person's key.
#[derive(Clone, Debug)]
pub enum Found {
    /// It is there.
    Key(Arc<PersonKey>),
    /// It was destroyed.
    Erased,
    /// There never was one.
    Absent,
}

/// A key could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream cannot be found.
    #[error("the keys of persons cannot be found")]
    Stream(#[from] GetStreamError),
    /// The stream cannot be read.
    #[error("the keys of persons cannot be read")]
    Read(#[from] direct_get::Error),
    /// Its leader cannot be asked.
    #[error("the keys of persons cannot be read at their leader")]
    Leader(#[from] RawMessageError),
    /// A key cannot be written.
    #[error("the key of {person} cannot be written")]
    Write {
        /// Whose.
        person: AccountId,
        /// Why.
        source: append::Error,
    },
    /// What is left of a key cannot be deleted.
    #[error("what is left of the key of {person} cannot be deleted")]
    Delete {
        /// Whose.
        person: AccountId,
        /// Why.
        source: DeleteMessageError,
    },
    /// A person's entry is not one.
    #[error("the key of {person} cannot be read")]
    Unreadable {
        /// Whose.
        person: AccountId,
    },
    /// A key cannot be wrapped.
    #[error("the key of {person} cannot be wrapped")]
    NotWrapped {
        /// Whose.
        person: AccountId,
        /// Why.
        source: Failed,
    },
    /// A key cannot be unwrapped.
    #[error("the key of {person} cannot be unwrapped")]
    NotUnwrapped {
        /// Whose.
        person: AccountId,
        /// Why.
        source: NotUnwrapped,
    },
    /// There are commits that take the key and there is no key: the stream was lost.
    #[error("the key of {person} is not among the keys of persons; restore them")]
    Missing {
        /// Whose.
        person: AccountId,
    },
    /// The person is erased.
    #[error("{person} is erased")]
    Erased {
        /// Who.
        person: AccountId,
    },
    /// Something is sealed, and there are no master keys.
    #[error("the key of {person} is needed, and no master keys are given")]
    Off {
        /// Whose.
        person: AccountId,
    },
    /// A message was sealed in another way.
    #[error("the message on {subject} cannot be opened")]
    Unknown {
        /// Where.
        subject: String,
        /// Why.
        source: Unknown,
    },
    /// A message is not what was sealed.
    #[error("the message on {subject} cannot be opened")]
    NotOpened {
        /// Where.
        subject: String,
        /// Why.
        source: NotOpened,
    },
    /// Keys cannot be made.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

impl Error {
    /// Whether somebody has to look at it: keys, or master keys, are not as they must be.
    pub const fn is_grave(&self) -> bool {
        matches!(
            self,
            Self::Unreadable { .. }
                | Self::NotUnwrapped { .. }
                | Self::Missing { .. }
                | Self::Off { .. }
        )
    }

    /// Whether the same call may succeed later, unchanged.
    pub const fn is_transient(&self) -> bool {
        !matches!(
            self,
            Self::Erased { .. } | Self::Unknown { .. } | Self::NotOpened { .. }
        )
    }
}

/// What lies in the stream for a person.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum Entry {
    /// A key.
    Wrapped {
        /// Name of the master key.
        master: String,
        /// The wrapped key, in Base64.
        key: String,
        made_at: Timestamp,
    },
    /// None any more.
    Erased { at: Timestamp },
}

/// The keys of persons. Clones share what they know.
#[derive(Clone, Debug)]
pub struct Keyring(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    context: jetstream::Context,
    sealing: Sealing,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// How often the client was connected when this began: what changed while it was not is not
    /// known here.
    connects: u64,
    /// How many changes were heard of: what was read before one is not kept after it.
    changes: u64,
    persons: LruCache<AccountId, Found>,
}

impl Keyring {
    /// The keys behind this connection; their stream was made by [`crate::jetstream::prepare`].
    pub fn new(client: &Client, sealing: Sealing) -> Self {
        Self(Arc::new(Inner {
            client: client.clone(),
            context: jetstream::new(client.clone()),
            sealing,
            known: Mutex::new(Known {
                connects: connects(client),
                changes: 0,
                persons: LruCache::new(KNOWN),
            }),
        }))
    }

    /// Hears of keys that others destroy, for as long as this life lasts. Whoever runs for long
    /// needs it.
    ///
    /// # Errors
    /// When the subscription cannot be made.
    pub async fn follow(&self, life: &Lifecycle) -> Result<(), SubscribeError> {
        let mut changes = self.0.client.subscribe(subject::KEY_CHANGES).await?;
        let (this, stopping) = (self.clone(), life.clone());
        life.spawn("keys", async move {
            loop {
                let change = tokio::select! {
                    change = changes.next() => change,
                    () = stopping.stopping() => return,
                };
                let Some(change) = change else { return };
                let person = change.subject.rsplit('.').next().map(str::parse);
                if let Some(Ok(person)) = person {
                    let mut known = this.known();
                    known.changes += 1;
                    known.persons.pop(&person);
                }
            }
        });
        Ok(())
    }

    /// The name of the master key that wraps new keys.
    pub fn master(&self) -> Option<&str> {
        match &self.0.sealing {
            Sealing::Keys(masters) => Some(masters.current()),
            Sealing::Off => None,
        }
    }

    /// Whether what is written is sealed.
    pub fn seals(&self) -> bool {
        matches!(self.0.sealing, Sealing::Keys(_))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        let connects = connects(&self.0.client);
        if known.connects != connects {
            known.persons.clear();
            known.connects = connects;
            known.changes += 1;
        }
        known
    }

    /// The key of a person.
    ///
    /// # Errors
    /// When the stream cannot be read, or the key not be unwrapped.
    pub async fn find(&self, person: AccountId) -> Result<Found, Error> {
        let mut found = self.find_all(&[person]).await?;
        Ok(found.remove(&person).unwrap_or(Found::Absent))
    }

    /// The keys of these persons, all in it.
    ///
    /// # Errors
    /// As for [`Self::find`].
    pub async fn find_all(
        &self,
        persons: &[AccountId],
    ) -> Result<HashMap<AccountId, Found>, Error> {
        let mut found = HashMap::with_capacity(persons.len());
        let mut wanted = Vec::new();
        {
            let mut known = self.known();
            for person in persons {
                match known.persons.get(person) {
                    Some(key) => {
                        found.insert(*person, key.clone());
                    }
                    None => wanted.push(*person),
                }
            }
        }
        if wanted.is_empty() {
            return Ok(found);
        }
        wanted.sort_unstable();
        wanted.dedup();
        let before = self.known().changes;
        let subjects: Vec<String> = wanted.iter().map(|person| subject::key(*person)).collect();
        let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
        let stored = direct_get::lasts(&self.0.client, subject::KEYS, &subjects).await?;
        let mut entries = Vec::with_capacity(wanted.len());
        for (person, subject) in wanted.into_iter().zip(subjects) {
            let entry = match stored.get(subject) {
                Some(stored) => Some(entry(person, &stored.payload)?),
                // A replica may not have it yet.
                None => self.last(person).await?.map(|(_, entry)| entry),
            };
            entries.push((person, entry));
        }
        // Side by side: a key management service is somewhere else.
        let mut unwrapped = futures_util::stream::iter(entries)
            .map(|(person, entry)| async move {
                let key = match entry {
                    Some(entry) => self.unwrap(person, entry).await?,
                    None => Found::Absent,
                };
                Ok::<_, Error>((person, key))
            })
            .buffer_unordered(UNWRAPPED_AT_ONCE);
        while let Some(unwrapped) = unwrapped.next().await {
            let (person, key) = unwrapped?;
            if !matches!(key, Found::Absent) {
                let mut known = self.known();
                if known.changes == before {
                    known.persons.put(person, key.clone());
                }
            }
            found.insert(person, key);
        }
        Ok(found)
    }

    /// The key that something new about a person is sealed with, made where there is none; `None`
    /// where nothing is sealed.
    ///
    /// # Errors
    /// As for [`Self::find`]; and when the person is erased.
    pub async fn for_writing(&self, person: AccountId) -> Result<Option<Arc<PersonKey>>, Error> {
        if !self.seals() {
            return Ok(None);
        }
        for _ in 0..ATTEMPTS {
            match self.find(person).await? {
                Found::Key(key) => return Ok(Some(key)),
                Found::Erased => return Err(Error::Erased { person }),
                Found::Absent => {}
            }
            let key = Key::fresh()?;
            match self.put(person, 0, &self.wrap(person, &key).await?).await {
                Ok(_) => {}
                // Somebody else made one, or this one is there although no answer came.
                Err(Error::Write {
                    source: append::Error::Conflict { .. } | append::Error::NoAnswer { .. },
                    ..
                }) => debug!(%person, "a key may be there already"),
                Err(error) => return Err(error),
            }
        }
        Err(Error::Missing { person })
    }

    /// Opens the payload of a commit, if it is sealed.
    ///
    /// # Errors
    /// When the key cannot be had, or it is not the one.
    pub async fn open(
        &self,
        subject: &str,
        headers: Option<&HeaderMap>,
        payload: &Bytes,
    ) -> Result<Opened, Error> {
        let Some(person) = self.person(subject, headers)? else {
            return Ok(Opened::Text(payload.clone()));
        };
        let found = self.find(person).await?;
        open_with(&found, person, subject, headers, payload)
    }

    /// Opens a message that was read from the log; `None` if its person was erased.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub async fn open_stored(
        &self,
        subject: &str,
        mut stored: direct_get::Stored,
    ) -> Result<Option<direct_get::Stored>, Error> {
        let opened = self
            .open(subject, Some(&stored.headers), &stored.payload)
            .await?;
        Ok(match opened {
            Opened::Text(payload) => {
                stored.payload = payload;
                Some(stored)
            }
            Opened::Erased => None,
        })
    }

    /// Whose key a commit takes.
    ///
    /// # Errors
    /// When it was sealed in a way that is not known here.
    pub fn person(
        &self,
        subject: &str,
        headers: Option<&HeaderMap>,
    ) -> Result<Option<AccountId>, Error> {
        sealed_for(headers).map_err(|source| Error::Unknown {
            subject: subject.to_owned(),
            source,
        })
    }

    /// Takes note that a person was erased.
    pub fn forget(&self, person: AccountId) {
        let mut known = self.known();
        known.changes += 1;
        known.persons.put(person, Found::Erased);
    }

    /// Destroys a person's key, for ever and everywhere. Safe to repeat.
    ///
    /// # Errors
    /// When the stream cannot be written; then it may or may not be destroyed.
    pub async fn destroy(&self, person: AccountId) -> Result<(), Error> {
        let mut tombstone = None;
        for _ in 0..ATTEMPTS {
            let expected = match self.last(person).await? {
                Some((seq, Entry::Erased { .. })) => {
                    tombstone = Some(seq);
                    break;
                }
                Some((seq, Entry::Wrapped { .. })) => seq,
                None => 0,
            };
            let entry = Entry::Erased { at: clock::now() };
            match self.put(person, expected, &entry).await {
                Ok(seq) => {
                    tombstone = Some(seq);
                    break;
                }
                Err(Error::Write {
                    source: append::Error::Conflict { .. } | append::Error::NoAnswer { .. },
                    ..
                }) => {}
                Err(error) => return Err(error),
            }
        }
        let tombstone = tombstone.ok_or(Error::Unreadable { person })?;
        self.forget(person);
        self.delete_before(person, tombstone).await
    }

    /// Wraps the keys of all persons with the current master key, deletes what is left of earlier
    /// ones, and answers how many were wrapped anew. Safe to repeat.
    ///
    /// # Errors
    /// When a key cannot be read or written; those before it are done.
    pub async fn rewrap(&self) -> Result<Rewrapped, Error> {
        let mut done = Rewrapped::default();
        let mut next = 1;
        // What is written meanwhile is wrapped with the current one.
        let end = self.stream().await?.get_info().await;
        let end = end.map_or(u64::MAX, |info| info.state.last_sequence);
        loop {
            let page = direct_get::range(&self.0.client, subject::KEYS, next, 1 << 20).await?;
            let Some(last) = page.last() else { break };
            next = last.sequence + 1;
            for message in page {
                if message.sequence > end {
                    return Ok(done);
                }
                self.rewrap_one(&message, &mut done).await?;
            }
        }
        Ok(done)
    }

    async fn rewrap_one(&self, message: &StreamMessage, done: &mut Rewrapped) -> Result<(), Error> {
        let Some(Ok(person)) = message.subject.rsplit('.').next().map(str::parse) else {
            return Ok(());
        };
        let Sealing::Keys(masters) = &self.0.sealing else {
            return Err(Error::Off { person });
        };
        let Some((seq, entry)) = self.last(person).await? else {
            return Ok(());
        };
        if seq != message.sequence {
            return self.delete_before(person, seq).await;
        }
        let last = match entry {
            Entry::Erased { .. } => {
                done.erased += 1;
                seq
            }
            Entry::Wrapped { ref master, .. } if master == masters.current() => {
                done.current += 1;
                seq
            }
            wrapped @ Entry::Wrapped { .. } => {
                let Found::Key(key) = self.unwrap(person, wrapped).await? else {
                    return Err(Error::Unreadable { person });
                };
                let entry = self.wrap(person, &key.root).await?;
                done.rewrapped += 1;
                self.put(person, seq, &entry).await?
            }
        };
        self.delete_before(person, last).await
    }

    /// All entries as they are stored, in pages, to be kept elsewhere.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub async fn page(&self, from: u64) -> Result<Vec<StreamMessage>, Error> {
        Ok(direct_get::range(&self.0.client, subject::KEYS, from, 1 << 20).await?)
    }

    /// Stores an entry that [`Self::page`] gave, where the person has none; answers whether it was.
    ///
    /// # Errors
    /// When it is no entry, cannot be unwrapped, or cannot be written.
    pub async fn restore(&self, person: AccountId, entry: &[u8]) -> Result<bool, Error> {
        self.unwrap(person, self::entry(person, entry)?).await?;
        let subject = subject::key(person);
        let payload = Bytes::copy_from_slice(entry);
        match append::append(&self.0.client, &subject, 0, HeaderMap::new(), payload).await {
            Ok(_) => Ok(true),
            Err(append::Error::Conflict { .. }) => Ok(false),
            Err(source) => Err(Error::Write { person, source }),
        }
    }

    async fn wrap(&self, person: AccountId, key: &Key) -> Result<Entry, Error> {
        let Sealing::Keys(masters) = &self.0.sealing else {
            return Err(Error::Off { person });
        };
        let (master, wrapped) = masters
            .wrap(person, key)
            .await
            .map_err(|source| Error::NotWrapped { person, source })?;
        Ok(Entry::Wrapped {
            master,
            key: BASE64.encode(wrapped),
            made_at: clock::now(),
        })
    }

    async fn unwrap(&self, person: AccountId, entry: Entry) -> Result<Found, Error> {
        let Entry::Wrapped { master, key, .. } = entry else {
            return Ok(Found::Erased);
        };
        let Sealing::Keys(masters) = &self.0.sealing else {
            return Err(Error::Off { person });
        };
        let key = BASE64
            .decode(key)
            .map_err(|_| Error::Unreadable { person })?;
        let key = masters
            .unwrap(&master, person, &key)
            .await
            .map_err(|source| Error::NotUnwrapped { person, source })?;
        Ok(Found::Key(Arc::new(PersonKey::new(key))))
    }

    async fn put(&self, person: AccountId, expected: u64, entry: &Entry) -> Result<u64, Error> {
        let payload = serde_json::to_vec(entry).map_err(|_| Error::Unreadable { person })?;
        let subject = subject::key(person);
        let headers = HeaderMap::new();
        append::append(&self.0.client, &subject, expected, headers, payload.into())
            .await
            .map(|stored| stored.seq)
            .map_err(|source| Error::Write { person, source })
    }

    async fn stream(&self) -> Result<Stream<()>, Error> {
        Ok(self.0.context.get_stream_no_info(subject::KEYS).await?)
    }

    /// The last entry of a person as the leader has it, and its sequence.
    async fn last(&self, person: AccountId) -> Result<Option<(u64, Entry)>, Error> {
        let stream = self.stream().await?;
        let found = stream
            .get_last_raw_message_by_subject(&subject::key(person))
            .await;
        let message = match found {
            Ok(message) => message,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                return Ok(None);
            }
            Err(error) => return Err(Error::Leader(error)),
        };
        let entry = entry(person, &message.payload)?;
        Ok(Some((message.sequence, entry)))
    }

    /// Deletes every entry of a person before the sequence `last`; the server overwrites their
    /// bytes.
    async fn delete_before(&self, person: AccountId, last: u64) -> Result<(), Error> {
        let stream = self.stream().await?;
        let subject = subject::key(person);
        loop {
            let first = stream.get_first_raw_message_by_subject(&subject, 1).await?;
            if first.sequence >= last {
                return Ok(());
            }
            if let Err(source) = stream.delete_message(first.sequence).await {
                let error = Error::Delete { person, source };
                warn!(reason = telemetry::chain(&error), "a key is left over");
                return Err(error);
            }
        }
    }
}

fn entry(person: AccountId, stored: &[u8]) -> Result<Entry, Error> {
    serde_json::from_slice(stored).map_err(|_| Error::Unreadable { person })
}

/// What [`Keyring::rewrap`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rewrapped {
    /// Keys that an earlier master key had wrapped.
    pub rewrapped: u64,
    /// Keys that the current one had wrapped.
    pub current: u64,
    /// Persons without a key any more.
    pub erased: u64,
}

/// Opens the payload of a commit that is sealed with this person's key.
///
/// # Errors
/// When the key is missing or not the one.
pub fn open_with(
    found: &Found,
    person: AccountId,
    subject: &str,
    headers: Option<&HeaderMap>,
    payload: &[u8],
) -> Result<Opened, Error> {
    match found {
        Found::Key(key) => match open(subject, headers, payload, &key.log) {
            Ok(text) => Ok(Opened::Text(text.into())),
            Err(source) => Err(Error::NotOpened {
                subject: subject.to_owned(),
                source,
            }),
        },
        Found::Erased => Ok(Opened::Erased),
        Found::Absent => Err(Error::Missing { person }),
    }
}
