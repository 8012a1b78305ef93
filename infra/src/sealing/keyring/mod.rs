//! The keys of persons, in the stream `KEYS`: one subject for each person, whose last message is
//! the key, wrapped with a master key, or says that the person was erased.
//!
//! It is no key-value bucket, since those refuse to delete a message so that its bytes are
//! overwritten on the disk. A key is destroyed in two steps that can be repeated: the last message
//! says so, then the ones before are deleted.

mod entries;
mod error;
mod rotation;

pub use error::Error;
pub use rotation::Rewrapped;

use super::{Key, Opened, Sealing, open, sealed_for};
use crate::{append, clock, direct_get, lifecycle::Lifecycle, nats::connects};
use async_nats::{Client, HeaderMap, SubscribeError};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use domain::{
    id::{AccountId, QueryId},
    subject,
};
use entries::{Entries, Entry};
use futures_util::StreamExt;
use lru::LruCache;
use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tracing::debug;

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

/// The keys of persons. Clones share what they know.
#[derive(Clone, Debug)]
pub struct Keyring(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    entries: Entries,
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
            entries: Entries::new(client),
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
        let mut changes = self
            .0
            .entries
            .client()
            .subscribe(subject::KEY_CHANGES)
            .await?;
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
        let connects = connects(self.0.entries.client());
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
        let entries = self.0.entries.lasts(wanted).await?;
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
            let entry = self.wrap(person, &Key::fresh()?).await?;
            match self.0.entries.put(person, 0, &entry).await {
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
            let expected = match self.0.entries.last(person).await? {
                Some((seq, Entry::Erased { .. })) => {
                    tombstone = Some(seq);
                    break;
                }
                Some((seq, Entry::Wrapped { .. })) => seq,
                None => 0,
            };
            let entry = Entry::Erased { at: clock::now() };
            match self.0.entries.put(person, expected, &entry).await {
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
        self.0.entries.delete_before(person, tombstone).await
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
