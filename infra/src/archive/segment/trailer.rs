use super::{Corrupt, SKIPPABLE, SKIPPABLE_HEAD};
use crate::archive::Hash;
use bytes::{Buf, BufMut, BytesMut};

/// Says that it is one of ours, and of which format.
const FORMAT: u64 = u64::from_le_bytes(*b"amaima01");
/// Numbers and hashes before the object's own hash.
const FIELDS: usize = 8 * 8 + 2 * 32;
/// Length of the trailer.
pub const TRAILER: usize = SKIPPABLE_HEAD + FIELDS + 32;

/// What a segment says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// The first sequence that is in it.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// How many records it has; a gap is one.
    pub records: u64,
    /// How many sequences of it the log did not have.
    pub missing: u64,
    /// When the server stored its last message, in nanoseconds since 1970.
    pub last_at_nanos: i64,
    /// The chain before its first record.
    pub previous: Hash,
    /// The chain after its last one.
    pub chain: Hash,
    /// Where the index begins in the object.
    pub index_at: u64,
    /// SHA-256 of the object before it.
    pub hash: Hash,
}

impl Trailer {
    /// Reads it from the last [`TRAILER`] bytes of an object.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(mut bytes: &[u8]) -> Result<Self, Corrupt> {
        if bytes.len() != TRAILER || bytes.get_u32_le() != SKIPPABLE {
            return Err(Corrupt::Foreign);
        }
        if bytes.get_u32_le() as usize != FIELDS + 32 || bytes.get_u64_le() != FORMAT {
            return Err(Corrupt::Foreign);
        }
        let (first, last) = (bytes.get_u64_le(), bytes.get_u64_le());
        let (records, missing) = (bytes.get_u64_le(), bytes.get_u64_le());
        let (last_at_nanos, index_at) = (bytes.get_i64_le(), bytes.get_u64_le());
        bytes.advance(8);
        let mut hash = || {
            let mut hash = Hash::NONE;
            bytes.copy_to_slice(&mut hash.0);
            hash
        };
        Ok(Self {
            first,
            last,
            records,
            missing,
            last_at_nanos,
            previous: hash(),
            chain: hash(),
            index_at,
            hash: hash(),
        })
    }

    /// Everything of it but the hash, which is of that as well.
    pub(super) fn write_fields(&self, object: &mut BytesMut) {
        object.put_u32_le(SKIPPABLE);
        object.put_u32_le((FIELDS + 32) as u32);
        object.put_u64_le(FORMAT);
        object.put_u64_le(self.first);
        object.put_u64_le(self.last);
        object.put_u64_le(self.records);
        object.put_u64_le(self.missing);
        object.put_i64_le(self.last_at_nanos);
        object.put_u64_le(self.index_at);
        object.put_u64_le(0);
        object.put_slice(&self.previous.0);
        object.put_slice(&self.chain.0);
    }
}
