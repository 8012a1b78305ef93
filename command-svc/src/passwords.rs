//! Hashing and checking passwords: argon2id in PHC strings (RFC 9106), in a bounded pool, since
//! each takes tens of milliseconds of one core and 19 MiB.

use argon2::{
    Argon2,
    password_hash::{self, PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use domain::Timestamp;
use infra::clock;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{AcquireError, Semaphore},
    time::timeout,
};

/// Most passwords in the pool, for each core; more are turned away at once. Their work is done
/// well before nobody waits for it any more.
const PLACES_PER_CORE: usize = 32;

/// A password could not be hashed or checked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The library refuses.
    #[error("password hashing failed")]
    Hash(#[source] password_hash::Error),
    /// The pool has gone, or its queue is full.
    #[error("the password pool takes no more work")]
    Busy,
    /// Nobody waits any more.
    #[error("the password pool did not come to it in time")]
    Late,
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
    places: Arc<Semaphore>,
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
            places: Arc::new(Semaphore::new(cores * PLACES_PER_CORE)),
            nobody: hash_now("nobody has this password")?.into(),
        })
    }

    /// The PHC string of a password, with a fresh salt.
    ///
    /// # Errors
    /// When the pool is full or too slow, or hashing fails.
    pub async fn hash(&self, password: String, deadline: Timestamp) -> Result<String, Error> {
        self.run(deadline, move || hash_now(&password)).await?
    }

    /// Whether `password` belongs to `hash`; without one, the same work for the answer no.
    ///
    /// # Errors
    /// When the pool is full or too slow, or the hash is no PHC string.
    pub async fn verify(
        &self,
        password: String,
        hash: Option<String>,
        deadline: Timestamp,
    ) -> Result<bool, Error> {
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.nobody.to_string());
        let matches = self
            .run(deadline, move || verify_now(&password, &hash))
            .await??;
        Ok(known && matches)
    }

    async fn run<T: Send + 'static>(
        &self,
        deadline: Timestamp,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| Error::Busy)?;
        let left = Duration::from_millis(deadline.millis_since(clock::now()));
        let core = timeout(left, self.working.clone().acquire_owned())
            .await
            .map_err(|_| Error::Late)??;
        let work = move || {
            // Held by the work itself: it goes on when its caller has gone.
            let _held = (place, core);
            work()
        };
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

    fn soon() -> Timestamp {
        clock::now().plus_millis(60_000)
    }

    #[tokio::test]
    async fn a_password_is_recognised() {
        let pool = Passwords::new().unwrap();
        let hash = pool.hash("password123".into(), soon()).await.unwrap();
        assert!(
            hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hash}"
        );
        let known = async |password: &str, hash: Option<&String>| {
            let verified = pool.verify(password.into(), hash.cloned(), soon());
            verified.await.unwrap()
        };
        assert!(known("password123", Some(&hash)).await);
        assert!(!known("password124", Some(&hash)).await);
        assert!(!known("nobody has this password", None).await);
    }

    #[tokio::test]
    async fn a_full_pool_turns_away_and_a_late_one_gives_up() {
        let pool = Passwords::new().unwrap();
        let cores = pool.working.available_permits();
        let busy = pool
            .working
            .clone()
            .acquire_many_owned(u32::try_from(cores).unwrap());
        let busy = busy.await.unwrap();
        let late = pool.hash("x".into(), clock::now().plus_millis(20)).await;
        assert!(matches!(late, Err(Error::Late)), "{late:?}");
        let places = pool.places.available_permits();
        assert_eq!(
            places,
            cores * PLACES_PER_CORE,
            "who gave up left its place"
        );
        let full = pool
            .places
            .acquire_many(u32::try_from(places).unwrap())
            .await
            .unwrap();
        let turned_away = pool.hash("x".into(), soon()).await;
        assert!(matches!(turned_away, Err(Error::Busy)), "{turned_away:?}");
        drop((full, busy));
        assert!(pool.hash("x".into(), soon()).await.is_ok());
    }
}
