use super::{Event, Query, Status};

pub(super) fn evolve(state: Query, event: &Event) -> Query {
    match event {
        Event::Submitted { owner, .. } => Query::Asked {
            owner: *owner,
            status: Status::Queued,
            attempts: 0,
        },
        Event::Started { attempt, .. } => moved(state, Status::Processing, Some(*attempt)),
        Event::Completed { .. } => moved(state, Status::Completed, None),
        Event::Failed { .. } => moved(state, Status::Failed, None),
        Event::Cancelled { .. } => moved(state, Status::Cancelled, None),
    }
}

fn moved(state: Query, to: Status, attempt: Option<u32>) -> Query {
    match state {
        Query::Absent | Query::Erased => state,
        Query::Asked {
            owner, attempts, ..
        } => Query::Asked {
            owner,
            status: to,
            attempts: attempt.unwrap_or(attempts),
        },
    }
}
