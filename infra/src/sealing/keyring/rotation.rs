//! Other master keys in place of those of before, and entries that are kept elsewhere.

use super::{Error, Found, Keyring, entries::Entry};
use crate::sealing::Sealing;
use async_nats::jetstream::message::StreamMessage;
use domain::id::AccountId;
use serde::Serialize;

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

impl Keyring {
    /// Wraps the keys of all persons with the current master key, deletes what is left of earlier
    /// ones, and answers how many were wrapped anew. Safe to repeat.
    ///
    /// # Errors
    /// When a key cannot be read or written; those before it are done.
    pub async fn rewrap(&self) -> Result<Rewrapped, Error> {
        let mut done = Rewrapped::default();
        let mut next = 1;
        // What is written meanwhile is wrapped with the current one.
        let end = self.0.entries.end().await?;
        loop {
            let page = self.page(next).await?;
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
        let Some((seq, entry)) = self.0.entries.last(person).await? else {
            return Ok(());
        };
        if seq != message.sequence {
            return self.0.entries.delete_before(person, seq).await;
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
                self.0.entries.put(person, seq, &entry).await?
            }
        };
        self.0.entries.delete_before(person, last).await
    }

    /// All entries as they are stored, in pages, to be kept elsewhere.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub async fn page(&self, from: u64) -> Result<Vec<StreamMessage>, Error> {
        self.0.entries.page(from).await
    }

    /// Stores an entry that [`Self::page`] gave, where the person has none; answers whether it was.
    ///
    /// # Errors
    /// When it is no entry, cannot be unwrapped, or cannot be written.
    pub async fn restore(&self, person: AccountId, entry: &[u8]) -> Result<bool, Error> {
        self.unwrap(person, Entry::read(person, entry)?).await?;
        self.0.entries.put_first(person, entry).await
    }
}
