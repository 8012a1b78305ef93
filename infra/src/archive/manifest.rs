//! Which segments there are: pages of some hundred entries each, so that a page stays small enough
//! to be written with every addition, and a long log has few of them.

use super::{Error, Hash, segment::Trailer};
use bytes::Bytes;
use domain::Timestamp;
use serde::{Deserialize, Serialize};

/// Entries of a page.
pub(super) const PAGE: usize = 256;
/// The format of a page.
const FORMAT: u32 = 1;

/// A part of the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    format: u32,
    /// Its number; they begin with zero.
    pub number: u64,
    /// Its entries, in the order of the log.
    pub segments: Vec<Entry>,
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its first sequence.
    pub first: u64,
    /// Its last one.
    pub last: u64,
    /// How many records it has.
    pub records: u64,
    /// How many of its sequences the log did not have.
    pub missing: u64,
    /// Its size as an object.
    pub bytes: u64,
    /// SHA-256 of the object before its own.
    pub hash: Hash,
    /// The chain before its first record.
    pub previous: Hash,
    /// The chain after its last one.
    pub chain: Hash,
    /// When the server stored its last message, in nanoseconds since 1970.
    pub last_at_nanos: i64,
    /// When it was written.
    pub written_at: Timestamp,
}

impl Page {
    /// An empty one.
    pub(super) const fn new(number: u64) -> Self {
        Self {
            format: FORMAT,
            number,
            segments: Vec::new(),
        }
    }

    pub(super) fn read(key: &str, object: &[u8]) -> Result<Self, Error> {
        let failed = |source| Error::Manifest {
            key: key.to_owned(),
            source,
        };
        let page: Self = serde_json::from_slice(object).map_err(failed)?;
        if page.format != FORMAT {
            let reason = format!("its format {} is unknown", page.format);
            return Err(failed(serde::de::Error::custom(reason)));
        }
        Ok(page)
    }

    pub(super) fn object(&self) -> Bytes {
        // Numbers and texts: there is nothing that JSON could not hold.
        serde_json::to_vec_pretty(self)
            .expect("a page is JSON")
            .into()
    }
}

impl Entry {
    /// Of a segment that is written now.
    pub(super) fn new(trailer: &Trailer, bytes: u64, written_at: Timestamp) -> Self {
        Self {
            first: trailer.first,
            last: trailer.last,
            records: trailer.records,
            missing: trailer.missing,
            bytes,
            hash: trailer.hash,
            previous: trailer.previous,
            chain: trailer.chain,
            last_at_nanos: trailer.last_at_nanos,
            written_at,
        }
    }
}
