//! What wraps the keys of persons.

use super::{Key, NotOpened};
use domain::id::AccountId;
use futures_util::future::BoxFuture;
use std::fmt;
use zeroize::Zeroizing;

/// Wraps keys of persons for storing, and unwraps them. Each key is bound to its person: in the
/// place of another one's it is not unwrapped.
pub trait KeyWrapper: fmt::Debug + Send + Sync {
    /// Wraps a key.
    fn wrap<'a>(
        &'a self,
        person: AccountId,
        key: &'a Key,
    ) -> BoxFuture<'a, Result<Vec<u8>, Failed>>;

    /// Unwraps what [`Self::wrap`] gave.
    fn unwrap<'a>(
        &'a self,
        person: AccountId,
        wrapped: &'a [u8],
    ) -> BoxFuture<'a, Result<Key, Failed>>;
}

/// A key was not wrapped or unwrapped.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// It was wrapped with another key or for another person, or was changed since.
    #[error("it is not what was wrapped with this master key for this person")]
    Not,
    /// Whoever holds the master key does not answer as it should.
    #[error("the key management service does not answer: {0}")]
    Service(String),
    /// The operating system gives no random numbers.
    #[error(transparent)]
    NotSealed(#[from] super::NotSealed),
}

/// A master key that this process knows itself.
#[derive(Debug)]
pub(super) struct Local(pub(super) Key);

impl KeyWrapper for Local {
    fn wrap<'a>(
        &'a self,
        person: AccountId,
        key: &'a Key,
    ) -> BoxFuture<'a, Result<Vec<u8>, Failed>> {
        let wrapped = self.0.seal(person.uuid().as_bytes(), key.expose());
        Box::pin(async move { Ok(wrapped?) })
    }

    fn unwrap<'a>(
        &'a self,
        person: AccountId,
        wrapped: &'a [u8],
    ) -> BoxFuture<'a, Result<Key, Failed>> {
        let opened = self.0.open(person.uuid().as_bytes(), wrapped);
        let key = opened.and_then(|key| Key::of(&Zeroizing::new(key)).ok_or(NotOpened));
        Box::pin(async move { key.map_err(|NotOpened| Failed::Not) })
    }
}
