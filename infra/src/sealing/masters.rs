//! Master keys: what the keys of persons are wrapped with.

use super::{
    Key, NotSealed,
    kms::{self, Kms},
    wrapper::{Failed, KeyWrapper, Local},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use domain::id::AccountId;
use std::sync::Arc;

/// What stands before the id of a key that a key management service holds.
const KMS: &str = "kms:";

/// Master keys by their names. The first one wraps; the others open what they wrapped before.
///
/// As text it is one line each: a name of letters, digits, `-` and `_`, a blank, and either the key
/// in Base64 or `kms:` and the id of a key that a key management service holds. Empty lines and what
/// follows a `#` are passed over.
#[derive(Clone, Debug)]
pub struct MasterKeys(Vec<(String, Arc<dyn KeyWrapper>)>);

/// The text holds no master keys. It is not repeated here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// There is no line.
    #[error("there is no master key")]
    None,
    /// A line is not of the form.
    #[error("line {0} is not `<name> <32 bytes in Base64>` or `<name> kms:<id>`")]
    Line(usize),
    /// A name comes twice.
    #[error("line {0} has the name of an earlier one")]
    Twice(usize),
    /// A key is held by a service that is not known.
    #[error("line {0} names a key of a key management service, and KMS_ACCESS_KEY is not set")]
    NoService(usize),
}

/// A wrapped key cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum NotUnwrapped {
    /// Its master key is not among ours.
    #[error("it is wrapped with the master key `{0}`, which is not given")]
    Unknown(String),
    /// The master key of this name does not open it.
    #[error("it cannot be unwrapped with the master key `{name}`")]
    Not {
        /// The master key.
        name: String,
        /// Why.
        source: Failed,
    },
}

impl MasterKeys {
    /// Reads them; those of a service need to know how to reach it.
    ///
    /// # Errors
    /// When there are none, or a line cannot be read.
    pub fn read(text: &str, service: Option<&kms::Config>) -> Result<Self, Unreadable> {
        let mut keys: Vec<(String, Arc<dyn KeyWrapper>)> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let name_and_key = line.split_once(char::is_whitespace);
            let (name, key) = name_and_key.ok_or(Unreadable::Line(number))?;
            if !is_name(name) {
                return Err(Unreadable::Line(number));
            }
            if keys.iter().any(|(known, _)| known == name) {
                return Err(Unreadable::Twice(number));
            }
            let wrapper: Arc<dyn KeyWrapper> = match key.trim().strip_prefix(KMS) {
                Some(id) => {
                    let service = service.ok_or(Unreadable::NoService(number))?;
                    Arc::new(Kms::new(service, id))
                }
                None => {
                    let key = BASE64.decode(key.trim()).ok();
                    let key = key.and_then(|key| Key::of(&key));
                    Arc::new(Local(key.ok_or(Unreadable::Line(number))?))
                }
            };
            keys.push((name.to_owned(), wrapper));
        }
        if keys.is_empty() {
            return Err(Unreadable::None);
        }
        Ok(Self(keys))
    }

    /// A line of the text, with a key that nobody else has.
    ///
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn fresh_line(name: &str) -> Result<String, NotSealed> {
        let key = Key::fresh()?;
        Ok(format!("{name} {}\n", BASE64.encode(key.expose())))
    }

    /// The name of the one that wraps.
    pub fn current(&self) -> &str {
        self.0.first().map_or("", |(name, _)| name)
    }

    /// Wraps a person's key with the current one, and tells its name.
    pub(super) async fn wrap(
        &self,
        person: AccountId,
        key: &Key,
    ) -> Result<(String, Vec<u8>), Failed> {
        let (name, master) = self.0.first().ok_or(Failed::Not)?;
        Ok((name.clone(), master.wrap(person, key).await?))
    }

    pub(super) async fn unwrap(
        &self,
        name: &str,
        person: AccountId,
        wrapped: &[u8],
    ) -> Result<Key, NotUnwrapped> {
        let found = self.0.iter().find(|(known, _)| known == name);
        let (_, master) = found.ok_or_else(|| NotUnwrapped::Unknown(name.to_owned()))?;
        let key = master.unwrap(person, wrapped).await;
        key.map_err(|source| NotUnwrapped::Not {
            name: name.to_owned(),
            source,
        })
    }
}

fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !text.is_empty() && text.len() <= 64 && text.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const MIA: AccountId = AccountId::new(Uuid::from_u128(1));
    const BEN: AccountId = AccountId::new(Uuid::from_u128(2));

    fn masters(names: &[&str]) -> MasterKeys {
        let lines: Vec<String> = names
            .iter()
            .map(|name| MasterKeys::fresh_line(name).unwrap())
            .collect();
        MasterKeys::read(&lines.concat(), None).unwrap()
    }

    #[tokio::test]
    async fn the_first_wraps_and_all_unwrap() {
        let both = masters(&["2026", "2025"]);
        assert_eq!(both.current(), "2026");
        let key = Key::fresh().unwrap();
        let (name, wrapped) = both.wrap(MIA, &key).await.unwrap();
        assert_eq!(name, "2026");
        let opened = both.unwrap(&name, MIA, &wrapped).await.unwrap();
        assert_eq!(opened.expose(), key.expose());
        for (name, person) in [("2025", MIA), ("2026", BEN)] {
            let not = both.unwrap(name, person, &wrapped).await;
            assert!(matches!(
                not,
                Err(NotUnwrapped::Not {
                    source: Failed::Not,
                    ..
                })
            ));
        }
        let unknown = masters(&["x"]).unwrap(&name, MIA, &wrapped).await;
        assert!(matches!(unknown, Err(NotUnwrapped::Unknown(name)) if name == "2026"));
        let old_first = MasterKeys(both.0.iter().rev().cloned().collect());
        let opened = old_first.unwrap(&name, MIA, &wrapped).await.unwrap();
        assert_eq!(opened.expose(), key.expose());
    }

    #[test]
    fn a_text_that_is_not_one_is_refused_with_its_line_and_not_repeated() {
        let good = MasterKeys::fresh_line("a").unwrap();
        let with = |more: &str| MasterKeys::read(&format!("# ours\n\n{good}{more}"), None);
        assert!(with("").is_ok());
        let none = MasterKeys::read("# none\n", None).unwrap_err();
        assert_eq!(none, Unreadable::None);
        for wrong in ["b", "b secret", "b AAAA", "b/c AAAA"] {
            assert_eq!(with(wrong).unwrap_err(), Unreadable::Line(4), "{wrong}");
        }
        assert_eq!(with(&good).unwrap_err(), Unreadable::Twice(4));
        let elsewhere = with("b kms:alias/amaima").unwrap_err();
        assert_eq!(elsewhere, Unreadable::NoService(4));
    }
}
