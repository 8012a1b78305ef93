//! Making texts smaller before they are sealed, since nothing can be made smaller afterwards: the
//! server would find no pattern in them.
//!
//! Most of a commit is what every commit says. So both sides know a dictionary (zstd, RFC 8878),
//! the events' envelopes and field names. It is part of what version 1 of sealing is, and is never
//! changed: another one would be another version.

use super::NotOpened;
use std::{cell::RefCell, io};
use zstd::bulk::{Compressor, Decompressor};

const DICTIONARY: &[u8] = include_bytes!("dictionary");
/// Fast rather than small: the dictionary does most of it.
const LEVEL: i32 = 1;
/// Nothing that is sealed is larger than this: it comes out of one message.
const LARGEST: usize = 64 << 20;

thread_local! {
    // Making one takes longer than using it.
    static SMALLER: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static LARGER: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// A smaller form of a text.
pub(super) fn smaller(text: &[u8]) -> io::Result<Vec<u8>> {
    SMALLER.with_borrow_mut(|kept| {
        let compressor = match kept {
            Some(compressor) => compressor,
            none => none.insert(Compressor::with_dictionary(LEVEL, DICTIONARY)?),
        };
        compressor.compress(text)
    })
}

/// The text itself.
pub(super) fn larger(small: &[u8]) -> Result<Vec<u8>, NotOpened> {
    let size = Decompressor::upper_bound(small).filter(|size| *size <= LARGEST);
    let size = size.ok_or(NotOpened)?;
    LARGER.with_borrow_mut(|kept| {
        let decompressor = match kept {
            Some(decompressor) => decompressor,
            none => {
                let made = Decompressor::with_dictionary(DICTIONARY);
                none.insert(made.map_err(|_| NotOpened)?)
            }
        };
        decompressor.decompress(small, size).map_err(|_| NotOpened)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn the_dictionary_never_changes() {
        let digest: String = Sha256::digest(DICTIONARY)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            digest,
            "9f30c36bce0790621dcf965e4c253d3f16838c035bdbfb6cfb89f876843147e1"
        );
    }

    #[test]
    fn a_commit_becomes_small() {
        let commit = include_str!("../../../domain/golden/query.submitted.v1.json");
        let commit: serde_json::Value = serde_json::from_str(commit).unwrap();
        let text = serde_json::to_vec(&[commit]).unwrap();
        let small = smaller(&text).unwrap();
        assert!(
            small.len() * 4 < text.len(),
            "{} of {}",
            small.len(),
            text.len()
        );
        assert_eq!(larger(&small).unwrap(), text);
    }

    #[test]
    fn what_is_none_is_refused() {
        for none in [&b"[]"[..], &[0xff; 40]] {
            assert_eq!(larger(none), Err(NotOpened));
        }
        let small = smaller(b"[{}]").unwrap();
        assert_eq!(larger(&small[..small.len() - 1]), Err(NotOpened));
    }

    proptest! {
        #[test]
        fn every_text_comes_back(text in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(larger(&smaller(&text).unwrap()).unwrap(), text);
        }
    }
}
