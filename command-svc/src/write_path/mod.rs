//! Load, fold, decide, append with the expected sequence, try again on conflict.
//!
//! Commands for one aggregate take turns within this process ([`turns`]); what they append goes
//! through [`GroupCommit`], together with what is appended to others at the same time.

mod cache;
mod turns;

pub use cache::Cache;

use domain::{Aggregate, Timestamp, id::CommandId};
use infra::{
    append, clock,
    event_store::{self, EventStore, Known, Loaded, Provenance},
    group_commit::{GroupCommit, Unit},
    retry::Backoff,
};
use std::time::Duration;
use tracing::debug;
use turns::Turns;
use uuid::Uuid;

/// How often a decision is taken again before the caller is told of the conflict.
const ATTEMPTS: u32 = 5;

/// A command had no effect that is known of.
#[derive(Debug, thiserror::Error)]
pub enum Error<R: std::error::Error + 'static> {
    /// It breaks a rule.
    #[error(transparent)]
    Refused(R),
    /// Others changed the aggregate again and again.
    #[error("the aggregate changed {ATTEMPTS} times meanwhile")]
    Conflict,
    /// A command of this id said something else.
    #[error("the command's id came before with another body")]
    OtherBody,
    /// Nobody waits for the answer any more.
    #[error("the deadline has passed")]
    Late,
    /// The log could not be read or written.
    #[error(transparent)]
    Log(event_store::Error),
}

/// A command is in effect.
#[derive(Clone, Debug)]
pub struct Executed<A> {
    /// The aggregate now.
    pub state: A,
    /// Sequence in the log that reflects the command.
    pub seq: u64,
    /// Whether this call appended; false for a repeat.
    pub appended: bool,
}

/// The write path over one log.
#[derive(Clone, Debug)]
pub struct WritePath {
    store: EventStore,
    commits: GroupCommit,
    turns: Turns,
}

/// What is known of an aggregate before its log is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Anything,
    /// Its id is new, most likely: decide at once as if it did not exist. If it does, the append
    /// is refused and the decision taken again; unless it has left the log, which is asked first
    /// where the id may be an old one.
    Absent,
}

impl WritePath {
    /// The write path over this log.
    pub fn new(store: EventStore, commits: GroupCommit) -> Self {
        Self {
            store,
            commits,
            turns: Turns::default(),
        }
    }

    /// The log itself.
    pub const fn store(&self) -> &EventStore {
        &self.store
    }

    /// An aggregate as it is now: from the cache, brought up to date from the log.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn load<A: Aggregate>(
        &self,
        cache: &Cache<A>,
        id: Uuid,
    ) -> Result<Loaded<A>, event_store::Error> {
        let loaded = match cache.get(id) {
            Some(cached) => self.store.catch_up(id, cached).await?,
            None => self.store.load(id).await?,
        };
        cache.put(id, loaded.clone());
        Ok(loaded)
    }

    /// Appends the commits of one command to several aggregates, all or none, and answers with the
    /// last one's sequence.
    ///
    /// # Errors
    /// See [`append::Error`].
    pub async fn append(
        &self,
        parts: Vec<append::Part>,
        deadline: Timestamp,
    ) -> Result<u64, event_store::Error> {
        Ok(self.commits.commit(Unit { parts, deadline }).await?)
    }

    /// Decides about a command and appends what follows. A repeat of a command id appends nothing
    /// and answers with the sequence of the first.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute<A: Aggregate>(
        &self,
        cache: &Cache<A>,
        id: Uuid,
        expect: Expect,
        command: A::Command,
        provenance: &Provenance,
    ) -> Result<Executed<A>, Error<A::Refused>> {
        let _turn = self.turns.take(A::named(id)).await;
        let mut backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(50));
        // Only what was just read from the log may refuse a command.
        let (mut loaded, mut fresh) = match (cache.get(id), expect) {
            (Some(cached), _) => (cached, false),
            (None, Expect::Absent) => {
                let left = self.store.load_from_copy(id).await;
                (left.map_err(Error::Log)?, false)
            }
            (None, Expect::Anything) => (self.store.load(id).await.map_err(Error::Log)?, true),
        };
        for _ in 0..ATTEMPTS {
            if let Some(known) = loaded.known(provenance.command).copied() {
                cache.put(id, loaded.clone());
                if !known.says(provenance.fingerprint) {
                    return Err(Error::OtherBody);
                }
                return Ok(Executed {
                    state: loaded.state,
                    seq: known.seq,
                    appended: false,
                });
            }
            let now = clock::now();
            if now > provenance.deadline {
                return Err(Error::Late);
            }
            let decided = loaded
                .state
                .decide(command.clone(), &provenance.context(now));
            let events = match decided {
                Ok(events) if !events.is_empty() => events,
                _ if !fresh => {
                    loaded = self.store.catch_up(id, loaded).await.map_err(Error::Log)?;
                    fresh = true;
                    continue;
                }
                Err(refused) => return Err(Error::Refused(refused)),
                Ok(_) => {
                    let seq = loaded.last_seq;
                    cache.put(id, loaded.clone());
                    return Ok(Executed {
                        state: loaded.state,
                        seq,
                        appended: false,
                    });
                }
            };
            let pending = self
                .store
                .pending(id, &loaded, provenance, now, &events)
                .await
                .map_err(Error::Log)?;
            match self.append(vec![pending], provenance.deadline).await {
                Ok(seq) => {
                    let by = Known {
                        command: provenance.command,
                        seq,
                        fingerprint: provenance.fingerprint,
                    };
                    let mut loaded = loaded.after(by, &events);
                    self.store.keep(id, &mut loaded);
                    cache.put(id, loaded.clone());
                    return Ok(Executed {
                        state: loaded.state,
                        seq,
                        appended: true,
                    });
                }
                Err(error) if may_be_stored(&error) => {
                    debug!(aggregate = A::KIND.as_str(), %error, "deciding again");
                    backoff.wait().await;
                }
                Err(error) => return Err(Error::Log(error)),
            }
            loaded = self
                .store
                .catch_up_from_leader(id, loaded)
                .await
                .map_err(Error::Log)?;
            fresh = true;
        }
        Err(Error::Conflict)
    }
}

/// Whether the log must be looked at before anything else is done: somebody else came first, or
/// our own message may be there although no answer came.
pub fn may_be_stored(error: &event_store::Error) -> bool {
    matches!(
        error,
        event_store::Error::Append(
            append::Error::Conflict { .. }
                | append::Error::NoAnswer { .. }
                | append::Error::Unreadable { .. }
        )
    )
}

/// An id that belongs to a command, so that a retry makes the same one.
pub fn derived<T>(make: impl Fn(&[&str]) -> T, command: CommandId, what: &str) -> T {
    make(&[what, &command.to_string()])
}
