use super::{Corrupt, SKIPPABLE, SKIPPABLE_HEAD, pack, unpack};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::BTreeMap;

/// Largest index.
const INDEX_MOST: usize = 64 * 1024 * 1024;

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its sequence.
    pub seq: u64,
    /// Where its block begins in the object.
    pub block: u64,
    /// Where it begins in the unpacked block.
    pub offset: u32,
}

/// Where each subject's records are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index(BTreeMap<String, Vec<Place>>);

impl Index {
    /// The records of one subject, in order.
    pub fn places(&self, subject: &str) -> &[Place] {
        self.0.get(subject).map_or(&[], Vec::as_slice)
    }

    pub(super) fn add(&mut self, subject: &str, place: Place) {
        match self.0.get_mut(subject) {
            Some(places) => places.push(place),
            None => _ = self.0.insert(subject.to_owned(), vec![place]),
        }
    }

    /// Where the next block with a message begins behind the one that begins here.
    pub fn block_after(&self, block: u64) -> Option<u64> {
        let places = self.0.values().flatten();
        places
            .map(|place| place.block)
            .filter(|at| *at > block)
            .min()
    }

    /// Reads it from the part of an object that the trailer names.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(mut bytes: &[u8]) -> Result<Self, Corrupt> {
        if bytes.len() < SKIPPABLE_HEAD {
            return Err(Corrupt::Packed);
        }
        bytes.advance(SKIPPABLE_HEAD);
        let mut index = BTreeMap::new();
        let mut fields = Bytes::from(unpack(bytes, INDEX_MOST)?);
        while fields.has_remaining() {
            let entry = read_entry(&mut fields).ok_or(Corrupt::Packed)?;
            index.insert(entry.0, entry.1);
        }
        Ok(Self(index))
    }

    pub(super) fn write(&self, object: &mut BytesMut) {
        let mut plain = Vec::new();
        for (subject, places) in &self.0 {
            plain.put_u32_le(subject.len() as u32);
            plain.put_slice(subject.as_bytes());
            plain.put_u32_le(places.len() as u32);
            for place in places {
                plain.put_u64_le(place.seq);
                plain.put_u64_le(place.block);
                plain.put_u32_le(place.offset);
            }
        }
        let packed = pack(&plain);
        object.put_u32_le(SKIPPABLE + 1);
        object.put_u32_le(packed.len() as u32);
        object.put_slice(&packed);
    }
}

fn read_entry(fields: &mut Bytes) -> Option<(String, Vec<Place>)> {
    let len = fields.try_get_u32_le().ok()? as usize;
    let subject = (fields.remaining() >= len).then(|| fields.split_to(len))?;
    let subject = String::from_utf8(subject.into()).ok()?;
    let count = fields.try_get_u32_le().ok()?;
    let places = (0..count).map(|_| {
        Some(Place {
            seq: fields.try_get_u64_le().ok()?,
            block: fields.try_get_u64_le().ok()?,
            offset: fields.try_get_u32_le().ok()?,
        })
    });
    Some((subject, places.collect::<Option<_>>()?))
}
