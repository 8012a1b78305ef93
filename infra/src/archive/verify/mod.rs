//! Comparing the copy with the log, record by record, up to the first difference.

mod difference;
mod purged;

pub use difference::{Difference, Side, What};

use super::{
    Archive, Entry, Error, Hash, Ledger, Log, LogError, Message, Record, Segment, restore,
    segment::Records,
};
use crate::clock;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use difference::{absent, copy, damaged, log_side};
use serde::Serialize;
use std::collections::VecDeque;

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The first sequence that was looked at; zero where the copy is empty.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// Segments that were read.
    pub segments: u64,
    /// Messages that are the same in both, or in the copy alone where only that was looked at.
    pub messages: u64,
    /// How many of them are in the copy alone, since they were purged on purpose.
    pub purged: u64,
    /// The chain after the last record.
    pub chain: Hash,
    /// Where they differ first.
    pub difference: Option<Difference>,
}

/// What the copy is compared with.
#[derive(Clone, Copy, Debug)]
pub enum Against<'a> {
    /// Nothing: it is checked alone.
    Nothing,
    /// The log that it is of.
    Log(&'a Log),
    /// A log that was restored from it: the server's time is another one, what was a part of a torn
    /// batch stands alone, what followed a lost message follows the one before, and what the copy
    /// has not is not there.
    Restored(&'a Log),
}

/// Compares the copy from `from` to `to` with the log. What the log has behind the end of the copy is no difference: it is not copied
/// yet. Whole segments are read, so that the chain is whole; `progress` is told the last sequence
/// after each.
///
/// # Errors
/// When the two cannot be read now; what is wrong with them is a [`Difference`].
pub async fn verify(
    archive: &Archive,
    log: Against<'_>,
    (from, to): (u64, u64),
    mut progress: impl FnMut(u64),
) -> Result<Outcome, Failed> {
    let mut check = Check {
        archive,
        is_restored: matches!(log, Against::Restored(_)),
        log: match log {
            Against::Nothing => None,
            Against::Log(log) | Against::Restored(log) => Some(Cursor {
                log,
                records: VecDeque::new(),
            }),
        },
        range: (from, to),
        chain: None,
        ledger: Ledger::new(),
        outcome: Outcome {
            first: 0,
            last: 0,
            segments: 0,
            messages: 0,
            purged: 0,
            chain: Hash::NONE,
            difference: None,
        },
    };
    match check.run(&mut progress).await {
        Ok(()) => {}
        Err(Found::Difference(difference)) => check.outcome.difference = Some(*difference),
        Err(Found::Failed(failed)) => return Err(failed),
    }
    Ok(check.outcome)
}

/// One of the two cannot be read now.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The copy.
    #[error(transparent)]
    Copy(#[from] Error),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
}

enum Found {
    Difference(Box<Difference>),
    Failed(Failed),
}

impl From<Difference> for Found {
    fn from(difference: Difference) -> Self {
        Self::Difference(Box::new(difference))
    }
}

impl<E: Into<Failed>> From<E> for Found {
    fn from(failed: E) -> Self {
        Self::Failed(failed.into())
    }
}

struct Check<'a> {
    archive: &'a Archive,
    log: Option<Cursor<'a>>,
    is_restored: bool,
    range: (u64, u64),
    /// Where the copy has to go on: the next sequence and the chain before it.
    chain: Option<(u64, Hash)>,
    ledger: Ledger,
    outcome: Outcome,
}

impl Check<'_> {
    async fn run(&mut self, progress: &mut impl FnMut(u64)) -> Result<(), Found> {
        self.read_ledger().await?;
        let pages = self.archive.pages().await?;
        for number in 0..pages.last().map_or(0, |last| last + 1) {
            let page = match self.archive.page(number).await {
                Ok(Some(page)) => page,
                Ok(None) => return Err(self.missing_page(number).into()),
                Err(Error::Manifest { key, source }) => {
                    let detail = format!("the manifest's page {number} cannot be read: {source}");
                    let next = self.next();
                    return Err(copy(What::DamagedPage, (next, next), key, detail).into());
                }
                Err(error) => return Err(error.into()),
            };
            for entry in &page.segments {
                if entry.first > self.range.1 {
                    return Ok(());
                }
                if entry.last < self.range.0 {
                    self.chain = Some((entry.last + 1, entry.chain));
                    continue;
                }
                self.segment(entry).await?;
                progress(self.outcome.last);
            }
        }
        self.unlisted(pages.len() as u64).await
    }

    /// What is behind the end of the manifest: nothing, or one segment that its writer, when it was
    /// killed, could not note any more.
    async fn unlisted(&mut self, pages: u64) -> Result<(), Found> {
        let behind = self.archive.segments_from(self.next()).await?;
        match behind[..] {
            [] => Ok(()),
            [first] if pages > 0 => match self.archive.segment(first).await? {
                Some(segment) => {
                    let entry = Entry::new(&segment.trailer, segment.bytes(), clock::now());
                    self.segment(&entry).await
                }
                None => Ok(()),
            },
            _ => Err(self.missing_page(pages).into()),
        }
    }

    fn next(&self) -> u64 {
        self.chain.map_or(1, |(next, _)| next)
    }

    fn missing_page(&self, number: u64) -> Difference {
        let detail = format!(
            "the manifest's page {number} is missing; the archiver makes the whole manifest anew \
             from the segments when all of its pages are deleted"
        );
        let next = self.next();
        let key = self.archive.page_key(number);
        copy(What::MissingPage, (next, next), key, detail)
    }

    async fn segment(&mut self, entry: &Entry) -> Result<(), Found> {
        let key = self.archive.segment_key(entry.first);
        let range = (entry.first, entry.last);
        let (next, chain) = self.chain.unwrap_or((entry.first, entry.previous));
        if entry.first != next || entry.previous != chain {
            let detail = format!(
                "the manifest goes on at {} where {next} was due, or behind another chain",
                entry.first
            );
            return Err(copy(What::BrokenChain, range, key, detail).into());
        }
        let segment = match self.archive.segment(entry.first).await {
            Ok(Some(segment)) => segment,
            Ok(None) => {
                let detail = format!("{key} is missing, which has {} to {}", range.0, range.1);
                return Err(copy(What::MissingSegment, range, key, detail).into());
            }
            Err(Error::Corrupt { source, .. }) => return Err(damaged(range, key, source).into()),
            Err(error @ Error::Unfit { .. }) => {
                return Err(copy(What::BrokenChain, range, key, error.to_string()).into());
            }
            Err(error) => return Err(error.into()),
        };
        self.records(entry, &segment, &key).await?;
        self.outcome.segments += 1;
        Ok(())
    }

    /// The segment may hold more than its entry says: it is written before.
    async fn records(&mut self, entry: &Entry, segment: &Segment, key: &str) -> Result<(), Found> {
        let range = (entry.first, entry.last);
        if segment.trailer.previous != entry.previous {
            let detail = format!("{key} does not follow what the segment before it ends with");
            return Err(copy(What::BrokenChain, range, key.to_owned(), detail).into());
        }
        let mut is_noted = false;
        let records: Records = segment.records();
        for record in records {
            let (record, chain) =
                record.map_err(|source| damaged(range, key.to_owned(), source))?;
            is_noted |= chain == entry.chain;
            self.compare_anchor(record.last(), chain, (range, key))?;
            if record.last() >= self.range.0 && record.first() <= self.range.1 {
                self.compare(&record).await?;
                if self.outcome.first == 0 {
                    self.outcome.first = record.first();
                }
                self.outcome.last = record.last();
                self.outcome.chain = chain;
            }
        }
        if !is_noted {
            let detail = format!("{key} has not the records that the manifest says it has");
            return Err(copy(What::BrokenChain, range, key.to_owned(), detail).into());
        }
        self.chain = Some((segment.trailer.last + 1, segment.trailer.chain));
        Ok(())
    }

    async fn compare(&mut self, copied: &Record) -> Result<(), Found> {
        if let Record::Message(_) = copied {
            self.outcome.messages += 1;
        }
        let Some(log) = &mut self.log else {
            return Ok(());
        };
        let range = (copied.first(), copied.last());
        let Some(logged) = log.at(copied.first()).await? else {
            return Err(log.ends_early(copied).await?.into());
        };
        if self.is_restored && is_restored(copied, logged) {
            return Ok(());
        }
        if let (Record::Message(message), Record::Gap { .. }) = (copied, logged) {
            // It may have been purged since the ledger was read.
            if self.ledger.has(message.seq)
                || (self.ledger.follow(self.archive).await? && self.ledger.has(message.seq))
            {
                self.outcome.purged += 1;
                return Ok(());
            }
        }
        let (side, what, detail) = match (copied, logged) {
            (Record::Message(a), Record::Message(b)) if a == b => return Ok(()),

            (Record::Message(a), Record::Message(b)) => {
                let fields = [
                    ("subject", a.subject != b.subject),
                    ("headers", a.headers != b.headers),
                    ("payload", a.payload != b.payload),
                    ("time", a.at_nanos != b.at_nanos),
                ];
                let fields = fields.iter().filter(|(_, differs)| *differs);
                let fields: Vec<&str> = fields.map(|(name, _)| *name).collect();
                let detail = format!(
                    "log and copy have different messages at {} ({}): the log was cut off and \
                     written on, or one of the two was changed",
                    range.0,
                    fields.join(", ")
                );
                (Side::Either, What::Differs, detail)
            }
            (Record::Message(_), Record::Gap { last, .. }) => {
                let detail = format!("the log lacks {} to {last}, which the copy has", range.0);
                (Side::Log, What::MissingInLog, detail)
            }
            (Record::Gap { .. }, Record::Gap { .. }) => {
                let detail = format!(
                    "the log had lost {} to {} before they were copied",
                    range.0, range.1
                );
                (Side::Log, What::MissingInBoth, detail)
            }
            (Record::Gap { .. }, Record::Message(_)) => {
                let detail = format!(
                    "the log has {}, which it had not when it was to be copied",
                    range.0
                );
                (Side::Copy, What::MissingInCopy, detail)
            }
        };
        Err(Difference {
            side,
            what,
            seq: range.0,
            last: range.1,
            subject: subject(copied).or_else(|| subject(logged)),
            object: None,
            detail,
        }
        .into())
    }
}

/// A place in the log.
struct Cursor<'a> {
    log: &'a Log,
    records: VecDeque<Record>,
}

impl Cursor<'_> {
    /// What the log has at this sequence, which never goes back; `None` behind its end.
    async fn at(&mut self, seq: u64) -> Result<Option<&Record>, Found> {
        while self.records.front().is_some_and(|first| first.last() < seq) {
            self.records.pop_front();
        }
        if self.records.is_empty() {
            let read = match self.log.read(seq).await {
                Err(LogError::Unreadable { from, last }) => {
                    let detail = format!(
                        "the log should go to {last}, and its server finds nothing from {from} on"
                    );
                    return Err(log_side(What::LogUnreadable, from, last, detail).into());
                }
                Err(error) => {
                    self.demand(seq).await?;
                    return Err(error.into());
                }
                Ok(read) => read,
            };
            self.records = read.into();
        }
        Ok(self.records.front())
    }

    async fn ends_early(&self, copied: &Record) -> Result<Difference, Found> {
        let seq = copied.first();
        match self.log.state().await {
            Ok(state) => {
                let detail = format!(
                    "the log ends at {}, and the copy has {seq} and what follows",
                    state.last
                );
                let mut difference = log_side(What::LogEndsEarly, seq, seq, detail);
                difference.subject = subject(copied);
                Ok(difference)
            }
            Err(LogError::Absent) => Ok(absent(seq)),
            Err(error) => Err(error.into()),
        }
    }

    /// That there is no log is a difference, whatever else went wrong.
    async fn demand(&self, seq: u64) -> Result<(), Found> {
        match self.log.state().await {
            Err(LogError::Absent) => Err(absent(seq).into()),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// Whether a restored log has at this place what it can have.
fn is_restored(copied: &Record, logged: &Record) -> bool {
    let (Record::Message(copied), Record::Message(logged)) = (copied, logged) else {
        return matches!(copied, Record::Gap { .. });
    };
    let headers = |message: &Message| -> Vec<(String, String)> {
        let headers = message.headers.iter();
        let kept = headers.filter(|(name, _)| {
            let expected: &str = NATS_EXPECTED_LAST_SUBJECT_SEQUENCE.as_ref();
            !restore::is_of_batch(name) && name != expected
        });
        kept.cloned().collect()
    };
    copied.subject == logged.subject
        && copied.payload == logged.payload
        && headers(copied) == headers(logged)
}

fn subject(record: &Record) -> Option<String> {
    match record {
        Record::Message(message) => Some(message.subject.clone()),
        Record::Gap { .. } => None,
    }
}
