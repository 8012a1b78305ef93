//! Queries (contract §5).

pub(crate) mod cancel;
pub(crate) mod events;
pub(crate) mod get;
pub(crate) mod list;
mod reading;
pub(crate) mod stream;
pub(crate) mod submit;

pub(crate) use reading::Reading;

use crate::{
    app::App,
    ask::Known,
    edge::{Call, Error},
    hub::{Follower, terminal_of},
};
use domain::{
    Timestamp,
    id::{AccountId, QueryId},
    limits,
    wire::{
        error::{Code, Failure},
        rest::QueryItem,
        token::Terminal,
    },
};
use std::{sync::Arc, time::Duration};
use tokio::sync::Notify;

/// How long a read waits for what the client has seen.
const READ_WAIT: Duration = Duration::from_millis(limits::READ_WAIT_MILLIS);
/// Calls that wait while the gateway stops are answered this long after it began to.
const STOP_WAIT: Duration = Duration::from_secs(20);
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
    let follower = app.hub.follow(query, user, bell);
    if tokio::time::timeout(HISTORY_WAIT, follower.read())
        .await
        .is_err()
    {
        return Err(Failure::unavailable());
    }
    if follower.is_gone() {
        return Err(not_found());
    }
    match follower.owner() {
        Some(owner) if owner == user => {
            note_end(call, &follower);
            return Ok(Source::Stream(follower));
        }
        Some(_) => return Err(not_found()),
        None => {}
    }
    // The stream has not begun yet, or its beginning has expired: the read model knows.
    let item = app.query(call, user, query).await?.ok_or_else(not_found)?;
    if follower.head() == 0 && has_expired(&item, infra::clock::now()) {
        return Ok(Source::Ended(Box::new(item)));
    }
    note_end(call, &follower);
    Ok(Source::Stream(follower))
}

/// Follows a query that this person has just submitted, for the first time or again.
///
/// # Errors
/// As for [`follow`], where it has ended.
pub(crate) async fn follow_submitted(
    app: &App,
    call: &Call,
    user: AccountId,
    known: Known,
    bell: Arc<Notify>,
) -> Result<Source, Failure> {
    if known.status.is_final() {
        return follow(app, call, user, known.query, bell).await;
    }
    // Its stream may not have begun, and the read model need not know it yet. Whose it is was found
    // out with the submission.
    Ok(Source::Stream(app.hub.follow(known.query, user, bell)))
}

/// How a query that this person has just submitted ended, and its stream if that is still there.
///
/// # Errors
/// When it does not end in time, or before the gateway has to stop.
pub(crate) async fn end_of(
    app: &App,
    call: &Call,
    user: AccountId,
    known: Known,
) -> Result<(Option<Follower>, Terminal), Failure> {
    let patience = Duration::from_millis(limits::QUERY_WAIT_MILLIS);
    let end = async {
        let bell = Arc::new(Notify::new());
        match follow_submitted(app, call, user, known, bell).await? {
            Source::Stream(follower) => {
                let end = follower.ended().await.ok_or_else(not_found)?;
                call.seen.note(end.log_seq.unwrap_or(0));
                let terminal = end.terminal.clone();
                Ok((Some(follower), terminal))
            }
            Source::Ended(item) => Ok((None, terminal_of(&item))),
        }
    };
    let stopped = async {
        app.lifecycle.stopping().await;
        tokio::time::sleep(STOP_WAIT).await;
    };
    tokio::select! {
        end = tokio::time::timeout(patience, end) => end.unwrap_or_else(|_| {
            let message = "The query did not complete in time";
            Err(Failure::new(Code::QueryTimeout, message))
        }),
        () = stopped => Err(Failure::unavailable()),
    }
}

/// The end of a query that was given up, where an answer is waited for.
pub(crate) fn cancelled() -> Failure {
    Failure::new(Code::Conflict, "The query was cancelled")
}

/// [`follow`] for a client that may have seen more than its stream shows yet: where it has seen that
/// the query ended, the stream ends too. Only with a bell of the caller's own.
///
/// # Errors
/// As for [`follow`], and when that does not come in time.
pub(crate) async fn follow_as_seen(
    app: &App,
    call: &Call,
    user: AccountId,
    query: QueryId,
    bell: Arc<Notify>,
) -> Result<Source, Failure> {
    if call.token.is_none() {
        return follow(app, call, user, query, bell).await;
    }
    let item = app.query(call, user, query).await?.ok_or_else(not_found)?;
    let source = follow(app, call, user, query, bell).await?;
    if let Source::Stream(follower) = &source
        && item.status.is_final()
    {
        tokio::time::timeout(READ_WAIT, follower.ended())
            .await
            .map_err(|_| Failure::unavailable())?
            .ok_or_else(not_found)?;
        note_end(call, follower);
    }
    Ok(source)
}

fn note_end(call: &Call, follower: &Follower) {
    let end = follower.terminal().and_then(|end| end.log_seq);
    call.seen.note(end.unwrap_or(0));
}

fn has_expired(item: &QueryItem, now: Timestamp) -> bool {
    item.status.is_final()
        && item
            .completed_at
            .is_none_or(|ended| now.millis_since(ended) > REPLAYABLE_MILLIS)
}

fn not_found() -> Failure {
    Failure::new(Code::NotFound, "Query not found")
}

/// Reads the id in a path; what is no id names no query.
fn parse(id: &str) -> Result<QueryId, Error> {
    id.parse().map_err(|_| Error::not_found("Query"))
}
