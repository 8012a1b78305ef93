//! An ended query gets the last message of its token stream.

use super::Reaction;
use crate::{query::Event, wire::token::Terminal};

pub(super) fn react(event: &Event) -> Option<Reaction> {
    let (query, terminal, at) = match event {
        Event::Completed { query, answer, at } => (
            query,
            Terminal::Completed {
                answer: answer.clone(),
            },
            at,
        ),
        Event::Failed {
            query,
            code,
            message,
            at,
        } => (
            query,
            Terminal::Failed {
                code: *code,
                message: message.clone(),
            },
            at,
        ),
        Event::Cancelled { query, at, .. } => (query, Terminal::Cancelled, at),
        Event::Submitted { .. } | Event::Started { .. } => return None,
    };
    Some(Reaction::CloseStream {
        query: *query,
        terminal: Box::new(terminal),
        at: *at,
    })
}
