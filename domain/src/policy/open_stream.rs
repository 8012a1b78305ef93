//! A submitted query gets its token stream, whose first message says `queued`.

use super::Reaction;
use crate::query::Event;

pub(super) fn react(event: &Event) -> Option<Reaction> {
    match event {
        Event::Submitted {
            query, owner, at, ..
        } => Some(Reaction::OpenStream {
            query: *query,
            owner: *owner,
            at: *at,
        }),
        Event::Started { .. }
        | Event::Completed { .. }
        | Event::Failed { .. }
        | Event::Cancelled { .. } => None,
    }
}
