use super::{
    Archive, Entry, Error, Hash, Page, Record, Segment,
    manifest::PAGE,
    segment::{Builder, Trailer},
};
use crate::{
    clock,
    objects::{Bucket, If, Store},
};
use domain::wire::consistency::Epoch;
use tracing::{info, warn};

/// Extends a copy. What it knows is what is written; after an error, and when it was overtaken, it
/// is opened again, and whoever feeds it goes on from [`Writer::last`].
#[derive(Debug)]
pub struct Writer {
    archive: Archive,
    bucket: Bucket,
    page: Page,
    page_version: Option<String>,
    open: Builder,
    open_version: Option<String>,
    /// The chain before the last record, and whether that was a message.
    before: (Hash, bool),
    written: u64,
}

impl Writer {
    /// Opens the copy of a log of this epoch where it ends, or begins one at the log's first
    /// sequence. What a killed writer has left unfinished is finished.
    ///
    /// # Errors
    /// When its end is damaged, or the place does not answer.
    pub async fn open(bucket: Bucket, epoch: Epoch, first: u64) -> Result<Self, Error> {
        let archive = Archive::new(Store::Bucket(bucket.clone()), epoch);
        let mut writer = Self {
            archive,
            bucket,
            page: Page::new(0),
            page_version: None,
            open: Builder::new(first, Hash::NONE),
            open_version: None,
            before: (Hash::NONE, false),
            written: first.saturating_sub(1),
        };
        match writer.archive.pages().await?.pop() {
            Some(number) => writer.take_page(number).await?,
            None => writer.rebuild_manifest().await?,
        }
        if let Some(entry) = writer.page.segments.last().cloned() {
            let segment = writer.take_segment(entry.first).await?;
            let (segment, version) = segment.ok_or_else(|| Error::Missing {
                key: writer.archive.segment_key(entry.first),
                first: entry.first,
                last: entry.last,
            })?;
            writer.adopt(&segment, version)?;
            if segment.trailer.last != entry.last {
                writer.note(&segment.trailer, segment.bytes()).await?;
            }
        }
        // A segment that its writer could not note in the manifest any more.
        while let Some((segment, version)) = writer.take_segment(writer.open.last() + 1).await? {
            writer.adopt(&segment, version)?;
            writer.note(&segment.trailer, segment.bytes()).await?;
        }
        writer.close_if_full();
        Ok(writer)
    }

    /// The last sequence that is in the copy or was pushed.
    pub fn last(&self) -> u64 {
        self.open.last()
    }

    /// The last sequence that is in the copy.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Whether the last record can be looked for in the log again: it was a message.
    pub fn can_compare(&self) -> bool {
        self.before.1
    }

    /// Whether this is the record that was pushed last: that it is still in the log shows that it
    /// is still the same log.
    pub fn is_last(&self, record: &Record) -> bool {
        record.last() == self.last() && self.before.0.then(&record.frame()) == self.open.chain()
    }

    /// Adds the next record, in memory.
    pub fn push(&mut self, record: &Record) {
        self.before = (self.open.chain(), matches!(record, Record::Message(_)));
        self.open.push(record);
    }

    /// Whether what was pushed should be written before more is.
    pub fn is_full(&self) -> bool {
        self.open.is_full()
    }

    /// Writes what was pushed: the segment, then the manifest.
    ///
    /// # Errors
    /// When it may not be written, or somebody else has written: open it again.
    pub async fn flush(&mut self) -> Result<(), Error> {
        if self.last() == self.written {
            return Ok(());
        }
        let (object, trailer) = self.open.object();
        let bytes = object.len() as u64;
        let key = self.archive.segment_key(self.open.first());
        let version = put(&self.bucket, &key, object, self.open_version.as_deref()).await?;
        self.open_version = Some(version);
        self.note(&trailer, bytes).await?;
        self.written = self.last();
        self.close_if_full();
        Ok(())
    }

    fn close_if_full(&mut self) {
        if self.open.is_full() {
            self.open = Builder::new(self.open.last() + 1, self.open.chain());
            self.open_version = None;
        }
    }

    /// Writes a segment's entry into the manifest.
    async fn note(&mut self, trailer: &Trailer, bytes: u64) -> Result<(), Error> {
        let entry = Entry::new(trailer, bytes, clock::now());
        match self.page.segments.last_mut() {
            Some(last) if last.first == entry.first => *last = entry,
            _ => {
                if self.page.segments.len() >= PAGE {
                    self.page = Page::new(self.page.number + 1);
                    self.page_version = None;
                }
                self.page.segments.push(entry);
            }
        }
        let key = self.archive.page_key(self.page.number);
        let object = self.page.object();
        let version = put(&self.bucket, &key, object, self.page_version.as_deref()).await?;
        self.page_version = Some(version);
        Ok(())
    }

    async fn take_page(&mut self, number: u64) -> Result<(), Error> {
        let key = self.archive.page_key(number);
        let (object, version) = self.bucket.get(&key).await?.ok_or(Error::Overtaken)?;
        self.page = Page::read(&key, &object)?;
        self.page_version = Some(version);
        Ok(())
    }

    async fn take_segment(&self, first: u64) -> Result<Option<(Segment, String)>, Error> {
        let key = self.archive.segment_key(first);
        let Some((object, version)) = self.bucket.get(&key).await? else {
            return Ok(None);
        };
        Ok(Some((super::open(&key, object)?, version)))
    }

    /// Goes on with a segment as the open one. All of it is read, so that what is added to it
    /// stands on what is true.
    fn adopt(&mut self, segment: &Segment, version: String) -> Result<(), Error> {
        let first = segment.trailer.first;
        let key = self.archive.segment_key(first);
        let entries = &self.page.segments;
        let unfit = || Error::Unfit { key: key.clone() };
        let before = entries.iter().rev().find(|entry| entry.first < first);
        if before.is_some_and(|before| before.chain != segment.trailer.previous) {
            return Err(unfit());
        }
        let entry = entries.last().filter(|entry| entry.first == first);
        let mut is_noted = entry.is_none();
        self.open = Builder::new(first, segment.trailer.previous);
        for record in segment.records() {
            let (record, chain) = record.map_err(|source| Error::Corrupt {
                key: key.clone(),
                source,
            })?;
            self.before = (self.open.chain(), matches!(record, Record::Message(_)));
            self.open.push(&record);
            is_noted |= entry.is_some_and(|entry| entry.chain == chain);
        }
        if !is_noted {
            return Err(unfit());
        }
        self.open_version = Some(version);
        self.written = self.open.last();
        Ok(())
    }

    /// Makes a manifest out of the segments, where there is none.
    async fn rebuild_manifest(&mut self) -> Result<(), Error> {
        let firsts = self.archive.segments().await?;
        if firsts.is_empty() {
            return Ok(());
        }
        warn!(
            segments = firsts.len(),
            "the copy has no manifest: it is made anew from the segments"
        );
        let mut next = firsts[0];
        for first in firsts {
            if first != next {
                return Err(Error::Missing {
                    key: self.archive.segment_key(next),
                    first: next,
                    last: first - 1,
                });
            }
            let Some(segment) = self.archive.segment(first).await? else {
                return Err(Error::Overtaken);
            };
            next = segment.trailer.last + 1;
            self.note(&segment.trailer, segment.bytes()).await?;
        }
        info!(last = next - 1, "the manifest is whole again");
        Ok(())
    }
}

async fn put(
    bucket: &Bucket,
    key: &str,
    object: bytes::Bytes,
    version: Option<&str>,
) -> Result<String, Error> {
    let condition = version.map_or(If::Absent, If::Version);
    let written = bucket.put(key, object, condition).await?;
    written.ok_or(Error::Overtaken)
}
