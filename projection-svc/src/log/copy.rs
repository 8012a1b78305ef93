//! Reading the copy of the log in place of the log, as far as it goes: where the log has lost what
//! its copy has, read models are whole again.

use super::{Error, Found, SLICE, SLICE_BYTES, Slice, Slices};
use crate::projector::Source;
use infra::{
    archive::{Archive, Error as CopyError, Part, Reader, Record},
    epoch,
    objects::{Bucket, Store},
    sealing::Keyring,
};
use tracing::{info, warn};

/// Sends everything after the sequence `last` that the copy has, and answers with where it ends;
/// `None` when nobody takes it any more. Hashes and chain are checked on the way.
pub(super) async fn read(
    source: &Source,
    bucket: &Bucket,
    last: u64,
    slices: &Slices,
) -> Option<Result<u64, Error>> {
    let archive = match epoch::of_log(&source.client).await {
        Ok(epoch) => Archive::new(Store::Bucket(bucket.clone()), epoch),
        Err(error) => return Some(Err(error.into())),
    };
    let end = match archive.tail().await {
        Ok(tail) => tail.map_or(last, |tail| tail.last),
        Err(error) => return Some(Err(error.into())),
    };
    info!(from = last + 1, to = end, "reading the copy of the log");
    let mut reader = Reader::new(archive.clone(), last + 1);
    let mut reached = last;
    loop {
        let part = match reader.next().await {
            Ok(Some(part)) => part,
            Ok(None) => return Some(Ok(reached)),
            Err(error) => return Some(Err(error.into())),
        };
        let key = archive.segment_key(part.records.first());
        reached = part.last;
        if let Err(error) = send(part, end, key, &source.keys, slices).await? {
            return Some(Err(error));
        }
    }
}

async fn send(
    part: Part,
    end: u64,
    key: String,
    keys: &Keyring,
    slices: &Slices,
) -> Option<Result<(), Error>> {
    let (mut messages, mut bytes) = (Vec::new(), 0);
    let last = part.last;
    for record in part.records {
        let record = match record {
            Ok((record, _)) => record,
            Err(source) => return Some(Err(CopyError::Corrupt { key, source }.into())),
        };
        let seq = record.last();
        if seq >= part.from {
            match record {
                Record::Message(message) => {
                    bytes += message.payload.len();
                    messages.push(Found::in_copy(message));
                }
                Record::Gap { first, last } => {
                    warn!(
                        first,
                        last, "the log had lost these before they were copied"
                    );
                }
            }
        }
        if (messages.len() >= SLICE || bytes >= SLICE_BYTES || seq == last) && !messages.is_empty()
        {
            let behind = end.saturating_sub(seq);
            let messages = std::mem::take(&mut messages);
            let commits = match super::read(keys, &messages).await {
                Ok(commits) => commits,
                Err(error) => return Some(Err(error.into())),
            };
            slices.send(Ok(Slice { commits, behind })).await.ok()?;
            bytes = 0;
        }
    }
    Some(Ok(()))
}
