use super::{CancelledBy, Command, Event, Query, Status};
use crate::{Actor, Context, id::AccountId, routing::Unroutable};

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
    /// No model takes it.
    #[error(transparent)]
    Unroutable(#[from] Unroutable),
}

pub(super) fn decide(query: &Query, command: Command, cx: &Context) -> Result<Vec<Event>, Refused> {
    let Query::Asked {
        owner,
        status,
        attempts,
    } = query
    else {
        return match command {
            Command::Submit { .. } if *query == Query::Erased => Err(Refused::IdTaken),
            Command::Submit {
                query,
                owner,
                submission,
                route,
            } => Ok(vec![Event::Submitted {
                query,
                owner,
                submission,
                route: Some(route?),
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
        Command::Cancel { query } => {
            let by = cancelled_by(&cx.actor, *owner).ok_or(Refused::Unknown)?;
            let at = cx.now;
            end(
                *status,
                Status::Cancelled,
                Event::Cancelled { query, by, at },
            )
        }
    }
}

/// As whom the actor may give the query up, if at all.
fn cancelled_by(actor: &Actor, owner: AccountId) -> Option<CancelledBy> {
    match actor {
        Actor::User(user) if *user == owner => Some(CancelledBy::Owner),
        Actor::System => Some(CancelledBy::System),
        Actor::Anonymous | Actor::User(_) | Actor::Worker(_) => None,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Timestamp,
        id::{CommandId, QueryId},
    };
    use uuid::Uuid;

    #[test]
    fn the_owner_and_the_system_give_a_query_up_and_nobody_else() {
        let account = |n| AccountId::new(Uuid::from_u128(n));
        let state = Query::Asked {
            owner: account(1),
            status: Status::Processing,
            attempts: 1,
        };
        let query = QueryId::new(Uuid::from_u128(2));
        let cancelled = |actor| {
            let cx = Context {
                now: Timestamp::from_millis(3),
                actor,
                command_id: CommandId::new(Uuid::from_u128(4)),
            };
            decide(&state, Command::Cancel { query }, &cx)
        };
        let at = Timestamp::from_millis(3);
        for (actor, by) in [
            (Actor::User(account(1)), CancelledBy::Owner),
            (Actor::System, CancelledBy::System),
        ] {
            assert_eq!(
                cancelled(actor),
                Ok(vec![Event::Cancelled { query, by, at }])
            );
        }
        for stranger in [
            Actor::Anonymous,
            Actor::User(account(5)),
            Actor::Worker("w".into()),
        ] {
            assert_eq!(cancelled(stranger), Err(Refused::Unknown));
        }
    }
}
