//! `Idempotency-Key`: under the same key the same request is carried out once, for ever.
//!
//! The key belongs to whoever calls and to the route. It becomes part of the command's id, and of
//! the hash of what the command says, by which a repeat with another body is told apart.

use super::Error;
use axum::extract::FromRequestParts;
use domain::{Fingerprint, id::CommandId, limits, wire::command::Body};
use http::{HeaderMap, request::Parts};

pub(crate) const HEADER: &str = "Idempotency-Key";

/// The header, if it was sent. As an extractor it refuses what cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Key(Option<String>);

impl Key {
    /// # Errors
    /// When the header is too long, is no visible ASCII, or is there twice.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Error> {
        let mut values = headers.get_all(HEADER).iter();
        let Some(value) = values.next() else {
            return Ok(Self(None));
        };
        if values.next().is_some() {
            return Err(Error::bad_parameter(HEADER, "Must be sent once"));
        }
        match value.to_str().map(str::trim) {
            Ok("") => Ok(Self(None)),
            Ok(key) if key.len() <= limits::KEY_CHARS => Ok(Self(Some(key.to_owned()))),
            Ok(_) | Err(_) => Err(Error::bad_parameter(
                HEADER,
                "Must be at most 128 ASCII characters",
            )),
        }
    }

    pub(crate) fn as_deref(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// The id of a command that `who` gives through `route`: the same for the same key, and fresh
    /// without one.
    pub(crate) fn command(&self, who: &str, route: &str) -> CommandId {
        match &self.0 {
            Some(key) => CommandId::derived(&[who, route, key]),
            None => CommandId::new(infra::clock::fresh_id()),
        }
    }

    /// What a repeat under this key must say again.
    pub(crate) fn fingerprint(&self, body: &Body) -> Option<Fingerprint> {
        self.0.as_deref().map(|key| body.fingerprint(key))
    }
}

impl<S: Sync> FromRequestParts<S> for Key {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        Self::of(&parts.headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn read(values: &[&[u8]]) -> Result<Key, Error> {
        let name = HeaderName::from_static("idempotency-key");
        let pairs = values
            .iter()
            .map(|value| (name.clone(), HeaderValue::from_bytes(value).unwrap()));
        Key::of(&pairs.fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        }))
    }

    #[test]
    fn a_key_is_short_ascii_and_there_once() {
        let key = |text: &[u8]| read(&[text]).unwrap();
        assert_eq!(key(b" k1 ").as_deref(), Some("k1"));
        assert_eq!(key(b" ").as_deref(), None);
        assert_eq!(read(&[]).unwrap().as_deref(), None);
        assert_eq!(key(&[b'k'; 128]).as_deref().map(str::len), Some(128));
        let bad: [&[&[u8]]; 3] = [&[&[b'k'; 129]], &[b"k\xc3\xa4"], &[b"k1", b"k1"]];
        for bad in bad {
            let error = read(bad).unwrap_err();
            assert_eq!(error.status, 400);
            assert_eq!(error.details[0].field, HEADER);
        }
    }

    #[test]
    fn a_command_belongs_to_its_giver_route_and_key() {
        let key = Key(Some("k1".into()));
        let id = key.command("mia", "login");
        assert_eq!(id, key.command("mia", "login"));
        assert_ne!(id, key.command("ben", "login"));
        assert_ne!(id, key.command("mia", "register"));
        assert_ne!(id, Key(Some("k2".into())).command("mia", "login"));
        let none = Key::default();
        assert_ne!(none.command("mia", "login"), none.command("mia", "login"));
    }
}
