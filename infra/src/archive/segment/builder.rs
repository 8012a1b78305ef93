use super::{BLOCK, FULL, GROWS_TO, Index, Place, Trailer, pack};
use crate::archive::{Hash, Record};
use bytes::{BufMut, Bytes, BytesMut};

/// A segment in the making. It holds what is compressed, and one block that is not.
#[derive(Clone, Debug)]
pub struct Builder {
    first: u64,
    previous: Hash,
    packed: BytesMut,
    block: Vec<u8>,
    index: Index,
    records: u64,
    missing: u64,
    raw: usize,
    last: u64,
    last_at_nanos: i64,
    chain: Hash,
}

impl Builder {
    /// An empty one, whose first record is that of `first`, behind the chain `previous`.
    pub fn new(first: u64, previous: Hash) -> Self {
        Self {
            first,
            previous,
            packed: BytesMut::new(),
            block: Vec::new(),
            index: Index::default(),
            records: 0,
            missing: 0,
            raw: 0,
            last: first.saturating_sub(1),
            last_at_nanos: 0,
            chain: previous,
        }
    }

    /// Adds the record that comes next.
    pub fn push(&mut self, record: &Record) {
        debug_assert_eq!(record.first(), self.last + 1, "records are contiguous");
        if self.block.len() >= BLOCK {
            self.packed.extend_from_slice(&pack(&self.block));
            self.block.clear();
        }
        let offset = self.block.len();
        record.write(&mut self.block);
        let frame = &self.block[offset..];
        self.chain = self.chain.then(frame);
        self.raw += frame.len();
        self.records += 1;
        self.last = record.last();
        match record {
            Record::Message(message) => {
                self.last_at_nanos = message.at_nanos;
                let place = Place {
                    seq: message.seq,
                    block: self.packed.len() as u64,
                    offset: offset as u32,
                };
                self.index.add(&message.subject, place);
            }
            Record::Gap { first, last } => self.missing += last - first + 1,
        }
    }

    /// Whether nothing more belongs into it.
    pub fn is_full(&self) -> bool {
        self.raw >= FULL || self.packed.len() >= GROWS_TO
    }

    /// The last sequence in it; the one before its first while it is empty.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The first sequence in it.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The chain after its last record.
    pub fn chain(&self) -> Hash {
        self.chain
    }

    /// The object, as it is so far, and what it says about itself.
    pub fn object(&self) -> (Bytes, Trailer) {
        let mut object = self.packed.clone();
        object.extend_from_slice(&pack(&self.block));
        let mut trailer = Trailer {
            first: self.first,
            last: self.last,
            records: self.records,
            missing: self.missing,
            last_at_nanos: self.last_at_nanos,
            previous: self.previous,
            chain: self.chain,
            index_at: object.len() as u64,
            hash: Hash::NONE,
        };
        self.index.write(&mut object);
        trailer.write_fields(&mut object);
        trailer.hash = Hash::of(&object);
        object.put_slice(&trailer.hash.0);
        (object.freeze(), trailer)
    }
}
