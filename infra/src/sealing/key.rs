//! Keys, and what is done with one.

use super::NotOpened;
use aws_lc_rs::{hmac, rand};
use chacha20poly1305::{AeadInOut, KeyInit, Tag, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

/// Length of a key in bytes.
pub const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
/// Bytes that a sealed text has more than the text.
pub const OVERHEAD_BYTES: usize = NONCE_BYTES + TAG_BYTES;

/// A secret key. It is wiped from memory when it is dropped, and never printed.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY_BYTES]>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// This machine gives no random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gives no random numbers")]
pub struct NoRandomness;

impl Key {
    /// A key that nobody else has.
    ///
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn fresh() -> Result<Self, NoRandomness> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(bytes.as_mut()).map_err(|_| NoRandomness)?;
        Ok(Self(bytes))
    }

    /// A key that is known; `None` if it is not [`KEY_BYTES`] long.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        bytes
            .try_into()
            .ok()
            .map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// The key itself, to be handed on.
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// Another key for this purpose, the same each time, from which this one cannot be found
    /// (HMAC-SHA-256 as a key derivation function, NIST SP 800-108).
    #[must_use]
    pub fn derived(&self, purpose: &str, id: &[u8]) -> Self {
        let mut tag = self.tag(&[purpose.as_bytes(), id]);
        let key = Self::of(tag.as_ref());
        zeroize::Zeroize::zeroize(&mut tag);
        // A tag of SHA-256 is as long as a key.
        Self(key.map_or_else(|| Zeroizing::new([0; KEY_BYTES]), |key| key.0))
    }

    fn tag(&self, parts: &[&[u8]]) -> [u8; KEY_BYTES] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.as_ref());
        let mut context = hmac::Context::with_key(&key);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut bytes = [0; KEY_BYTES];
        bytes.copy_from_slice(context.sign().as_ref());
        bytes
    }

    /// Seals a text (XChaCha20-Poly1305 under a random nonce, which is long enough to be random
    /// for ever). `place` is where it belongs: elsewhere it cannot be opened.
    ///
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn seal(&self, place: &[u8], text: &[u8]) -> Result<Vec<u8>, NoRandomness> {
        let mut nonce = [0; NONCE_BYTES];
        rand::fill(&mut nonce).map_err(|_| NoRandomness)?;
        Ok(self.seal_with(nonce, place, text))
    }

    /// Seals a text so that the same text at the same place always looks the same, for rows that
    /// are made again from the log. The nonce is a tag over both (SIV, RFC 5297 in spirit), so that
    /// two different texts never share one.
    pub fn seal_alike(&self, place: &[u8], text: &[u8]) -> Vec<u8> {
        let tag = self.tag(&[b"nonce", place, text]);
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(&tag[..NONCE_BYTES]);
        self.seal_with(nonce, place, text)
    }

    fn seal_with(&self, nonce: [u8; NONCE_BYTES], place: &[u8], text: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(text.len() + OVERHEAD_BYTES);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(text);
        let body = (&mut sealed[NONCE_BYTES..]).into();
        match self
            .cipher()
            .encrypt_inout_detached(&XNonce::from(nonce), place, body)
        {
            Ok(tag) => sealed.extend_from_slice(&tag),
            // Only a text of 256 GiB is too long; without a tag nothing is opened.
            Err(_) => sealed.clear(),
        }
        sealed
    }

    /// Opens what was sealed with this key at this place.
    ///
    /// # Errors
    /// When it was sealed with another key or at another place, or was changed since.
    pub fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Vec<u8>, NotOpened> {
        let (nonce, rest) = sealed.split_first_chunk().ok_or(NotOpened)?;
        let (body, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or(NotOpened)?;
        let nonce: &[u8; NONCE_BYTES] = nonce;
        let mut text = body.to_vec();
        self.cipher()
            .decrypt_inout_detached(
                &XNonce::from(*nonce),
                place,
                text.as_mut_slice().into(),
                &Tag::from(*tag),
            )
            .map_err(|_| NotOpened)?;
        Ok(text)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.0).into())
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
        let alike = key(1).seal_alike(b"here", b"Mia");
        assert_eq!(alike, key(1).seal_alike(b"here", b"Mia"));
        assert_eq!(key(1).open(b"here", &alike).unwrap(), b"Mia");
        for (place, text) in [("here", "Mio"), ("hereM", "ia"), ("", "hereMia")] {
            let other = key(1).seal_alike(place.as_bytes(), text.as_bytes());
            assert_ne!(other[..NONCE_BYTES], alike[..NONCE_BYTES]);
        }
    }

    /// The example of draft-irtf-cfrg-xchacha-03, appendix A.3.1.
    #[test]
    fn it_is_the_cipher_that_others_know() {
        let key: Vec<u8> = (0x80..=0x9f).collect();
        let mut nonce = [0; NONCE_BYTES];
        nonce
            .iter_mut()
            .zip(0x40..)
            .for_each(|(byte, value)| *byte = value);
        let place = [
            0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7,
        ];
        let text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip \
            for the future, sunscreen would be it.";
        let sealed = Key::of(&key).unwrap().seal_with(nonce, &place, text);
        let body = &sealed[NONCE_BYTES..];
        assert_eq!(body[..4], [0xbd, 0x6d, 0x17, 0x9d]);
        assert_eq!(
            body[text.len()..],
            [
                0xc0, 0x87, 0x59, 0x24, 0xc1, 0xc7, 0x98, 0x79, 0x47, 0xde, 0xaf, 0xd8, 0x78, 0x0a,
                0xcf, 0x49
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
