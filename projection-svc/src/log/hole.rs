//! Messages that have left the log on purpose, out of its copy.

use super::{Error, Found, SLICE, SLICE_BYTES};
use crate::projector::Source;
use infra::{
    archive::{Archive, Error as CopyError, Ledger, Message, Part, Reader, Record},
    epoch,
    objects::{Bucket, Store},
};
use tracing::info;

/// Reads them, in the order of the log. It holds one segment at a time.
pub(super) struct Holes {
    bucket: Bucket,
    ledger: Ledger,
    place: Option<Place>,
}

/// Where it is in the copy.
struct Place {
    archive: Archive,
    reader: Reader,
    part: Option<Part>,
    /// What comes after `part`.
    next: u64,
}

impl Holes {
    pub(super) const fn new(bucket: Bucket) -> Self {
        Self {
            bucket,
            ledger: Ledger::new(),
            place: None,
        }
    }

    /// The first messages of the hole before `found`, at least one, if they have left on purpose.
    pub(super) async fn fill(
        &mut self,
        source: &Source,
        expected: u64,
        found: u64,
    ) -> Result<Vec<Found>, Error> {
        let place = match &mut self.place {
            Some(place) => place,
            none => {
                let epoch = epoch::of_log(&source.client).await?;
                let archive = Archive::new(Store::Bucket(self.bucket.clone()), epoch);
                info!(
                    from = expected,
                    "reading what has left the log from its copy"
                );
                none.insert(Place {
                    reader: Reader::new(archive.clone(), expected),
                    archive,
                    part: None,
                    next: expected,
                })
            }
        };
        let end = found.min(expected + SLICE as u64);
        let gap = Error::Gap { expected, found };
        let unknown = |ledger: &Ledger| (expected..end).find(|seq| !ledger.has(*seq));
        if unknown(&self.ledger).is_some() {
            self.ledger.follow(&place.archive).await?;
        }
        let end = unknown(&self.ledger).unwrap_or(end);
        if end == expected {
            return Err(gap);
        }
        let (mut messages, mut bytes) = (Vec::new(), 0);
        for seq in expected..end {
            let message = place.message(seq).await?;
            let Some(message) = message else {
                return Err(gap);
            };
            bytes += message.payload.len();
            messages.push(Found::in_copy(message));
            if bytes >= SLICE_BYTES {
                break;
            }
        }
        Ok(messages)
    }
}

impl Place {
    /// The message of this sequence, which is never one before the last.
    async fn message(&mut self, seq: u64) -> Result<Option<Message>, CopyError> {
        if self.part.is_none() || seq >= self.next {
            if seq != self.next {
                self.reader = Reader::new(self.archive.clone(), seq);
            }
            let Some(part) = self.reader.next().await? else {
                return Ok(None);
            };
            self.next = part.last + 1;
            self.part = Some(part);
        }
        let Some(part) = &mut self.part else {
            return Ok(None);
        };
        let key = self.archive.segment_key(part.records.first());
        for record in &mut part.records {
            let (record, _) = record.map_err(|source| {
                let key = key.clone();
                CopyError::Corrupt { key, source }
            })?;
            match record {
                Record::Message(message) if message.seq == seq => return Ok(Some(message)),
                other if other.last() >= seq => return Ok(None),
                Record::Message(_) | Record::Gap { .. } => {}
            }
        }
        Ok(None)
    }
}
