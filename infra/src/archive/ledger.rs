//! Which messages have left the log on purpose, after the copy was found to have them.
//!
//! ```text
//! archive/<epoch>/ledger/<number>.json
//! ```
//!
//! A page is written before its messages are purged. It bears its own SHA-256 and that of the page
//! before, and says up to where the copy was, with the chain there: so neither the ledger nor the
//! part of the copy that is now the only place of these messages can change unseen. A page is
//! written only where there is none of its number, so that the pages are one row, whoever writes.

use super::{Archive, Error, Hash};
use crate::{
    clock,
    objects::{Bucket, If},
};
use bytes::Bytes;
use domain::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The format of a page.
const FORMAT: u32 = 1;

/// Some aggregates that left together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    format: u32,
    /// Its number; they begin with zero.
    pub number: u64,
    /// SHA-256 of the page before.
    pub previous: Hash,
    /// When it was written.
    pub made_at: Timestamp,
    /// What the copy was when it was found to have all of these messages.
    pub copy: Anchor,
    /// Aggregates on all pages up to this one.
    pub aggregates: u64,
    /// Messages on all pages up to this one.
    pub messages: u64,
    /// What left.
    pub left: Vec<Left>,
    /// SHA-256 of the page with 64 zeros in this place.
    pub hash: Hash,
}

/// An aggregate that is not in the log any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Its subject.
    pub subject: String,
    /// The sequences of its messages, in order.
    pub seqs: Vec<u64>,
}

/// A place in the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// A sequence.
    pub last: u64,
    /// The chain after it.
    pub chain: Hash,
}

impl Page {
    fn read(key: &str, object: &[u8]) -> Result<Self, Error> {
        let unfit = |reason: &str| Error::Ledger {
            key: key.to_owned(),
            reason: reason.to_owned(),
        };
        let page: Self =
            serde_json::from_slice(object).map_err(|error| unfit(&error.to_string()))?;
        if page.format != FORMAT {
            return Err(unfit("its format is unknown"));
        }
        if page.digest() != page.hash {
            return Err(unfit("its SHA-256 is another than it says"));
        }
        Ok(page)
    }

    fn digest(&self) -> Hash {
        let mut plain = self.clone();
        plain.hash = Hash::NONE;
        Hash::of(&plain.object())
    }

    fn object(&self) -> Bytes {
        // Numbers and texts: there is nothing that JSON could not hold.
        serde_json::to_vec(self).expect("a page is JSON").into()
    }
}

/// Where the ledger ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// How many pages there are.
    pub pages: u64,
    /// SHA-256 of the last one.
    pub hash: Hash,
    /// Aggregates that have left.
    pub aggregates: u64,
    /// Their messages.
    pub messages: u64,
}

impl Tail {
    const EMPTY: Self = Self {
        pages: 0,
        hash: Hash::NONE,
        aggregates: 0,
        messages: 0,
    };

    fn after(page: &Page) -> Self {
        Self {
            pages: page.number + 1,
            hash: page.hash,
            aggregates: page.aggregates,
            messages: page.messages,
        }
    }
}

/// All of the ledger, to be asked by sequence. It holds a bit for each sequence in its range, and a
/// few bytes for each page.
#[derive(Clone, Debug)]
pub struct Ledger {
    tail: Tail,
    sequences: Sequences,
    anchors: BTreeMap<u64, Hash>,
}

impl Ledger {
    /// One that nothing has been read of yet.
    pub const fn new() -> Self {
        Self {
            tail: Tail::EMPTY,
            sequences: Sequences(BTreeMap::new()),
            anchors: BTreeMap::new(),
        }
    }

    /// Reads what is new, and tells whether something was.
    ///
    /// # Errors
    /// When a page is damaged or does not follow the one before, or cannot be read now.
    pub async fn follow(&mut self, archive: &Archive) -> Result<bool, Error> {
        let before = self.tail.pages;
        while let Some(page) = archive.ledger_page(self.tail.pages).await? {
            self.take(&page, &archive.ledger_key(page.number))?;
        }
        Ok(self.tail.pages > before)
    }

    fn take(&mut self, page: &Page, key: &str) -> Result<(), Error> {
        let messages: usize = page.left.iter().map(|left| left.seqs.len()).sum();
        let follows = page.previous == self.tail.hash
            && page.aggregates == self.tail.aggregates + page.left.len() as u64
            && page.messages == self.tail.messages + messages as u64;
        if !follows {
            return Err(Error::Ledger {
                key: key.to_owned(),
                reason: "it does not follow the page before".to_owned(),
            });
        }
        for seq in page.left.iter().flat_map(|left| &left.seqs) {
            self.sequences.add(*seq);
        }
        self.anchors.insert(page.copy.last, page.copy.chain);
        self.tail = Tail::after(page);
        Ok(())
    }

    /// Whether the message of this sequence has left on purpose.
    pub fn has(&self, seq: u64) -> bool {
        self.sequences.has(seq)
    }

    /// Where it ends.
    pub fn tail(&self) -> Tail {
        self.tail
    }

    /// The chain that the copy had after this sequence, if a page says so.
    pub fn anchor(&self, seq: u64) -> Option<Hash> {
        self.anchors.get(&seq).copied()
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

impl Archive {
    /// Where this page of the ledger is.
    pub fn ledger_key(&self, number: u64) -> String {
        format!("{}ledger/{number:010}.json", self.prefix())
    }

    /// A page of the ledger, if it is there; its own hash is checked.
    ///
    /// # Errors
    /// When it is damaged, or cannot be read now.
    pub async fn ledger_page(&self, number: u64) -> Result<Option<Page>, Error> {
        let key = self.ledger_key(number);
        let Some(object) = self.store().get(&key).await? else {
            return Ok(None);
        };
        let page = Page::read(&key, &object)?;
        if page.number != number {
            let reason = format!("it is page {}", page.number);
            return Err(Error::Ledger { key, reason });
        }
        Ok(Some(page))
    }

    /// The numbers of the pages of the ledger that are there.
    ///
    /// # Errors
    /// When they cannot be listed now.
    pub async fn ledger_pages(&self) -> Result<Vec<u64>, Error> {
        let prefix = format!("{}ledger/", self.prefix());
        self.numbers(&prefix, ".json", String::new()).await
    }

    /// The last page of the ledger, if there is one.
    ///
    /// # Errors
    /// When it is damaged, or cannot be read now.
    pub async fn ledger_end(&self) -> Result<Option<Page>, Error> {
        match self.ledger_pages().await?.pop() {
            Some(number) => self.ledger_page(number).await,
            None => Ok(None),
        }
    }
}

/// Writes the next page, behind `end`.
///
/// # Errors
/// [`Error::Overtaken`] where somebody else has written it, or where it was written before and no
/// answer came: read the end of the ledger again.
pub async fn extend(
    bucket: &Bucket,
    archive: &Archive,
    end: Option<&Page>,
    left: Vec<Left>,
    copy: Anchor,
) -> Result<Page, Error> {
    let tail = end.map_or(Tail::EMPTY, Tail::after);
    let messages: usize = left.iter().map(|left| left.seqs.len()).sum();
    let mut page = Page {
        format: FORMAT,
        number: tail.pages,
        previous: tail.hash,
        made_at: clock::now(),
        copy,
        aggregates: tail.aggregates + left.len() as u64,
        messages: tail.messages + messages as u64,
        left,
        hash: Hash::NONE,
    };
    page.hash = page.digest();
    let key = archive.ledger_key(page.number);
    let written = bucket.put(&key, page.object(), If::Absent).await?;
    written.map(|_| page).ok_or(Error::Overtaken)
}

/// A set of sequences, a bit each.
#[derive(Clone, Debug, Default)]
struct Sequences(BTreeMap<u64, Box<[u64; WORDS]>>);

/// Words of 64 sequences that lie together.
const WORDS: usize = 64;

impl Sequences {
    const fn place(seq: u64) -> (u64, usize, u64) {
        let (word, bit) = (seq / 64, seq % 64);
        let words = WORDS as u64;
        (word / words, (word % words) as usize, 1 << bit)
    }

    fn add(&mut self, seq: u64) {
        let (key, word, bit) = Self::place(seq);
        let words = self.0.entry(key).or_insert_with(|| Box::new([0; WORDS]));
        words[word] |= bit;
    }

    fn has(&self, seq: u64) -> bool {
        let (key, word, bit) = Self::place(seq);
        self.0.get(&key).is_some_and(|words| words[word] & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_told_apart_from_their_neighbours() {
        let mut sequences = Sequences::default();
        let added = [1, 63, 64, 4_095, 4_096, 1 << 40];
        added.into_iter().for_each(|seq| sequences.add(seq));
        for seq in added {
            assert!(sequences.has(seq), "{seq}");
        }
        for seq in [0, 2, 62, 65, 4_094, 4_097, (1 << 40) + 1] {
            assert!(!sequences.has(seq), "{seq}");
        }
    }

    #[test]
    fn a_page_that_was_changed_is_refused() {
        let mut page = Page {
            format: FORMAT,
            number: 0,
            previous: Hash::NONE,
            made_at: Timestamp::from_millis(1),
            copy: Anchor {
                last: 9,
                chain: Hash::of(b"chain"),
            },
            aggregates: 1,
            messages: 2,
            left: vec![Left {
                subject: "ev.00.query.x".into(),
                seqs: vec![3, 4],
            }],
            hash: Hash::NONE,
        };
        page.hash = page.digest();
        assert_eq!(Page::read("key", &page.object()).unwrap(), page);
        page.left[0].seqs.push(5);
        let refused = Page::read("key", &page.object()).unwrap_err();
        assert!(refused.to_string().contains("SHA-256"), "{refused}");
    }

    #[test]
    fn pages_follow_each_other() {
        let mut ledger = Ledger::new();
        let mut page = Page {
            format: FORMAT,
            number: 0,
            previous: Hash::NONE,
            made_at: Timestamp::from_millis(1),
            copy: Anchor {
                last: 9,
                chain: Hash::of(b"chain"),
            },
            aggregates: 1,
            messages: 1,
            left: vec![Left {
                subject: "ev.00.query.x".into(),
                seqs: vec![3],
            }],
            hash: Hash::of(b"page"),
        };
        ledger.take(&page, "key").unwrap();
        assert!(ledger.has(3) && !ledger.has(4));
        assert_eq!(ledger.anchor(9), Some(Hash::of(b"chain")));
        // The same once more is not the next one.
        ledger.take(&page, "key").unwrap_err();
        page.previous = page.hash;
        page.aggregates = 2;
        ledger.take(&page, "key").unwrap_err();
        page.messages = 2;
        ledger.take(&page, "key").unwrap();
    }
}
