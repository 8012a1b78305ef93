//! A query that has not ended after its life is failed, so that none can hang for ever: not
//! without a worker, and not when its job was lost.

use super::{Reaction, Settings};
use crate::{
    id::{CommandId, QueryId},
    query::Event,
    timer::Timer,
    wire::{command::Body, error::Code},
};

/// The name of this policy, part of the ids of its commands.
const NAME: &str = "query_timeout";

pub(super) fn react(event: &Event, settings: &Settings) -> Option<Reaction> {
    match event {
        Event::Submitted { query, at, .. } => Some(Reaction::SetTimer {
            timer: Timer::QueryLife(*query),
            at: at.plus_millis(settings.query_life_millis),
        }),
        Event::Started { .. } => None,
        Event::Completed { query, .. }
        | Event::Failed { query, .. }
        | Event::Cancelled { query, .. } => Some(Reaction::ClearTimer {
            timer: Timer::QueryLife(*query),
        }),
    }
}

/// The life of a query is over. If it has ended, the command is refused, and that is right.
pub(super) fn due(query: QueryId, settings: &Settings) -> Reaction {
    Reaction::Command {
        id: CommandId::derived(&[&query.to_string(), NAME]),
        cause: Timer::QueryLife(query).due_subject(),
        body: Box::new(Body::FailQuery {
            query,
            code: Code::QueryTimeout,
            message: format!(
                "The query was not answered within {}",
                in_words(settings.query_life_millis)
            ),
        }),
    }
}

fn in_words(millis: i64) -> String {
    match millis {
        60_000 => "a minute".to_owned(),
        _ if millis % 60_000 == 0 => format!("{} minutes", millis / 60_000),
        1_000 => "a second".to_owned(),
        _ if millis % 1_000 == 0 => format!("{} seconds", millis / 1_000),
        _ => format!("{millis} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Timestamp,
        id::AccountId,
        query::{CancelledBy, Submission},
    };
    use uuid::Uuid;

    const QUERY: QueryId = QueryId::new(Uuid::from_u128(1));
    const SETTINGS: Settings = Settings {
        query_life_millis: 90_000,
    };

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn the_life_of_a_query_begins_when_it_is_asked_and_ends_with_it() {
        let submitted = Event::Submitted {
            query: QUERY,
            owner: AccountId::new(Uuid::from_u128(2)),
            submission: Submission {
                text: "Why?".into(),
                operation: "general".into(),
                file_ids: vec![],
                context: None,
                reference: None,
                options: None,
            },
            at: at(5),
            route: None,
        };
        let timer = Timer::QueryLife(QUERY);
        assert_eq!(
            react(&submitted, &SETTINGS),
            Some(Reaction::SetTimer {
                timer,
                at: at(90_005)
            })
        );
        let failed = Event::Failed {
            query: QUERY,
            code: Code::QueryModelError,
            message: "m".into(),
            at: at(6),
        };
        for ended in [
            failed,
            Event::Cancelled {
                query: QUERY,
                by: CancelledBy::Owner,
                at: at(6),
            },
        ] {
            assert_eq!(
                react(&ended, &SETTINGS),
                Some(Reaction::ClearTimer { timer })
            );
        }
        let started = Event::Started {
            query: QUERY,
            worker: "w".into(),
            model: "m".into(),
            attempt: 1,
            at: at(6),
        };
        assert_eq!(react(&started, &SETTINGS), None, "work does not prolong it");
    }

    #[test]
    fn the_command_is_the_same_however_often_the_timer_fires() {
        let Reaction::Command { id, body, .. } = due(QUERY, &SETTINGS) else {
            panic!("no command")
        };
        assert_eq!(id, CommandId::derived(&[&QUERY.to_string(), NAME]));
        let Body::FailQuery { code, message, .. } = *body else {
            panic!("{body:?}")
        };
        assert_eq!(code, Code::QueryTimeout);
        assert_eq!(message, "The query was not answered within 90 seconds");
        assert_eq!(in_words(900_000), "15 minutes");
        assert_eq!(in_words(1_500), "1500 ms");
    }
}
