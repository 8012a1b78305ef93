//! A repeat of an accepted command yields no events, and whatever comes in whatever order, the
//! rules of each aggregate hold.

use domain::{
    Actor, Aggregate, Context, Timestamp,
    id::{AccountId, CommandId, QueryId, RefreshId, SessionId},
    query::{Answer, Command, Complexity, Query, Route, Submission, Usage},
    routing::Unroutable,
    session::{self, Session},
    wire::error::Code,
};
use proptest::prelude::*;
use uuid::Uuid;

const OWNER: AccountId = AccountId::new(Uuid::from_u128(1));
const QUERY: QueryId = QueryId::new(Uuid::from_u128(2));

fn cx(actor: Actor, millis: i64) -> Context {
    Context {
        now: Timestamp::from_millis(millis),
        actor,
        command_id: CommandId::new(Uuid::from_u128(9)),
    }
}

/// A repeat of what was accepted stays accepted when no model takes it any more.
fn routes() -> impl Strategy<Value = Result<Route, Unroutable>> {
    prop_oneof![
        Just(Ok(Route {
            model: "m".into(),
            rule: "r".into(),
            reason: "why".into(),
            complexity: Complexity::Simple,
        })),
        Just(Err(Unroutable("none".into()))),
    ]
}

fn query_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        routes().prop_map(|route| Command::Submit {
            query: QUERY,
            owner: OWNER,
            submission: Submission {
                text: "Why?".into(),
                operation: "general".into(),
                file_ids: vec![],
                context: None,
                reference: None,
                options: None,
            },
            route,
        }),
        Just(Command::Start {
            query: QUERY,
            worker: "w".into(),
            model: "m".into()
        }),
        Just(Command::Complete {
            query: QUERY,
            answer: Answer {
                response_text: "x".into(),
                model_used: "m".into(),
                confidence: None,
                latency_ms: 1,
                finish_reason: "stop".into(),
                usage: Usage::default(),
                chunks: 1,
            },
        }),
        Just(Command::Fail {
            query: QUERY,
            code: Code::QueryModelError,
            message: "m".into(),
        }),
        Just(Command::Cancel { query: QUERY }),
    ]
}

proptest! {
    #[test]
    fn a_query_ends_once_and_repeats_are_silent(
        commands in proptest::collection::vec(query_command(), 0..24),
    ) {
        let cx = cx(Actor::User(OWNER), 0);
        let mut state = Query::default();
        let mut ends = 0;
        for command in commands {
            let Ok(events) = state.decide(command.clone(), &cx) else { continue };
            state = events.iter().fold(state, Query::evolve);
            if let Query::Asked { status, .. } = state {
                ends += usize::from(!events.is_empty() && status.is_final());
            }
            // Another start is another attempt; everything else is in effect already.
            if !matches!(command, Command::Start { .. }) {
                prop_assert_eq!(state.decide(command, &cx), Ok(vec![]));
            }
        }
        prop_assert!(ends <= 1);
    }

    #[test]
    fn one_refresh_id_is_good_at_a_time(
        presented in proptest::collection::vec((0u128..6, 0i64..90_000), 1..40),
    ) {
        let refresh = |n: u128| RefreshId::new(Uuid::from_u128(n));
        let open = session::Command::Open {
            session: SessionId::new(Uuid::from_u128(3)),
            account: OWNER,
            refresh: refresh(0),
            device_id: None,
            device_name: None,
        };
        let events = Session::default().decide(open, &cx(Actor::Anonymous, 0)).unwrap();
        let mut state = events.iter().fold(Session::default(), Session::evolve);
        let (mut now, mut next) = (0, 100);
        for (id, later) in presented {
            now += later;
            next += 1;
            let current = match &state {
                Session::Open(open) => Some(open.current),
                Session::Absent | Session::Revoked { .. } | Session::Erased => None,
            };
            // Every other time the good one, so that rotations happen.
            let presented = current.filter(|_| next % 2 == 0).unwrap_or(refresh(id));
            let order = session::Command::Refresh { presented, next: refresh(next) };
            let decided = state.decide(order, &cx(Actor::Anonymous, now));
            let rotated = matches!(
                decided.as_deref(),
                Ok([session::Event::Refreshed { .. }])
            );
            prop_assert_eq!(rotated, current == Some(presented));
            if let Ok(events) = decided {
                state = events.iter().fold(state, Session::evolve);
            }
        }
    }
}
