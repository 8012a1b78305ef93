//! Every place where something about a person is kept, and what becomes of it when the person is
//! erased. A new stream, bucket or table must be listed here; tests compare the list with what the
//! servers have.

/// What a store holds about a person, and how that is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Erasure {
    /// The person's words, sealed with the person's key: unreadable once it is destroyed.
    Sealed,
    /// The person's words, sealed, in rows or messages that are deleted as well.
    SealedAndDeleted,
    /// Deleted.
    Deleted,
    /// Ids, times, counts and hashes only, which stay.
    IdsOnly,
    /// Ids only, and gone by itself after a time.
    IdsForATime,
    /// Nothing about persons.
    Nothing,
}

/// What kind of thing a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A stream of JetStream.
    Stream,
    /// A key-value bucket of JetStream.
    Bucket,
    /// A table of the read models.
    Table,
    /// Objects under a prefix, in the object store.
    Objects,
    /// The lines that services log.
    Log,
}

/// A place where things are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    /// What it is.
    pub kind: Kind,
    /// Its name: of the stream, the bucket, the table, the prefix.
    pub name: &'static str,
    /// What becomes of what it holds about an erased person.
    pub erasure: Erasure,
}

const fn store(kind: Kind, name: &'static str, erasure: Erasure) -> Store {
    Store {
        kind,
        name,
        erasure,
    }
}

/// All of them.
pub const ALL: &[Store] = &[
    store(Kind::Stream, crate::subject::EVENTS, Erasure::Sealed),
    store(Kind::Stream, crate::subject::KEYS, Erasure::Deleted),
    store(
        Kind::Stream,
        crate::subject::JOBS,
        Erasure::SealedAndDeleted,
    ),
    store(
        Kind::Stream,
        crate::subject::TOKENS,
        Erasure::SealedAndDeleted,
    ),
    store(Kind::Stream, crate::subject::TIMERS, Erasure::IdsForATime),
    store(Kind::Bucket, crate::subject::REVOKED, Erasure::IdsForATime),
    store(
        Kind::Bucket,
        crate::subject::SUBMISSIONS,
        Erasure::IdsForATime,
    ),
    store(Kind::Bucket, crate::subject::SNAPSHOTS, Erasure::Sealed),
    store(
        Kind::Bucket,
        crate::subject::PARKED_POLICIES,
        Erasure::IdsOnly,
    ),
    store(Kind::Bucket, crate::subject::WORKERS, Erasure::Nothing),
    store(Kind::Table, "accounts", Erasure::SealedAndDeleted),
    store(Kind::Table, "sessions", Erasure::SealedAndDeleted),
    store(Kind::Table, "queries", Erasure::SealedAndDeleted),
    store(Kind::Table, "api_keys", Erasure::SealedAndDeleted),
    store(Kind::Table, "purged", Erasure::IdsOnly),
    store(Kind::Table, "ledger", Erasure::Nothing),
    store(Kind::Table, "parked", Erasure::IdsOnly),
    store(Kind::Table, "skipped", Erasure::IdsOnly),
    store(Kind::Table, "checkpoint", Erasure::Nothing),
    store(Kind::Table, "meta", Erasure::Nothing),
    store(Kind::Table, "_sqlx_migrations", Erasure::Nothing),
    store(Kind::Objects, "archive/", Erasure::Sealed),
    store(Kind::Objects, "erasures/", Erasure::IdsOnly),
    store(Kind::Log, "services", Erasure::IdsOnly),
];
