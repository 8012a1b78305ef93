//! The ledger of erasures: one object for each person who is to stay erased, whatever backup is
//! brought back.
//!
//! It lies beside the copy of the log and is written before the copy has the request. A restore
//! repeats every erasure that is in it before any service starts.

use crate::{
    archive::Message,
    objects::{self, Store},
};
use bytes::Bytes;
use domain::{
    Timestamp,
    account::{Account, Event},
    commit::{self, header},
    id::{AccountId, EmailId},
    subject::{Aggregate, Kind},
};
use serde::{Deserialize, Serialize};

/// Where it lies.
pub const ROOT: &str = "erasures/";

/// One erasure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    /// Who.
    pub account: AccountId,
    /// The claim on the address, to be given up.
    pub email: EmailId,
    /// When it was asked for.
    pub at: Timestamp,
}

/// The ledger cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its place does not answer.
    #[error(transparent)]
    Objects(#[from] objects::Error),
    /// An object is no entry.
    #[error("{key} is no entry of the ledger of erasures")]
    Unreadable {
        /// Which.
        key: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl Erasure {
    /// The erasures that a commit of the log asks for.
    pub fn asked_for(message: &Message) -> Vec<Self> {
        let kind = Aggregate::parse(&message.subject).map(|aggregate| aggregate.kind);
        if kind != Some(Kind::Account) || message.header(header::SEALED).is_some() {
            return Vec::new();
        }
        let events: Vec<Event> =
            commit::decode(&message.subject, &message.payload).unwrap_or_default();
        let asked = events.into_iter().filter_map(|event| match event {
            Event::ErasureRequested { account, email, at } => Some(Self { account, email, at }),
            Event::Registered { .. } | Event::Erased { .. } => None,
        });
        asked.collect()
    }

    /// The event that asks for it.
    pub const fn event(self) -> Event {
        Event::ErasureRequested {
            account: self.account,
            email: self.email,
            at: self.at,
        }
    }

    /// Writes it down. Safe to repeat.
    ///
    /// # Errors
    /// When it may not have been written.
    pub async fn note(&self, store: &Store) -> Result<(), Error> {
        let key = format!("{ROOT}{}.json", self.account);
        let json = serde_json::to_vec(self);
        let json = json.map_err(|source| Error::Unreadable {
            key: key.clone(),
            source,
        })?;
        Ok(store.put(&key, Bytes::from(json)).await?)
    }

    /// The subject of the account in the log.
    pub fn subject(self) -> String {
        <Account as domain::Aggregate>::named(self.account.uuid()).subject()
    }
}

/// The whole ledger.
///
/// # Errors
/// When it cannot be read, or holds what is no entry.
pub async fn read(store: &Store) -> Result<Vec<Erasure>, Error> {
    let mut erasures = Vec::new();
    let mut after = String::new();
    loop {
        let listed = store.list(ROOT, &after).await?;
        let Some(last) = listed.last() else {
            return Ok(erasures);
        };
        after.clone_from(&last.key);
        for object in listed {
            let Some(bytes) = store.get(&object.key).await? else {
                continue;
            };
            let entry = serde_json::from_slice(&bytes);
            erasures.push(entry.map_err(|source| Error::Unreadable {
                key: object.key,
                source,
            })?);
        }
    }
}
