//! The copy of the log: the same records in the same order, in objects whose hashes are chained,
//! at another place than the log.
//!
//! ```text
//! archive/<epoch>/segments/<first sequence>.seg    the records; see `segment`
//! archive/<epoch>/manifest/<number>.json           which segments there are; see `manifest`
//! archive/<epoch>/ledger/<number>.json             what has left the log since; see [`ledger`]
//! ```
//!
//! A segment is named by its first sequence, and written only if there is none of this name, or if
//! what is there is still what the writer knows. So the segments are one chain without gaps or
//! overlaps, whoever writes: a second writer, or one that hung and comes back, is refused. Only the
//! last segment is ever replaced, by one that begins with the same records, until it is closed.
//!
//! The manifest is written after the segment, so that it may lag behind by one of them; what it
//! says is never ahead. If it is lost, [`Writer::open`] makes it anew from the segments.
//!
//! To read the copy: [`Reader`] for all of it, [`history()`] for one aggregate. To compare it with the
//! log: [`verify`]. To have the log back: [`Archive::copy_to`] and [`restore`].

mod confirm;
mod history;
pub mod ledger;
mod log;
mod manifest;
mod reader;
mod record;
pub mod restore;
pub mod segment;
pub mod verify;
mod writer;

pub use confirm::confirm;
pub use history::{history, message};
pub use ledger::Ledger;
pub use log::{Error as LogError, Log, State as LogState};
pub use manifest::{Entry, Page};
pub use reader::{Part, Reader};
pub use record::{Hash, Malformed, Message, Record};
pub use segment::{Corrupt, Segment};
pub use writer::Writer;

use crate::objects::{self, Store};
use domain::wire::consistency::Epoch;

/// Where copies are, one below the other by epoch.
pub const ROOT: &str = "archive/";

/// The copy cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its place does not answer.
    #[error(transparent)]
    Objects(#[from] objects::Error),
    /// An object is not what was written.
    #[error("{key} is damaged")]
    Corrupt {
        /// Which.
        key: String,
        /// What is wrong with it.
        source: Corrupt,
    },
    /// A part of the manifest cannot be read.
    #[error("{key} is no part of a manifest")]
    Manifest {
        /// Which.
        key: String,
        /// Why not.
        source: serde_json::Error,
    },
    /// A segment is not there that the manifest names.
    #[error("{key} is missing: the manifest says that it has sequences {first} to {last}")]
    Missing {
        /// Which.
        key: String,
        /// Its first sequence.
        first: u64,
        /// Its last one.
        last: u64,
    },
    /// A segment does not go on where the one before it ended, or does not say what the manifest
    /// says of it.
    #[error("{key} does not fit what the manifest says")]
    Unfit {
        /// Which.
        key: String,
    },
    /// A page of the ledger is not what was written.
    #[error("{key} is no page of the ledger: {reason}")]
    Ledger {
        /// Which.
        key: String,
        /// Why not.
        reason: String,
    },
    /// Somebody else has written meanwhile. Nothing is lost: open it again.
    #[error("another writer has extended the copy")]
    Overtaken,
}

/// The copy of one log.
#[derive(Clone, Debug)]
pub struct Archive {
    store: Store,
    epoch: String,
}

impl Archive {
    /// The copy of the log of this epoch.
    pub fn new(store: Store, epoch: Epoch) -> Self {
        Self::named(store, epoch.to_string())
    }

    /// The same by the epoch's text, as [`epochs`] lists it.
    pub fn named(store: Store, epoch: String) -> Self {
        Self { store, epoch }
    }

    /// Which log it is of.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// Where it is.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Its keys begin with this.
    pub fn prefix(&self) -> String {
        format!("{ROOT}{}/", self.epoch)
    }

    /// Where the segment is that begins with this sequence.
    pub fn segment_key(&self, first: u64) -> String {
        format!("{}segments/{first:020}.seg", self.prefix())
    }

    /// Where this page of the manifest is.
    pub fn page_key(&self, number: u64) -> String {
        format!("{}manifest/{number:010}.json", self.prefix())
    }

    /// The segment that begins with this sequence, if there is one.
    ///
    /// # Errors
    /// When it is damaged, or cannot be read now.
    pub async fn segment(&self, first: u64) -> Result<Option<Segment>, Error> {
        let key = self.segment_key(first);
        let Some(object) = self.store.get(&key).await? else {
            return Ok(None);
        };
        let segment = open(&key, object)?;
        if segment.trailer.first != first {
            return Err(Error::Unfit { key });
        }
        Ok(Some(segment))
    }

    /// A page of the manifest, if it is there.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn page(&self, number: u64) -> Result<Option<Page>, Error> {
        let key = self.page_key(number);
        let Some(object) = self.store.get(&key).await? else {
            return Ok(None);
        };
        Page::read(&key, &object).map(Some)
    }

    /// The numbers of the pages that are there.
    ///
    /// # Errors
    /// When they cannot be listed now.
    pub async fn pages(&self) -> Result<Vec<u64>, Error> {
        let prefix = format!("{}manifest/", self.prefix());
        self.numbers(&prefix, ".json", String::new()).await
    }

    /// The first sequences of the segments that are there.
    ///
    /// # Errors
    /// When they cannot be listed now.
    pub async fn segments(&self) -> Result<Vec<u64>, Error> {
        self.segments_from(0).await
    }

    /// The same, from this sequence on.
    ///
    /// # Errors
    /// When they cannot be listed now.
    pub async fn segments_from(&self, first: u64) -> Result<Vec<u64>, Error> {
        let prefix = format!("{}segments/", self.prefix());
        let after = match first.checked_sub(1) {
            Some(before) => self.segment_key(before),
            None => String::new(),
        };
        self.numbers(&prefix, ".seg", after).await
    }

    async fn numbers(
        &self,
        prefix: &str,
        suffix: &str,
        mut after: String,
    ) -> Result<Vec<u64>, Error> {
        let mut numbers = Vec::new();
        loop {
            let listed = self.store.list(prefix, &after).await?;
            let Some(last) = listed.last() else {
                return Ok(numbers);
            };
            after.clone_from(&last.key);
            numbers.extend(listed.iter().filter_map(|each| {
                let name = each.key.strip_prefix(prefix)?.strip_suffix(suffix)?;
                name.parse::<u64>().ok()
            }));
        }
    }

    /// Copies the whole copy to another place, checking all of it on the way, and answers with its
    /// end; `None` where there is nothing. Segments that are there already are left alone.
    ///
    /// # Errors
    /// When it is damaged, or one of the places does not answer.
    pub async fn copy_to(
        &self,
        target: &Store,
        mut progress: impl FnMut(u64),
    ) -> Result<Option<Entry>, Error> {
        let target = Self::named(target.clone(), self.epoch.clone());
        let mut end: Option<Entry> = None;
        for number in self.pages().await? {
            let page = self.page(number).await?.ok_or(Error::Overtaken)?;
            let mut copied = Page::new(number);
            for entry in page.segments {
                let key = self.segment_key(entry.first);
                let before = end.as_ref().map(|end| (end.last + 1, end.chain));
                if before.is_some_and(|before| before != (entry.first, entry.previous)) {
                    return Err(Error::Unfit { key });
                }
                let entry = self.copy_segment(&target, entry).await?;
                progress(entry.last);
                copied.segments.push(entry.clone());
                end = Some(entry);
            }
            let key = self.page_key(number);
            target.store.put(&key, copied.object()).await?;
        }
        for number in self.ledger_pages().await? {
            let key = self.ledger_key(number);
            if let Some(page) = self.store.get(&key).await? {
                target.store.put(&key, page).await?;
            }
        }
        Ok(end)
    }

    async fn copy_segment(&self, target: &Self, entry: Entry) -> Result<Entry, Error> {
        let key = self.segment_key(entry.first);
        let there = match target.segment(entry.first).await {
            Ok(Some(there)) => there.trailer.hash == entry.hash,
            Ok(None) | Err(Error::Corrupt { .. }) => false,
            Err(error) => return Err(error),
        };
        if there {
            return Ok(entry);
        }
        let segment = self.segment(entry.first).await?;
        let segment = segment.ok_or_else(|| Error::Missing {
            key: key.clone(),
            first: entry.first,
            last: entry.last,
        })?;
        let mut chains = segment
            .records()
            .map(|record| record.map(|(_, chain)| chain));
        let is_noted = chains.try_fold(false, |found, chain| {
            chain.map(|chain| found || chain == entry.chain)
        });
        match is_noted {
            Ok(true) if segment.trailer.previous == entry.previous => {}
            Ok(_) => return Err(Error::Unfit { key }),
            Err(source) => return Err(Error::Corrupt { key, source }),
        }
        target.store.put(&key, segment.object()).await?;
        Ok(Entry::new(
            &segment.trailer,
            segment.bytes(),
            entry.written_at,
        ))
    }

    /// What the manifest says last, if there is a manifest.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn tail(&self) -> Result<Option<Entry>, Error> {
        let Some(number) = self.pages().await?.pop() else {
            return Ok(None);
        };
        let page = self.page(number).await?;
        Ok(page.and_then(|page| page.segments.last().cloned()))
    }
}

fn open(key: &str, object: bytes::Bytes) -> Result<Segment, Error> {
    Segment::open(object).map_err(|source| Error::Corrupt {
        key: key.to_owned(),
        source,
    })
}

/// The epochs of all logs of which there are copies, the oldest first.
///
/// # Errors
/// When they cannot be listed now.
pub async fn epochs(store: &Store) -> Result<Vec<String>, Error> {
    let mut epochs = Vec::new();
    let mut after = String::new();
    loop {
        let listed = store.list(ROOT, &after).await?;
        let Some(first) = listed.first() else {
            return Ok(epochs);
        };
        let rest = first.key.strip_prefix(ROOT).unwrap_or_default();
        let epoch = rest.split('/').next().unwrap_or_default().to_owned();
        // Behind everything of this epoch.
        after = format!("{ROOT}{epoch}/~");
        epochs.push(epoch);
    }
}
