//! Whether the copy has some messages just as the log has them, with everything read again.

use super::{Archive, Entry, Error, Hash, Record};
use std::collections::BTreeMap;

/// Reads each segment again that has one of these sequences, checks all of its hashes, and answers
/// with the first of `wanted`, hashes of frames by sequence, that the copy has not or has otherwise.
///
/// # Errors
/// When the copy is damaged there, or cannot be read now.
pub async fn confirm(
    archive: &Archive,
    wanted: &BTreeMap<u64, Hash>,
) -> Result<Option<u64>, Error> {
    let mut next = wanted.keys().next().copied();
    let mut pages = archive.pages().await?.into_iter();
    while let Some(number) = pages.next()
        && next.is_some()
    {
        let page = archive.page(number).await?.ok_or(Error::Overtaken)?;
        for entry in &page.segments {
            let Some(seq) = next.filter(|seq| *seq <= entry.last) else {
                continue;
            };
            let range = wanted.range(entry.first.max(seq)..=entry.last);
            if let Some(other) = segment(archive, entry, range.collect()).await? {
                return Ok(Some(other));
            }
            next = wanted.range(entry.last + 1..).next().map(|(seq, _)| *seq);
        }
    }
    Ok(next)
}

async fn segment(
    archive: &Archive,
    entry: &Entry,
    wanted: BTreeMap<&u64, &Hash>,
) -> Result<Option<u64>, Error> {
    let key = archive.segment_key(entry.first);
    let segment = archive.segment(entry.first).await?;
    let segment = segment.ok_or_else(|| Error::Missing {
        key: key.clone(),
        first: entry.first,
        last: entry.last,
    })?;
    let mut is_noted = false;
    let mut missing = wanted;
    let mut frame = Vec::new();
    for record in segment.records() {
        let (record, chain) = record.map_err(|source| {
            let key = key.clone();
            Error::Corrupt { key, source }
        })?;
        is_noted |= chain == entry.chain;
        let Record::Message(message) = &record else {
            continue;
        };
        if let Some(hash) = missing.remove(&message.seq) {
            frame.clear();
            record.write(&mut frame);
            if Hash::of(&frame) != *hash {
                return Ok(Some(message.seq));
            }
        }
    }
    if !is_noted || segment.trailer.previous != entry.previous {
        return Err(Error::Unfit { key });
    }
    Ok(missing.into_keys().next().copied())
}
