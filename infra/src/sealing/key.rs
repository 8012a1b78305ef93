//! Keys, and what is done with one.

use super::NotOpened;
use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac, rand,
};
use std::sync::{Arc, OnceLock};
use zeroize::Zeroizing;

/// Length of a key in bytes.
pub const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
/// Bytes that a sealed text has more than the text.
pub const OVERHEAD_BYTES: usize = NONCE_LEN + TAG_BYTES;
/// For texts that are to look alike: what would be unsafe with other ciphers tells with this one
/// only that two texts are the same.
const ALIKE: [u8; NONCE_LEN] = [0; NONCE_LEN];

/// A secret key. It is wiped from memory when the last clone is dropped, and never printed.
#[derive(Clone)]
pub struct Key(Arc<Secret>);

struct Secret {
    bytes: Zeroizing<[u8; KEY_BYTES]>,
    /// Made ready at its first use.
    cipher: OnceLock<Option<LessSafeKey>>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Nothing can be sealed: this machine gives no random numbers, or it is too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be sealed: the operating system gives no random numbers, or it is too large")]
pub struct NotSealed;

impl Key {
    fn new(bytes: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        Self(Arc::new(Secret {
            bytes,
            cipher: OnceLock::new(),
        }))
    }

    /// A key that nobody else has.
    ///
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn fresh() -> Result<Self, NotSealed> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(bytes.as_mut()).map_err(|_| NotSealed)?;
        Ok(Self::new(bytes))
    }

    /// A key that is known; `None` if it is not [`KEY_BYTES`] long.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        bytes
            .try_into()
            .ok()
            .map(|bytes| Self::new(Zeroizing::new(bytes)))
    }

    /// The key itself, to be handed on.
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0.bytes
    }

    /// Another key for this purpose, the same each time, from which this one cannot be found
    /// (HMAC-SHA-256 as a key derivation function, NIST SP 800-108).
    #[must_use]
    pub fn derived(&self, purpose: &str, id: &[u8]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.bytes.as_ref());
        let mut context = hmac::Context::with_key(&key);
        for part in [purpose.as_bytes(), id] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        bytes.copy_from_slice(context.sign().as_ref());
        Self::new(bytes)
    }

    /// Seals a text under a random nonce (AES-256-GCM-SIV, RFC 8452, which a nonce that comes twice
    /// does not break). `place` is where it belongs: elsewhere it cannot be opened.
    ///
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn seal(&self, place: &[u8], text: &[u8]) -> Result<Vec<u8>, NotSealed> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| NotSealed)?;
        self.seal_with(nonce, place, text).ok_or(NotSealed)
    }

    /// Seals a text so that the same text at the same place always looks the same, for rows that
    /// are made again from the log.
    ///
    /// # Errors
    /// As for [`Self::seal`].
    pub fn seal_alike(&self, place: &[u8], text: &[u8]) -> Result<Vec<u8>, NotSealed> {
        self.seal_with(ALIKE, place, text).ok_or(NotSealed)
    }

    /// Nonce, sealed text, tag; `None` for a text of 64 GiB, which the cipher does not take.
    fn seal_with(&self, nonce: [u8; NONCE_LEN], place: &[u8], text: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = Vec::with_capacity(text.len() + OVERHEAD_BYTES);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(text);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let body = &mut sealed[NONCE_LEN..];
        let tag = self
            .cipher()?
            .seal_in_place_separate_tag(nonce, Aad::from(place), body);
        sealed.extend_from_slice(tag.ok()?.as_ref());
        Some(sealed)
    }

    /// Opens what was sealed with this key at this place.
    ///
    /// # Errors
    /// When it was sealed with another key or at another place, or was changed since.
    pub fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Vec<u8>, NotOpened> {
        let (nonce, body) = sealed.split_first_chunk().ok_or(NotOpened)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let mut text = body.to_vec();
        let opened =
            self.cipher()
                .ok_or(NotOpened)?
                .open_in_place(nonce, Aad::from(place), &mut text);
        let length = opened.map_err(|_| NotOpened)?.len();
        text.truncate(length);
        Ok(text)
    }

    fn cipher(&self) -> Option<&LessSafeKey> {
        let make = || UnboundKey::new(&AES_256_GCM_SIV, self.0.bytes.as_ref()).ok();
        let cipher = self.0.cipher.get_or_init(|| make().map(LessSafeKey::new));
        cipher.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Key::of(&[byte; KEY_BYTES]).unwrap()
    }

    #[test]
    fn a_sealed_text_is_opened_with_its_key_at_its_place_and_nowhere_else() {
        let sealed = key(1).seal(b"here", b"Mia").unwrap();
        assert_eq!(sealed.len(), 3 + OVERHEAD_BYTES);
        assert_eq!(key(1).open(b"here", &sealed).unwrap(), b"Mia");
        assert_eq!(key(2).open(b"here", &sealed), Err(NotOpened));
        assert_eq!(key(1).open(b"there", &sealed), Err(NotOpened));
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert_eq!(key(1).open(b"here", &changed), Err(NotOpened), "{index}");
        }
        for short in 0..OVERHEAD_BYTES {
            assert_eq!(key(1).open(b"here", &sealed[..short]), Err(NotOpened));
        }
    }

    #[test]
    fn sealed_twice_it_looks_different_unless_that_is_wanted() {
        let seal = || key(1).seal(b"here", b"Mia").unwrap();
        assert_ne!(seal(), seal());
        let alike = |place: &str, text: &str| {
            let sealed = key(1).seal_alike(place.as_bytes(), text.as_bytes());
            sealed.unwrap()
        };
        assert_eq!(alike("here", "Mia"), alike("here", "Mia"));
        assert_eq!(key(1).open(b"here", &alike("here", "Mia")).unwrap(), b"Mia");
        // Neither the tag nor the first letters, which are the same, tell anything.
        let text = NONCE_LEN..NONCE_LEN + 2;
        for (place, other) in [("here", "Mio"), ("there", "Mia")] {
            let other = alike(place, other);
            assert_ne!(other[text.clone()], alike("here", "Mia")[text.clone()]);
        }
    }

    /// Of RFC 8452, appendix C.2.
    #[test]
    fn it_is_the_cipher_that_others_know() {
        let (mut bytes, mut nonce) = ([0; KEY_BYTES], [0; NONCE_LEN]);
        (bytes[0], nonce[0]) = (1, 3);
        let key = Key::of(&bytes).unwrap();
        let sealed = key
            .seal_with(nonce, b"", &[1, 0, 0, 0, 0, 0, 0, 0])
            .unwrap();
        assert_eq!(
            sealed[NONCE_LEN..],
            [
                0xc2, 0xef, 0x32, 0x8e, 0x5c, 0x71, 0xc8, 0x3b, 0x84, 0x31, 0x22, 0x13, 0x0f, 0x73,
                0x64, 0xb7, 0x61, 0xe0, 0xb9, 0x74, 0x27, 0xe3, 0xdf, 0x28
            ]
        );
    }

    #[test]
    fn derived_keys_depend_on_all_that_they_are_derived_from() {
        let one = key(1).derived("rows", b"a");
        assert_eq!(one.expose(), key(1).derived("rows", b"a").expose());
        for other in [
            key(2).derived("rows", b"a"),
            key(1).derived("row", b"sa"),
            key(1).derived("rows", b"b"),
        ] {
            assert_ne!(one.expose(), other.expose());
        }
        assert_eq!(format!("{one:?}"), "***");
    }
}
