//! One object of the copy: contiguous records, where each aggregate's are, and hashes.
//!
//! The object is a zstd file, so that `zstd -dc` gives the frames of all its records: a number of
//! compressed blocks, each a frame of its own, then what zstd passes over: the index and the
//! trailer.
//!
//! ```text
//! block* | index | trailer
//! ```
//!
//! The index says in which block and where in it each subject's records are. The trailer has a
//! fixed length and is read first by whoever wants a part only: it says what is in the object and
//! where the index begins, and ends with the SHA-256 of everything before it.

mod builder;
mod index;
mod trailer;

pub use builder::Builder;
pub use index::{Index, Place};
pub use trailer::{TRAILER, Trailer};

use super::record::{Hash, Malformed, Record};
use bytes::{Buf, Bytes};

/// A segment is closed when it holds this many bytes, uncompressed,
pub const FULL: usize = 8 * 1024 * 1024;
/// or this many compressed ones: an open segment is written anew with every addition to it.
pub const GROWS_TO: usize = 256 * 1024;
/// Bytes that are compressed together, and have to be read for one record.
const BLOCK: usize = 128 * 1024;
/// Largest block: one with the largest message that the server takes.
const BLOCK_MOST: usize = 16 * 1024 * 1024;
/// First of the sixteen magic numbers of what zstd passes over (RFC 8878, section 3.1.2).
const SKIPPABLE: u32 = 0x184D_2A50;
const SKIPPABLE_HEAD: usize = 8;
/// The object is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Corrupt {
    /// Neither the beginning nor the end of a segment.
    #[error("it is no segment")]
    Foreign,
    /// Some byte is another one.
    #[error("its SHA-256 is another than it says")]
    Hash,
    /// A record cannot be read, although the object is what was written.
    #[error(transparent)]
    Record(#[from] Malformed),
    /// A block or the index cannot be unpacked, although the object is what was written.
    #[error("it cannot be unpacked")]
    Packed,
    /// The records are others than the trailer says.
    #[error("its records are not those that it says it has, from sequence {0} on")]
    Chain(u64),
}

/// A segment that is what was written.
#[derive(Clone, Debug)]
pub struct Segment {
    /// What it says about itself.
    pub trailer: Trailer,
    object: Bytes,
}

impl Segment {
    /// Takes an object for a segment.
    ///
    /// # Errors
    /// When it is none, or a byte of it has changed.
    pub fn open(object: Bytes) -> Result<Self, Corrupt> {
        let trailer_at = object.len().checked_sub(TRAILER).ok_or(Corrupt::Foreign)?;
        let hashed = &object[..object.len() - 32];
        let trailer = Trailer::read(&object[trailer_at..])?;
        if Hash::of(hashed) != trailer.hash {
            return Err(Corrupt::Hash);
        }
        if trailer.index_at as usize > trailer_at {
            return Err(Corrupt::Foreign);
        }
        Ok(Self { trailer, object })
    }

    /// The object itself.
    pub fn object(&self) -> Bytes {
        self.object.clone()
    }

    /// Its size as an object.
    pub fn bytes(&self) -> u64 {
        self.object.len() as u64
    }

    /// Its records, each with the chain after it. What they say is compared with the trailer.
    pub fn records(&self) -> Records {
        Records {
            trailer: self.trailer,
            blocks: self.object.slice(..self.trailer.index_at as usize),
            block: Bytes::new(),
            last: self.trailer.first.saturating_sub(1),
            chain: self.trailer.previous,
            is_over: false,
        }
    }

    /// Where each subject's records are.
    ///
    /// # Errors
    /// When that cannot be unpacked.
    pub fn index(&self) -> Result<Index, Corrupt> {
        let end = self.object.len() - TRAILER;
        Index::read(&self.object[self.trailer.index_at as usize..end])
    }
}

/// The record at an offset of a block, which begins `bytes`.
///
/// # Errors
/// When there is none.
pub fn record_in(bytes: &[u8], offset: u32) -> Result<Record, Corrupt> {
    let (mut block, _) = unpack_first(bytes)?;
    let offset = offset as usize;
    if offset > block.len() {
        return Err(Corrupt::Packed);
    }
    block.advance(offset);
    Ok(Record::take(&mut block)?.0)
}

/// Reads a segment from its beginning, a block at a time.
#[derive(Clone, Debug)]
pub struct Records {
    trailer: Trailer,
    blocks: Bytes,
    block: Bytes,
    last: u64,
    chain: Hash,
    is_over: bool,
}

impl Iterator for Records {
    type Item = Result<(Record, Hash), Corrupt>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let next = self.advance();
        self.is_over = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

impl Records {
    /// The first sequence of the segment.
    pub fn first(&self) -> u64 {
        self.trailer.first
    }

    fn advance(&mut self) -> Result<Option<(Record, Hash)>, Corrupt> {
        while self.block.is_empty() {
            if self.blocks.is_empty() {
                let said = (self.trailer.last, self.trailer.chain);
                let is_so = (self.last, self.chain) == said;
                return is_so.then_some(None).ok_or(Corrupt::Chain(self.last + 1));
            }
            let (block, len) = unpack_first(&self.blocks)?;
            self.block = block;
            self.blocks.advance(len);
        }
        let (record, frame) = Record::take(&mut self.block)?;
        if record.first() != self.last + 1 {
            return Err(Corrupt::Chain(self.last + 1));
        }
        self.chain = self.chain.then(&frame);
        self.last = record.last();
        Ok(Some((record, self.chain)))
    }
}

fn pack(plain: &[u8]) -> Vec<u8> {
    // It fails only where memory is short, and an allocation would have ended us then.
    zstd::bulk::compress(plain, zstd::DEFAULT_COMPRESSION_LEVEL).expect("memory for compression")
}

fn unpack(packed: &[u8], most: usize) -> Result<Vec<u8>, Corrupt> {
    let len = zstd::zstd_safe::get_frame_content_size(packed).map_err(|_| Corrupt::Packed)?;
    let len = usize::try_from(len.ok_or(Corrupt::Packed)?).map_err(|_| Corrupt::Packed)?;
    if len > most {
        return Err(Corrupt::Packed);
    }
    zstd::bulk::decompress(packed, len).map_err(|_| Corrupt::Packed)
}

/// The first block and its length while it is compressed.
fn unpack_first(packed: &[u8]) -> Result<(Bytes, usize), Corrupt> {
    let len = zstd::zstd_safe::find_frame_compressed_size(packed).map_err(|_| Corrupt::Packed)?;
    Ok((unpack(&packed[..len], BLOCK_MOST)?.into(), len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Message;

    fn message(seq: u64, bytes: usize) -> Record {
        Record::Message(Message {
            seq,
            at_nanos: seq as i64,
            subject: format!("ev.{}", seq % 7),
            headers: vec![],
            // Nothing that zstd could make much shorter.
            payload: (0..bytes)
                .map(|n| Hash::of(&(seq + n as u64).to_le_bytes()).0[0])
                .collect(),
        })
    }

    fn built(records: &[Record]) -> (Bytes, Trailer) {
        let mut builder = Builder::new(records[0].first(), Hash::of(b"before"));
        records.iter().for_each(|record| builder.push(record));
        builder.object()
    }

    fn history() -> Vec<Record> {
        let mut records: Vec<Record> = (5..300).map(|seq| message(seq, 900)).collect();
        records.push(Record::Gap {
            first: 300,
            last: 309,
        });
        records.push(message(310, 10));
        records
    }

    #[test]
    fn what_was_written_is_read_back_in_order_and_by_subject() {
        let records = history();
        let (object, trailer) = built(&records);
        assert_eq!((trailer.first, trailer.last), (5, 310));
        assert_eq!((trailer.records, trailer.missing), (297, 10));
        let segment = Segment::open(object.clone()).unwrap();
        assert_eq!(segment.trailer, trailer);
        let read: Result<Vec<_>, _> = segment.records().collect();
        let (read, chains): (Vec<_>, Vec<_>) = read.unwrap().into_iter().unzip();
        assert_eq!(read, records);
        assert_eq!(chains.last(), Some(&trailer.chain));
        let index = segment.index().unwrap();
        let places = index.places("ev.3");
        assert!(places.iter().any(|place| place.block > 0), "two blocks");
        assert_eq!(places.len(), 42);
        for place in places {
            let record = record_in(&object[place.block as usize..], place.offset).unwrap();
            assert_eq!(record, records[place.seq as usize - 5]);
        }
        // Any zstd tool reads it.
        let plain = zstd::stream::decode_all(&object[..]).unwrap();
        let frames: Vec<u8> = records.iter().flat_map(Record::frame).collect();
        assert_eq!(plain, frames);
    }

    #[test]
    fn every_flipped_byte_is_found() {
        let records: Vec<Record> = (1..4).map(|seq| message(seq, 60)).collect();
        let (object, _) = built(&records);
        for at in 0..object.len() {
            let mut other = object.to_vec();
            other[at] ^= 0x10;
            assert!(Segment::open(other.into()).is_err(), "byte {at}");
        }
        for len in 0..object.len() {
            assert!(Segment::open(object.slice(..len)).is_err(), "length {len}");
        }
    }

    #[test]
    fn an_open_segment_grows_into_what_it_would_be_at_once() {
        let records = history();
        let mut builder = Builder::new(5, Hash::of(b"before"));
        for record in &records {
            builder.push(record);
            builder.object();
        }
        assert_eq!(builder.object(), built(&records));
    }

    #[test]
    fn records_that_do_not_belong_together_are_no_segment() {
        let (object, trailer) = built(&history());
        let mut segment = Segment::open(object).unwrap();
        segment.trailer.previous = Hash::NONE;
        let read: Result<Vec<_>, _> = segment.records().collect();
        assert_eq!(read, Err(Corrupt::Chain(trailer.last + 1)));
    }
}
