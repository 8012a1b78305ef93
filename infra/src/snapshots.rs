//! Aggregates as they were at some commit, in a key-value bucket, so that a long one is not folded
//! from its beginning each time that a process starts.
//!
//! A snapshot is a copy that may be missing or wrong at any time: one of another shape, or that
//! cannot be read, is dropped, and whoever goes on from one checks that the log has its last
//! commit. They are written in the background; what does not fit into the short queue is left out,
//! and the aggregate's next commits bring the next chance. What concerns a person is sealed with
//! that person's key: [`SEALED`], the account's id, the sealed snapshot.

use crate::{
    event_store::Loaded,
    lifecycle::Lifecycle,
    sealing::keyring::{self, Keyring},
    telemetry,
};
use async_nats::jetstream::{self, context::KeyValueError, kv};
use bytes::Bytes;
use domain::{Aggregate, id::AccountId, subject};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tracing::{debug, warn};
use uuid::Uuid;

/// Snapshots that wait to be written. When it is full, the next one is left out.
const QUEUE: usize = 32;
/// What a sealed snapshot begins with. Others are JSON.
const SEALED: u8 = 1;
/// Largest snapshot in bytes. A state that is larger than this is not bounded as it should be.
const LARGEST: usize = 1 << 20;

/// The bucket of snapshots. Clones share it.
#[derive(Clone, Debug)]
pub struct Snapshots {
    bucket: kv::Store,
    keys: Keyring,
    queue: mpsc::Sender<Waiting>,
}

/// A snapshot that waits to be written.
struct Waiting {
    key: String,
    value: Vec<u8>,
    /// Whom it concerns.
    person: Option<AccountId>,
}

#[derive(Serialize)]
#[serde(bound = "A: Aggregate")]
struct Written<'a, A> {
    shape: u32,
    loaded: &'a Loaded<A>,
}

#[derive(Deserialize)]
struct Found<'a> {
    shape: u32,
    #[serde(borrow)]
    loaded: &'a RawValue,
}

impl Snapshots {
    /// Opens the bucket, which [`crate::jetstream::prepare`] has made; a task of this life writes.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn open(
        context: &jetstream::Context,
        keys: &Keyring,
        lifecycle: &Lifecycle,
    ) -> Result<Self, KeyValueError> {
        let bucket = context.get_key_value(subject::SNAPSHOTS).await?;
        let (queue, mut waiting) = mpsc::channel::<Waiting>(QUEUE);
        let this = Self {
            bucket,
            keys: keys.clone(),
            queue,
        };
        let (writer, life) = (this.clone(), lifecycle.clone());
        lifecycle.spawn("snapshots", async move {
            loop {
                let next = tokio::select! {
                    next = waiting.recv() => next,
                    () = life.stopping() => return,
                };
                let Some(snapshot) = next else { return };
                writer.put(snapshot).await;
            }
        });
        Ok(this)
    }

    async fn put(&self, Waiting { key, value, person }: Waiting) {
        let value = match person {
            Some(person) => self.seal(&key, value, person).await,
            None => Ok(value),
        };
        let written = match value {
            Ok(value) => self.bucket.put(&key, value.into()).await,
            Err(error) => {
                let reason = telemetry::chain(&error);
                return warn!(key, reason, "a snapshot was not sealed");
            }
        };
        if let Err(error) = written {
            warn!(key, %error, "a snapshot was not written");
        }
    }

    async fn seal(
        &self,
        key: &str,
        value: Vec<u8>,
        person: AccountId,
    ) -> Result<Vec<u8>, keyring::Error> {
        let Some(keys) = self.keys.for_writing(person).await? else {
            return Ok(value);
        };
        let sealed = keys.snapshots().seal(key.as_bytes(), &value)?;
        Ok([&[SEALED], person.uuid().as_bytes().as_slice(), &sealed].concat())
    }

    /// The snapshot as it was before it was sealed; `None` if nobody can read it.
    async fn opened(&self, key: &str, value: Bytes) -> Option<Bytes> {
        let Some(sealed) = value.strip_prefix(&[SEALED]) else {
            return Some(value);
        };
        let (person, sealed) = sealed.split_first_chunk()?;
        let person = AccountId::new(Uuid::from_bytes(*person));
        let Ok(keyring::Found::Key(keys)) = self.keys.find(person).await else {
            return None;
        };
        let opened = keys.snapshots().open(key.as_bytes(), sealed);
        opened.ok().map(Bytes::from)
    }

    /// The snapshot of an aggregate, if there is a usable one.
    pub async fn get<A: Aggregate>(&self, id: Uuid) -> Option<Loaded<A>> {
        let key = key::<A>(id);
        match self.bucket.get(&key).await {
            Ok(value) => {
                let value = self.opened(&key, value?).await;
                value.and_then(|value| read(&value)).or_else(|| {
                    debug!(key, "a snapshot that cannot be read is not used");
                    None
                })
            }
            Err(error) => {
                debug!(key, %error, "a snapshot cannot be read");
                None
            }
        }
    }

    /// Has an aggregate written down; answers whether it will be.
    pub fn offer<A: Aggregate>(&self, id: Uuid, loaded: &Loaded<A>) -> bool {
        // Encoded only if there is room for it.
        let Ok(room) = self.queue.try_reserve() else {
            return false;
        };
        match write(loaded) {
            Ok(value) if value.len() <= LARGEST => room.send(Waiting {
                key: key::<A>(id),
                value,
                person: loaded.state.person(&[]),
            }),
            Ok(value) => warn!(
                key = key::<A>(id),
                bytes = value.len(),
                "an aggregate is too large for a snapshot"
            ),
            Err(error) => warn!(key = key::<A>(id), %error, "an aggregate cannot be written down"),
        }
        true
    }
}

fn key<A: Aggregate>(id: Uuid) -> String {
    format!("{}.{}", A::KIND.as_str(), id.hyphenated())
}

fn write<A: Aggregate>(loaded: &Loaded<A>) -> serde_json::Result<Vec<u8>> {
    let shape = A::SHAPE;
    serde_json::to_vec(&Written { shape, loaded })
}

fn read<A: Aggregate>(value: &[u8]) -> Option<Loaded<A>> {
    let found: Found<'_> = serde_json::from_slice(value).ok()?;
    if found.shape != A::SHAPE {
        return None;
    }
    serde_json::from_str(found.loaded.get()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_store::Known;
    use domain::{email::Email, id::CommandId};

    #[test]
    fn only_a_snapshot_of_this_shape_is_read() {
        let command = CommandId::new(Uuid::from_u128(7));
        let by = Known {
            command,
            seq: 9,
            fingerprint: None,
        };
        let loaded = Loaded::<Email>::default().after(by, &[]);
        let value = write(&loaded).unwrap();
        let back: Loaded<Email> = read(&value).expect("usable");
        assert_eq!((back.last_seq, back.known(command)), (9, Some(&by)));
        let text = String::from_utf8(value).unwrap();
        let mine = format!(r#""shape":{}"#, Email::SHAPE);
        assert!(text.contains(&mine), "{text}");
        let other = text.replace(&mine, r#""shape":4000000"#);
        assert!(read::<Email>(other.as_bytes()).is_none());
        assert!(read::<Email>(&text.as_bytes()[..text.len() - 4]).is_none());
        assert!(read::<Email>(b"{}").is_none());
    }
}
