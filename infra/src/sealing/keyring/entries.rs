//! The stream `KEYS`: what lies in it for a person, and how that is read, replaced and deleted.

use super::Error;
use crate::{append, direct_get, telemetry};
use async_nats::{
    Client, HeaderMap,
    jetstream::{
        self,
        message::StreamMessage,
        stream::{LastRawMessageErrorKind, Stream},
    },
};
use bytes::Bytes;
use domain::{Timestamp, id::AccountId, subject};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use tracing::warn;

/// Bytes of one page of entries.
const PAGE_BYTES: usize = 1 << 20;

/// What lies in the stream for a person.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(super) enum Entry {
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

impl Entry {
    /// Reads what is stored.
    pub(super) fn read(person: AccountId, stored: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(stored).map_err(|_| Error::Unreadable { person })
    }
}

/// Access to the stream.
#[derive(Debug)]
pub(super) struct Entries {
    client: Client,
    context: jetstream::Context,
}

impl Entries {
    pub(super) fn new(client: &Client) -> Self {
        Self {
            client: client.clone(),
            context: jetstream::new(client.clone()),
        }
    }

    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    /// The last entries of these persons, as far as they have one: each is asked for at the leader
    /// before it is said to be missing, since a replica may not have it yet.
    pub(super) async fn lasts(
        &self,
        persons: Vec<AccountId>,
    ) -> Result<Vec<(AccountId, Option<Entry>)>, Error> {
        let subjects: Vec<String> = persons.iter().map(|person| subject::key(*person)).collect();
        let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
        let stored: HashMap<_, _> =
            direct_get::lasts(&self.client, subject::KEYS, &subjects).await?;
        let mut entries = Vec::with_capacity(persons.len());
        for (person, subject) in persons.into_iter().zip(subjects) {
            let entry = match stored.get(subject) {
                Some(stored) => Some(Entry::read(person, &stored.payload)?),
                None => self.last(person).await?.map(|(_, entry)| entry),
            };
            entries.push((person, entry));
        }
        Ok(entries)
    }

    /// Entries from this sequence on, of all persons: some of them, none at the end.
    pub(super) async fn page(&self, from: u64) -> Result<Vec<StreamMessage>, Error> {
        Ok(direct_get::range(&self.client, subject::KEYS, from, PAGE_BYTES).await?)
    }

    /// The sequence of the latest entry.
    pub(super) async fn end(&self) -> Result<u64, Error> {
        let info = self.stream().await?.get_info().await;
        Ok(info.map_or(u64::MAX, |info| info.state.last_sequence))
    }

    /// Stores an entry as it is, where the person has none; answers whether it was.
    pub(super) async fn put_first(&self, person: AccountId, entry: &[u8]) -> Result<bool, Error> {
        let (subject, headers) = (subject::key(person), HeaderMap::new());
        let payload = Bytes::copy_from_slice(entry);
        match append::append(&self.client, &subject, 0, headers, payload).await {
            Ok(_) => Ok(true),
            Err(append::Error::Conflict { .. }) => Ok(false),
            Err(source) => Err(Error::Write { person, source }),
        }
    }

    pub(super) async fn put(
        &self,
        person: AccountId,
        expected: u64,
        entry: &Entry,
    ) -> Result<u64, Error> {
        let payload = serde_json::to_vec(entry).map_err(|_| Error::Unreadable { person })?;
        let subject = subject::key(person);
        let headers = HeaderMap::new();
        append::append(&self.client, &subject, expected, headers, payload.into())
            .await
            .map(|stored| stored.seq)
            .map_err(|source| Error::Write { person, source })
    }

    async fn stream(&self) -> Result<Stream<()>, Error> {
        Ok(self.context.get_stream_no_info(subject::KEYS).await?)
    }

    /// The last entry of a person as the leader has it, and its sequence.
    pub(super) async fn last(&self, person: AccountId) -> Result<Option<(u64, Entry)>, Error> {
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
        let entry = Entry::read(person, &message.payload)?;
        Ok(Some((message.sequence, entry)))
    }

    /// Deletes every entry of a person before the sequence `last`; the server overwrites their
    /// bytes.
    pub(super) async fn delete_before(&self, person: AccountId, last: u64) -> Result<(), Error> {
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
