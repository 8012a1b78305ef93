//! Queries (contract §5).

pub(crate) mod cancel;
pub(crate) mod events;
pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod stream;
pub(crate) mod submit;

use crate::{
    app::App,
    edge::{Call, Error},
    hub::Follower,
};
use domain::{
    Timestamp,
    id::{AccountId, QueryId},
    wire::{error::Failure, rest::QueryItem},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::Notify;

/// How long the history of a stream may take to be read.
const HISTORY_WAIT: Duration = Duration::from_secs(5);
/// Streams are kept for 24 h; what ended earlier than this, and has none, has lost it.
const REPLAYABLE_MILLIS: u64 = 23 * 3_600_000;

/// What there is to follow of a query.
pub(crate) enum Source {
    /// Its stream.
    Stream(Follower),
    /// Its end alone: the stream has expired.
    Ended(Box<QueryItem>),
}

/// Follows a query that must be this person's.
///
/// # Errors
/// When it is not, or nobody can tell now.
pub(crate) async fn follow(
    app: &App,
    call: &Call,
    user: AccountId,
    query: QueryId,
    bell: Arc<Notify>,
) -> Result<Source, Failure> {
    let follower = app.hub.follow(query, bell);
    if tokio::time::timeout(HISTORY_WAIT, follower.read())
        .await
        .is_err()
    {
        return Err(Failure::unavailable());
    }
    match follower.owner() {
        Some(owner) if owner == user => return Ok(Source::Stream(follower)),
        Some(_) => return Err(not_found()),
        None => {}
    }
    // The stream has not begun yet, or its beginning has expired: the read model knows.
    let item = app.query(call, user, query).await?.ok_or_else(not_found)?;
    if follower.head() == 0 && has_expired(&item, infra::clock::now()) {
        return Ok(Source::Ended(Box::new(item)));
    }
    Ok(Source::Stream(follower))
}

fn has_expired(item: &QueryItem, now: Timestamp) -> bool {
    item.status.is_final()
        && item
            .completed_at
            .is_none_or(|ended| now.millis_since(ended) > REPLAYABLE_MILLIS)
}

fn not_found() -> Failure {
    Failure::new(domain::wire::error::Code::NotFound, "Query not found")
}

/// Reads the id in a path; what is no id names no query.
fn parse(id: &str) -> Result<QueryId, Error> {
    id.parse().map_err(|_| Error::not_found("Query"))
}
