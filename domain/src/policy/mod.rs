//! What follows from an event: pure functions from an event to reactions, which a runner carries
//! out at least once. Every reaction is therefore safe to repeat.
//!
//! One policy per file; to add one, write its `react` and list it in [`react_to_query`] or
//! [`react_to_session`].

mod close_stream;
mod enqueue_job;
mod open_stream;
mod revoke_tokens;

use crate::{
    Timestamp,
    id::{AccountId, QueryId},
    query, session,
    subject::Priority,
    wire::{job::Job, token::Terminal},
};

/// Something that should happen outside the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Reaction {
    /// Make the first message of a query's token stream.
    OpenStream {
        /// The query.
        query: QueryId,
        /// Who may follow it.
        owner: AccountId,
        /// When it was submitted.
        at: Timestamp,
    },
    /// Give the query to the workers.
    EnqueueJob {
        /// The model that should answer; `any` for whichever is there.
        model: String,
        /// In which order.
        priority: Priority,
        /// The work.
        job: Box<Job>,
    },
    /// Tell followers, and whoever works on it, that the query has ended.
    CloseStream {
        /// The query.
        query: QueryId,
        /// How it ended.
        terminal: Box<Terminal>,
        /// When it ended.
        at: Timestamp,
    },
    /// Make a refresh id or a session worthless at every gateway.
    Revoke {
        /// The `jti` or `sid`.
        key: uuid::Uuid,
        /// How long tokens that name it could live, in seconds.
        ttl_secs: i64,
    },
}

/// What follows from an event of a query.
pub fn react_to_query(event: &query::Event) -> Vec<Reaction> {
    [
        open_stream::react(event),
        enqueue_job::react(event),
        close_stream::react(event),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What follows from an event of a session.
pub fn react_to_session(event: &session::Event) -> Vec<Reaction> {
    revoke_tokens::react(event)
}
