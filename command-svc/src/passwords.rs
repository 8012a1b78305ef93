//! Hashing and checking passwords: argon2id in PHC strings (RFC 9106), in a bounded pool, since
//! each takes tens of milliseconds of one core and 19 MiB.

use argon2::{
    Argon2,
    password_hash::{self, PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use std::sync::Arc;
use tokio::sync::{AcquireError, Semaphore};

/// Most passwords that wait for the pool; more are turned away at once.
const WAITING: usize = 256;

/// A password could not be hashed or checked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The library refuses.
    #[error("password hashing failed")]
    Hash(#[source] password_hash::Error),
    /// The pool has gone, or its queue is full.
    #[error("the password pool takes no more work")]
    Busy,
}

impl From<AcquireError> for Error {
    fn from(_: AcquireError) -> Self {
        Self::Busy
    }
}

impl From<tokio::task::JoinError> for Error {
    fn from(_: tokio::task::JoinError) -> Self {
        Self::Busy
    }
}

/// The pool. Clones share it.
#[derive(Clone)]
pub struct Passwords {
    working: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// Checked in place of an unknown person's, so that the answer takes as long.
    nobody: Arc<str>,
}

impl Passwords {
    /// A pool of as many workers as there are cores.
    ///
    /// # Errors
    /// When hashing does not work at all.
    pub fn new() -> Result<Self, Error> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            working: Arc::new(Semaphore::new(cores)),
            waiting: Arc::new(Semaphore::new(WAITING)),
            nobody: hash_now("nobody has this password")?.into(),
        })
    }

    /// The PHC string of a password, with a fresh salt.
    ///
    /// # Errors
    /// When the pool is full, or hashing fails.
    pub async fn hash(&self, password: String) -> Result<String, Error> {
        self.run(move || hash_now(&password)).await?
    }

    /// Whether `password` belongs to `hash`; without one, the same work for the answer no.
    ///
    /// # Errors
    /// When the pool is full, or the hash is no PHC string.
    pub async fn verify(&self, password: String, hash: Option<String>) -> Result<bool, Error> {
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.nobody.to_string());
        let matches = self.run(move || verify_now(&password, &hash)).await??;
        Ok(known && matches)
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let _place = self.waiting.try_acquire().map_err(|_| Error::Busy)?;
        let _core = self.working.acquire().await?;
        Ok(tokio::task::spawn_blocking(work).await?)
    }
}

fn hash_now(password: &str) -> Result<String, Error> {
    // The library's default is m = 19 MiB, t = 2, p = 1, with a random salt of 16 bytes.
    Argon2::default()
        .hash_password(password.as_bytes())
        .map(|hash| hash.to_string())
        .map_err(Error::Hash)
}

fn verify_now(password: &str, hash: &str) -> Result<bool, Error> {
    let hash = PasswordHash::new(hash).map_err(|error| Error::Hash(error.into()))?;
    Ok(Argon2::default()
        .verify_password(password.as_bytes(), &hash)
        .is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_recognised() {
        let pool = Passwords::new().unwrap();
        let hash = pool.hash("password123".into()).await.unwrap();
        assert!(
            hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hash}"
        );
        assert!(
            pool.verify("password123".into(), Some(hash.clone()))
                .await
                .unwrap()
        );
        assert!(!pool.verify("password124".into(), Some(hash)).await.unwrap());
        assert!(
            !pool
                .verify("nobody has this password".into(), None)
                .await
                .unwrap()
        );
    }
}
