//! One place in the log, as the copy holds it, and the chain that holds the places together.
//!
//! A record is a frame: its length, then its kind and its fields, numbers little-endian, everything
//! of variable length behind its own length. The chain of a record is SHA-256 of the chain of the
//! one before and the frame, so that no record can change, go or come without all later ones
//! telling. Nothing here looks into a payload.

use async_nats::{
    HeaderMap, HeaderName, HeaderValue, header, jetstream::message::StreamMessage as Stored,
};
use bytes::{Buf, Bytes};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{fmt, str::FromStr};

/// What the server adds to a message that it is asked for.
const ADDED: [&str; 6] = [
    "Nats-Stream",
    "Nats-Subject",
    "Nats-Sequence",
    "Nats-Time-Stamp",
    "Nats-Num-Pending",
    "Nats-Last-Sequence",
];

const MESSAGE: u8 = 0;
const GAP: u8 = 1;

/// The bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record cannot be read: {0}")]
pub struct Malformed(&'static str);

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// Before the first record there is none.
    pub const NONE: Self = Self([0; 32]);

    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The chain after this frame.
    #[must_use]
    pub fn then(self, frame: &[u8]) -> Self {
        let digest = Sha256::new_with_prefix(self.0).chain_update(frame);
        Self(digest.finalize().into())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let malformed = Malformed("a hash is 64 hexadecimal digits");
        if text.len() != 64 || !text.is_ascii() {
            return Err(malformed);
        }
        let mut hash = Self::NONE;
        for (index, byte) in hash.0.iter_mut().enumerate() {
            let digits = &text[index * 2..index * 2 + 2];
            *byte = u8::from_str_radix(digits, 16).map_err(|_| malformed)?;
        }
        Ok(hash)
    }
}

impl Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A message.
    Message(Message),
    /// Sequences that the log did not have any more when they were to be copied.
    Gap {
        /// The first of them.
        first: u64,
        /// The last of them.
        last: u64,
    },
}

/// A message as the stream holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its sequence.
    pub seq: u64,
    /// When the server stored it, in nanoseconds since 1970.
    pub at_nanos: i64,
    /// Its subject.
    pub subject: String,
    /// Its headers by name. The client library keeps the order of one name's values, and no order
    /// of names.
    pub headers: Vec<(String, String)>,
    /// Its payload.
    pub payload: Bytes,
}

impl Message {
    /// A message that was read from the log, without what the server adds for the reader.
    pub fn stored(stored: Stored) -> Self {
        let mut headers: Vec<(String, String)> = stored
            .headers
            .iter()
            .filter(|(name, _)| !ADDED.contains(&name.as_ref()))
            .flat_map(|(name, values)| {
                values
                    .iter()
                    .map(|value| (name.to_string(), value.as_str().to_owned()))
            })
            .collect();
        // Stable: values of one name stay in their order.
        headers.sort_by(|a, b| a.0.cmp(&b.0));
        Self {
            seq: stored.sequence,
            at_nanos: i64::try_from(stored.time.unix_timestamp_nanos()).unwrap_or(i64::MAX),
            subject: stored.subject.to_string(),
            headers,
            payload: stored.payload,
        }
    }

    /// The headers as the client library has them; what it does not allow is left out.
    pub fn header_map(&self) -> HeaderMap {
        let pairs = self.headers.iter().filter_map(|(name, value)| {
            Some((
                HeaderName::from_str(name).ok()?,
                HeaderValue::from_str(value).ok()?,
            ))
        });
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(name, value);
        }
        map
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The sequence of the message before it of the same subject, which it was appended with.
    pub fn expected(&self) -> Option<u64> {
        let expected = self.header(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE.as_ref());
        expected?.parse().ok()
    }

    /// Whether it is inside an atomic batch, so that another message follows for certain.
    pub fn goes_on(&self) -> bool {
        self.header(header::NATS_BATCH_ID.as_ref()).is_some()
            && self.header(header::NATS_BATCH_COMMIT.as_ref()).is_none()
    }
}

impl Record {
    /// The first sequence that it stands for.
    pub fn first(&self) -> u64 {
        match self {
            Self::Message(message) => message.seq,
            Self::Gap { first, .. } => *first,
        }
    }

    /// The last sequence that it stands for.
    pub fn last(&self) -> u64 {
        match self {
            Self::Message(message) => message.seq,
            Self::Gap { last, .. } => *last,
        }
    }

    /// Its frame, at the end of `into`.
    pub fn write(&self, into: &mut Vec<u8>) {
        let begin = into.len();
        into.extend_from_slice(&[0; 4]);
        match self {
            Self::Message(message) => {
                into.push(MESSAGE);
                into.extend_from_slice(&message.seq.to_le_bytes());
                into.extend_from_slice(&message.at_nanos.to_le_bytes());
                put(into, message.subject.as_bytes());
                put_len(into, message.headers.len());
                for (name, value) in &message.headers {
                    put(into, name.as_bytes());
                    put(into, value.as_bytes());
                }
                put(into, &message.payload);
            }
            Self::Gap { first, last } => {
                into.push(GAP);
                into.extend_from_slice(&first.to_le_bytes());
                into.extend_from_slice(&last.to_le_bytes());
            }
        }
        let len = into.len() - begin - 4;
        into[begin..begin + 4].copy_from_slice(&(len as u32).to_le_bytes());
    }

    /// Its frame alone.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        self.write(&mut frame);
        frame
    }

    /// Takes the next record and its frame from the beginning of `block`.
    ///
    /// # Errors
    /// When there is none.
    pub fn take(block: &mut Bytes) -> Result<(Self, Bytes), Malformed> {
        let mut rest = block.clone();
        let mut fields = field(&mut rest)?;
        let frame = block.split_to(block.len() - rest.len());
        let kind = fields.try_get_u8().map_err(|_| SHORT)?;
        let record = match kind {
            MESSAGE => Self::Message(Message {
                seq: fields.try_get_u64_le().map_err(|_| SHORT)?,
                at_nanos: fields.try_get_i64_le().map_err(|_| SHORT)?,
                subject: text(&mut fields)?,
                headers: headers(&mut fields)?,
                payload: field(&mut fields)?,
            }),
            GAP => Self::Gap {
                first: fields.try_get_u64_le().map_err(|_| SHORT)?,
                last: fields.try_get_u64_le().map_err(|_| SHORT)?,
            },
            _ => return Err(Malformed("its kind is unknown")),
        };
        if fields.has_remaining() {
            return Err(Malformed("it is longer than its fields"));
        }
        Ok((record, frame))
    }
}

const SHORT: Malformed = Malformed("it ends within a field");

fn headers(fields: &mut Bytes) -> Result<Vec<(String, String)>, Malformed> {
    let count = fields.try_get_u32_le().map_err(|_| SHORT)?;
    (0..count)
        .map(|_| Ok((text(fields)?, text(fields)?)))
        .collect()
}

fn text(fields: &mut Bytes) -> Result<String, Malformed> {
    let bytes = field(fields)?;
    String::from_utf8(bytes.into()).map_err(|_| Malformed("a text is not UTF-8"))
}

fn field(fields: &mut Bytes) -> Result<Bytes, Malformed> {
    let len = fields.try_get_u32_le().map_err(|_| SHORT)? as usize;
    if fields.remaining() < len {
        return Err(SHORT);
    }
    Ok(fields.split_to(len))
}

fn put(into: &mut Vec<u8>, bytes: &[u8]) {
    put_len(into, bytes.len());
    into.extend_from_slice(bytes);
}

/// Nothing in a message is longer than the 8 MB that the server takes.
fn put_len(into: &mut Vec<u8>, len: usize) {
    into.extend_from_slice(&(len as u32).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_are_read_back_and_a_changed_bit_is_another_chain(
            seq in any::<u64>(),
            subject in "\\PC{0,40}",
            headers in prop::collection::vec(("[a-zA-Z-]{1,20}", "\\PC{0,30}"), 0..4),
            payload in prop::collection::vec(any::<u8>(), 0..200),
            flip in any::<prop::sample::Index>(),
        ) {
            let message = Message { seq, at_nanos: 7, subject, headers, payload: payload.into() };
            let records = [Record::Message(message), Record::Gap { first: seq, last: u64::MAX }];
            let mut block = Vec::new();
            records.iter().for_each(|record| record.write(&mut block));
            let mut rest = Bytes::from(block);
            for record in &records {
                let (read, frame) = Record::take(&mut rest).unwrap();
                prop_assert_eq!(&read, record);
                prop_assert_eq!(&frame[..], &record.frame()[..]);
            }
            prop_assert!(rest.is_empty());

            let frame = records[0].frame();
            let mut other = frame.clone();
            other[flip.index(frame.len())] ^= 4;
            prop_assert_ne!(Hash::NONE.then(&frame), Hash::NONE.then(&other));
            // What cannot be read is an error and never a panic.
            Record::take(&mut Bytes::from(other)).ok();
        }
    }

    #[test]
    fn a_hash_is_written_in_hexadecimal_digits() {
        // The SHA-256 of nothing, as FIPS 180-4 has it.
        let hash = Hash::of(b"");
        let text = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hash.to_string(), text);
        assert_eq!(text.parse(), Ok(hash));
        assert!("e3".parse::<Hash>().is_err());
        assert!("é".repeat(32).parse::<Hash>().is_err());
    }
}
