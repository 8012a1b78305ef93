//! What a key looks like: `amk_` and 72 letters and digits, by which scanners of source code and
//! logs find one. They are numbers in base 62: the key's id, 256 random bits, and a checksum of what
//! comes before, so that a mistyped or cut key is refused without a look-up.

use domain::id::ApiKeyId;
use sha2::{Digest, Sha256};
use uuid::Uuid;

pub(crate) const PREFIX: &str = "amk_";

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Digits of 128 bits.
const WIDE: usize = 22;
/// Digits of 32 bits.
const NARROW: usize = 6;
/// Characters of [`hint`] behind the prefix.
const SHOWN: usize = 8;

/// The key of this id and secret.
pub(crate) fn write(id: ApiKeyId, secret: [u128; 2]) -> String {
    let mut key = PREFIX.to_owned();
    for number in [id.uuid().as_u128(), secret[0], secret[1]] {
        push(&mut key, number, WIDE);
    }
    let sum = checksum(&key);
    push(&mut key, sum.into(), NARROW);
    key
}

/// The id in a key that was written whole.
pub(crate) fn parse(key: &str) -> Option<ApiKeyId> {
    let digits = key.strip_prefix(PREFIX)?;
    if digits.len() != 3 * WIDE + NARROW || !digits.is_ascii() {
        return None;
    }
    let (body, sum) = key.split_at(key.len() - NARROW);
    if number(sum)? != checksum(body).into() {
        return None;
    }
    Some(ApiKeyId::new(Uuid::from_u128(number(&digits[..WIDE])?)))
}

/// The beginning of the key of this id, by which its owner recognises it: nothing of the secret.
pub(crate) fn hint(id: ApiKeyId) -> String {
    let mut key = PREFIX.to_owned();
    push(&mut key, id.uuid().as_u128(), WIDE);
    key.truncate(PREFIX.len() + SHOWN);
    key
}

fn push(text: &mut String, mut number: u128, width: usize) {
    let mut digits = vec![b'0'; width];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(number % 62) as usize];
        number /= 62;
    }
    text.extend(digits.into_iter().map(char::from));
}

fn number(digits: &str) -> Option<u128> {
    digits.bytes().try_fold(0u128, |number, digit| {
        let value = DIGITS.iter().position(|known| *known == digit)?;
        number.checked_mul(62)?.checked_add(value as u128)
    })
}

fn checksum(text: &str) -> u32 {
    let digest = Sha256::digest(text.as_bytes());
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_key_is_read_back_and_no_other(
            id in any::<u128>(), secret in any::<[u128; 2]>(), at in 0usize..76, by in 1usize..62,
        ) {
            let id = ApiKeyId::new(Uuid::from_u128(id));
            let key = write(id, secret);
            prop_assert_eq!(parse(&key), Some(id));
            prop_assert!(key.starts_with(&hint(id)));
            let mut wrong = key.into_bytes();
            let value = DIGITS.iter().position(|digit| *digit == wrong[at]).unwrap_or(0);
            wrong[at] = DIGITS[(value + by) % 62];
            prop_assert_eq!(parse(&String::from_utf8(wrong).unwrap()), None);
        }

        #[test]
        fn no_text_makes_it_panic(text in "(amk_)?.{0,100}") {
            prop_assert_eq!(parse(&text), None);
        }
    }

    #[test]
    fn its_form_never_changes() {
        let id = ApiKeyId::new(Uuid::from_u128(1));
        let key = write(id, [u128::MAX, 62]);
        insta::assert_snapshot!(key);
        assert_eq!((key.len(), hint(id).as_str()), (76, "amk_00000000"));
    }
}
