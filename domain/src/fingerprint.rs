//! What a command said, as a hash: under one idempotency key the same must be said again.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

/// The first half of SHA-256 over an idempotency key and the canonical form of a body.
///
/// It stands in the log beside the commit. The key is part of it, and is stored nowhere: without
/// it nobody can try texts or addresses against the hash. Passwords never go in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 16]);

/// The text is no fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a fingerprint")]
pub struct Invalid;

impl Fingerprint {
    /// Of these parts, in this order. Each is length-prefixed, so that no two lists meet.
    pub fn of<'a>(key: &'a str, parts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hash = Sha256::new();
        for part in std::iter::once(key).chain(parts) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let whole: [u8; 32] = hash.finalize().into();
        let mut half = [0; 16];
        half.copy_from_slice(&whole[..16]);
        Self(half)
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for Fingerprint {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.len() != 32 || text.contains('+') {
            return Err(Invalid);
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| Invalid)?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_stored_and_so_never_changes() {
        let print = Fingerprint::of("k1", ["submit_query", "Why?"]);
        assert_eq!(print.to_string(), "0fed4de3ea20a0c8a84d7527f5b244a3");
        assert_eq!(print.to_string().parse(), Ok(print));
        assert_eq!("x".parse::<Fingerprint>(), Err(Invalid));
        assert_ne!(print, Fingerprint::of("k1", ["submit_queryW", "hy?"]));
        assert_ne!(print, Fingerprint::of("k2", ["submit_query", "Why?"]));
    }
}
