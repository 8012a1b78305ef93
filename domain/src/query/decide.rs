use super::{Command, Event, Query, Status};
use crate::{Actor, Context};

/// Why a query refuses an order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such query, or it is somebody else's.
    #[error("Query not found")]
    Unknown,
    /// Another user's query has this id.
    #[error("the id is taken")]
    IdTaken,
    /// It has ended otherwise.
    #[error("the query has ended already ({})", .0.as_str())]
    Ended(Status),
}

pub(super) fn decide(query: &Query, command: Command, cx: &Context) -> Result<Vec<Event>, Refused> {
    let Query::Asked {
        owner,
        status,
        attempts,
    } = query
    else {
        return match command {
            Command::Submit {
                query,
                owner,
                submission,
            } => Ok(vec![Event::Submitted {
                query,
                owner,
                submission,
                at: cx.now,
            }]),
            Command::Start { .. }
            | Command::Complete { .. }
            | Command::Fail { .. }
            | Command::Cancel { .. } => Err(Refused::Unknown),
        };
    };
    match command {
        Command::Submit { owner: asker, .. } if asker == *owner => Ok(vec![]), // Asked already.
        Command::Submit { .. } => Err(Refused::IdTaken),
        Command::Start { .. } if status.is_final() => Err(Refused::Ended(*status)),
        Command::Start {
            query,
            worker,
            model,
        } => Ok(vec![Event::Started {
            query,
            worker,
            model,
            attempt: attempts + 1,
            at: cx.now,
        }]),
        Command::Complete { query, answer } => end(
            *status,
            Status::Completed,
            Event::Completed {
                query,
                answer,
                at: cx.now,
            },
        ),
        Command::Fail {
            query,
            code,
            message,
        } => end(
            *status,
            Status::Failed,
            Event::Failed {
                query,
                code,
                message,
                at: cx.now,
            },
        ),
        Command::Cancel { .. } if cx.actor != Actor::User(*owner) => Err(Refused::Unknown),
        Command::Cancel { query } => end(
            *status,
            Status::Cancelled,
            Event::Cancelled { query, at: cx.now },
        ),
    }
}

/// Ends a query once: the same end again is already in effect, another one comes too late.
fn end(status: Status, wanted: Status, event: Event) -> Result<Vec<Event>, Refused> {
    if !status.is_final() {
        return Ok(vec![event]);
    }
    if status == wanted {
        Ok(vec![])
    } else {
        Err(Refused::Ended(status))
    }
}
