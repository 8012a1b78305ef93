//! The history of one aggregate out of the copy, without reading all of it.
//!
//! Each commit says which sequence the aggregate's commit before it has: that is what it was
//! appended with. So the way goes backwards, from the last commit that is known, and of each
//! segment on it only the trailer, the index and the blocks with the aggregate's records are read.

use super::{
    Archive, Entry, Error, Message, Reader, Record,
    segment::{Corrupt, GROWS_TO, Index, TRAILER, Trailer, record_in},
};
use bytes::Bytes;
use std::ops::Range;

/// The messages of `subject` up to the one at sequence `last`, in order; empty where that is not
/// in the copy.
///
/// # Errors
/// When the copy is damaged there, or cannot be read now.
pub async fn history(archive: &Archive, subject: &str, last: u64) -> Result<Vec<Message>, Error> {
    let mut found = Vec::new();
    let mut wanted = last;
    let mut pages = archive.pages().await?;
    let mut page = Vec::new();
    while wanted > 0 {
        let Some(entry) = entry_of(archive, &mut pages, &mut page, wanted).await? else {
            break;
        };
        let part = part(archive, &entry, subject, wanted).await?;
        let Some(first) = part.first() else { break };
        wanted = first.expected().unwrap_or(0);
        found.push(part);
    }
    Ok(found.into_iter().rev().flatten().collect())
}

/// The message of this sequence, if the copy has one.
///
/// # Errors
/// When the copy is damaged there, or cannot be read now.
pub async fn message(archive: &Archive, seq: u64) -> Result<Option<Message>, Error> {
    let Some(part) = Reader::new(archive.clone(), seq).next().await? else {
        return Ok(None);
    };
    let key = archive.segment_key(part.records.first());
    for record in part.records {
        let (record, _) = record.map_err(|source| {
            let key = key.clone();
            Error::Corrupt { key, source }
        })?;
        match record {
            Record::Message(message) if message.seq == seq => return Ok(Some(message)),
            Record::Message(_) | Record::Gap { .. } => {}
        }
    }
    Ok(None)
}

/// The segment that has the sequence; pages are taken from the end, as the way goes.
async fn entry_of(
    archive: &Archive,
    pages: &mut Vec<u64>,
    page: &mut Vec<Entry>,
    seq: u64,
) -> Result<Option<Entry>, Error> {
    loop {
        if page.first().is_some_and(|entry| entry.first <= seq) {
            return Ok(page.iter().find(|entry| entry.last >= seq).cloned());
        }
        let Some(number) = pages.pop() else {
            return Ok(None);
        };
        let taken = archive.page(number).await?;
        *page = taken.map(|page| page.segments).unwrap_or_default();
    }
}

/// The aggregate's messages of one segment up to a sequence.
async fn part(
    archive: &Archive,
    entry: &Entry,
    subject: &str,
    last: u64,
) -> Result<Vec<Message>, Error> {
    let object = Object::of(archive, entry).await?;
    let index_end = object.len - TRAILER as u64;
    let trailer = object.read(index_end..object.len).await?;
    let trailer = Trailer::read(&trailer).map_err(|source| object.corrupt(source))?;
    let index = object.read(trailer.index_at..index_end).await?;
    let index = Index::read(&index).map_err(|source| object.corrupt(source))?;
    let mut messages = Vec::new();
    let mut block = (u64::MAX, Bytes::new());
    for place in index.places(subject) {
        if place.seq > last {
            break;
        }
        if block.0 != place.block {
            let end = index.block_after(place.block).unwrap_or(trailer.index_at);
            block = (place.block, object.read(place.block..end).await?);
        }
        let record = record_in(&block.1, place.offset);
        match record.map_err(|source| object.corrupt(source))? {
            Record::Message(message) if message.seq == place.seq => messages.push(message),
            _ => return Err(object.corrupt(Corrupt::Chain(place.seq))),
        }
    }
    Ok(messages)
}

/// A segment of which parts are read.
struct Object<'a> {
    archive: &'a Archive,
    key: String,
    len: u64,
    /// Of one that may still be replaced: all of it, so that its parts belong together.
    whole: Option<Bytes>,
}

impl<'a> Object<'a> {
    async fn of(archive: &'a Archive, entry: &Entry) -> Result<Self, Error> {
        let key = archive.segment_key(entry.first);
        let whole = if entry.bytes < GROWS_TO as u64 {
            archive.store().get(&key).await?
        } else {
            None
        };
        let len = whole
            .as_ref()
            .map_or(entry.bytes, |whole| whole.len() as u64);
        Ok(Self {
            archive,
            key,
            len,
            whole,
        })
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, Error> {
        let foreign = || self.corrupt(Corrupt::Foreign);
        if range.start >= range.end || range.end > self.len {
            return Err(foreign());
        }
        if let Some(whole) = &self.whole {
            return Ok(whole.slice(range.start as usize..range.end as usize));
        }
        let read = self.archive.store().get_range(&self.key, range).await?;
        read.ok_or_else(foreign)
    }

    fn corrupt(&self, source: Corrupt) -> Error {
        Error::Corrupt {
            key: self.key.clone(),
            source,
        }
    }
}
