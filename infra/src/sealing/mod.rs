//! What concerns a person is sealed with that person's key, wherever it is stored; who destroys the
//! key has erased it everywhere, in copies and backups too.
//!
//! A commit is sealed as a whole ([`seal`], [`Keyring::open`]): its header [`header::SEALED`] says
//! whose key it takes, the other headers stay readable. The columns of read models that hold a
//! person's words, the token stream of a query and its job are sealed with keys that are derived
//! from the person's ([`PersonKey`]). Keys of persons lie wrapped with a master key in the stream
//! `KEYS` ([`keyring`]), apart from the log and its copies.

mod key;
pub mod keyring;
pub mod kms;
mod masters;
pub mod query_key;
mod squeeze;
mod wrapper;

pub use key::{KEY_BYTES, Key, NotSealed, OVERHEAD_BYTES};
pub use keyring::{Keyring, PersonKey};
pub use masters::{MasterKeys, NotUnwrapped, Unreadable};
pub use query_key::{QueryKey, QueryKeys};
pub use wrapper::{Failed, KeyWrapper};

use crate::config;
use async_nats::HeaderMap;
use bytes::Bytes;
use domain::{commit::header, id::AccountId};

/// Version of the way of sealing, which the header begins with.
const VERSION: &str = "1";

/// It was sealed with another key or at another place, or was changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be opened with the person's key")]
pub struct NotOpened;

/// How the words of persons are kept.
#[derive(Clone, Debug)]
pub enum Sealing {
    /// Sealed with the keys of persons, which these wrap.
    Keys(MasterKeys),
    /// As they are, so that nobody can be erased. For measurements.
    Off,
}

impl Sealing {
    /// `MASTER_KEYS`, or the text of the file `MASTER_KEYS_FILE`; `off` in place of keys turns
    /// sealing off. There is no default: keys that nobody has kept are lost.
    ///
    /// # Errors
    /// When there are none, or they cannot be read.
    pub fn from_env() -> Result<Self, config::Error> {
        match config::text("MASTER_KEYS_FILE", "").as_str() {
            "" => Self::read("MASTER_KEYS", &config::text("MASTER_KEYS", "")),
            file => Self::from_file(file),
        }
    }

    /// The same from the text of this file.
    ///
    /// # Errors
    /// When it is not there, or is none.
    pub fn from_file(file: &str) -> Result<Self, config::Error> {
        let name = "MASTER_KEYS_FILE";
        let text = std::fs::read_to_string(file).map_err(|error| config::Error {
            name,
            reason: format!("{file}: {error}"),
        })?;
        Self::read(name, &text)
    }

    fn read(name: &'static str, text: &str) -> Result<Self, config::Error> {
        let invalid = |reason| config::Error { name, reason };
        match text.trim() {
            "off" => Ok(Self::Off),
            "" => Err(invalid(
                "keys of persons are wrapped with it, so it is needed; `amaima admin keys new` \
                 makes one"
                    .to_owned(),
            )),
            _ => {
                let service = kms::Config::from_env()?;
                let keys = MasterKeys::read(text, service.as_ref());
                keys.map(Self::Keys)
                    .map_err(|error| invalid(error.to_string()))
            }
        }
    }
}

/// What came out of a stored payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// The payload as it was before it was sealed.
    Text(Bytes),
    /// The person was erased: nobody can read it any more.
    Erased,
}

/// Whose key a stored message takes, and how it was sealed.
///
/// # Errors
/// When it was sealed in a way that this version does not know.
pub fn sealed_for(headers: Option<&HeaderMap>) -> Result<Option<AccountId>, Unknown> {
    let Some(value) = headers.and_then(|headers| headers.get(header::SEALED)) else {
        return Ok(None);
    };
    let person = value.as_str().split_once(' ');
    person
        .filter(|(version, _)| *version == VERSION)
        .and_then(|(_, person)| person.parse().ok())
        .map(Some)
        .ok_or(Unknown)
}

/// The message was sealed in a way that this version of the program does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its header {} is not known here", header::SEALED)]
pub struct Unknown;

/// Marks a message as sealed with the key of this person.
pub fn mark(headers: &mut HeaderMap, person: AccountId) {
    headers.insert(header::SEALED, format!("{VERSION} {person}"));
}

/// Where a commit belongs: its subject and its command, as they stand beside it.
fn place(subject: &str, headers: Option<&HeaderMap>) -> Vec<u8> {
    let command = headers.and_then(|headers| headers.get(header::COMMAND_ID));
    let command = command.map_or("", |command| command.as_str());
    [subject.as_bytes(), b"\n", command.as_bytes()].concat()
}

/// Seals the payload of a message that goes to `subject` under these headers, and marks it.
///
/// # Errors
/// When the operating system gives no random numbers.
pub fn seal(
    subject: &str,
    headers: &mut HeaderMap,
    payload: &[u8],
    person: AccountId,
    key: &Key,
) -> Result<Vec<u8>, NotSealed> {
    mark(headers, person);
    let small = squeeze::smaller(payload).map_err(|_| NotSealed)?;
    key.seal(&place(subject, Some(headers)), &small)
}

/// Opens the payload of a message that was found at `subject` under these headers.
///
/// # Errors
/// When it was sealed with another key or elsewhere, or was changed since.
pub fn open(
    subject: &str,
    headers: Option<&HeaderMap>,
    payload: &[u8],
    key: &Key,
) -> Result<Vec<u8>, NotOpened> {
    squeeze::larger(&key.open(&place(subject, headers), payload)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const MIA: AccountId = AccountId::new(Uuid::from_u128(1));

    #[test]
    fn a_message_says_whose_it_is_and_opens_only_as_itself() {
        let key = Key::fresh().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(header::COMMAND_ID, "c1");
        let sealed = seal("ev.1", &mut headers, b"[]", MIA, &key).unwrap();
        assert_eq!(sealed_for(Some(&headers)), Ok(Some(MIA)));
        assert_eq!(open("ev.1", Some(&headers), &sealed, &key).unwrap(), b"[]");
        assert_eq!(open("ev.2", Some(&headers), &sealed, &key), Err(NotOpened));
        headers.insert(header::COMMAND_ID, "c2");
        assert_eq!(open("ev.1", Some(&headers), &sealed, &key), Err(NotOpened));
    }

    #[test]
    fn what_is_not_known_is_told_and_never_taken_as_plain() {
        assert_eq!(sealed_for(None), Ok(None));
        let mut headers = HeaderMap::new();
        assert_eq!(sealed_for(Some(&headers)), Ok(None));
        for unknown in ["", "1", "1 Mia", &format!("2 {MIA}")] {
            headers.insert(header::SEALED, unknown);
            assert_eq!(sealed_for(Some(&headers)), Err(Unknown), "{unknown}");
        }
    }
}
