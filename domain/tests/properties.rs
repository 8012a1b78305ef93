//! Random commands through several writers, with retries, duplicates, lost answers and crashes:
//! each aggregate ends as if each command had come once, and its log tells the same story.

mod log;

use domain::{
    Actor, Aggregate, Context, Timestamp,
    account::{self, Account},
    api_keys::{self, ApiKeys, SecretHash},
    email::{self, Email},
    id::{AccountId, ApiKeyId, CommandId, QueryId, RefreshId, SessionId},
    limits,
    query::{self, Query},
    session::{self, Session},
    wire::error::Code,
};
use log::{play, script};
use proptest::prelude::*;
use uuid::Uuid;

fn account(n: u128) -> AccountId {
    AccountId::new(Uuid::from_u128(n))
}

fn refresh(n: u128) -> RefreshId {
    RefreshId::new(Uuid::from_u128(n))
}

const SESSION: SessionId = SessionId::new(Uuid::from_u128(3));
const QUERY: QueryId = QueryId::new(Uuid::from_u128(2));
const OWNER: u128 = 1;

#[derive(Clone, Debug)]
enum SessionOrder {
    Open,
    /// With the refresh id that is good now.
    Refresh,
    /// With one that was good so many rotations ago.
    Old(usize),
    /// With one that never was.
    Unknown,
    RevokeBy(u128),
}

fn session_order() -> impl Strategy<Value = SessionOrder> + Clone {
    prop_oneof![
        2 => Just(SessionOrder::Open),
        8 => Just(SessionOrder::Refresh),
        2 => (0usize..20).prop_map(SessionOrder::Old),
        1 => Just(SessionOrder::Unknown),
        1 => (OWNER..3).prop_map(SessionOrder::RevokeBy),
    ]
}

fn open(first: RefreshId) -> session::Command {
    session::Command::Open {
        session: SESSION,
        account: account(OWNER),
        refresh: first,
        device_id: Some("d\u{1f600}".into()),
        device_name: None,
    }
}

fn session_command(order: &SessionOrder, state: &Session, n: u128) -> (session::Command, Actor) {
    let held = match state {
        Session::Open(open) => Some(open),
        Session::Absent | Session::Revoked { .. } | Session::Erased => None,
    };
    let next = refresh(n);
    let presenting = |presented: Option<RefreshId>| session::Command::Refresh {
        presented: presented.unwrap_or(refresh(0)),
        next,
    };
    match order {
        SessionOrder::Open => (open(next), Actor::Anonymous),
        SessionOrder::Refresh => (presenting(held.map(|open| open.current)), Actor::Anonymous),
        SessionOrder::Old(ago) => {
            let old = held.and_then(|open| open.superseded.iter().rev().nth(*ago));
            (presenting(old.map(|(id, _)| *id)), Actor::Anonymous)
        }
        SessionOrder::Unknown => (presenting(None), Actor::Anonymous),
        SessionOrder::RevokeBy(who) => (session::Command::Revoke, Actor::User(account(*who))),
    }
}

#[derive(Clone, Debug)]
enum QueryOrder {
    SubmitBy(u128),
    Start(u8),
    Complete(String),
    Fail,
    CancelBy(u128),
    GiveUp,
}

fn query_order() -> impl Strategy<Value = QueryOrder> + Clone {
    prop_oneof![
        4 => (OWNER..3).prop_map(QueryOrder::SubmitBy),
        4 => any::<u8>().prop_map(QueryOrder::Start),
        1 => ".{0,8}".prop_map(QueryOrder::Complete),
        1 => Just(QueryOrder::Fail),
        1 => (OWNER..3).prop_map(QueryOrder::CancelBy),
        1 => Just(QueryOrder::GiveUp),
    ]
}

fn query_command(order: &QueryOrder, _: &Query, _: u128) -> (query::Command, Actor) {
    let worker = Actor::Worker("w".into());
    match order {
        QueryOrder::SubmitBy(who) => {
            let submit = query::Command::Submit {
                query: QUERY,
                owner: account(*who),
                submission: query::Submission {
                    text: "Why?".into(),
                    operation: "general".into(),
                    file_ids: vec!["f".into()],
                    context: Some(serde_json::json!({ "source": "\u{0}" })),
                    reference: None,
                    options: None,
                },
                route: Ok(query::Route {
                    model: "m".into(),
                    rule: "r".into(),
                    reason: "why".into(),
                    complexity: query::Complexity::Simple,
                }),
            };
            (submit, Actor::User(account(*who)))
        }
        QueryOrder::Start(name) => {
            let start = query::Command::Start {
                query: QUERY,
                worker: format!("w{name}"),
                model: "m".into(),
            };
            (start, worker)
        }
        QueryOrder::Complete(text) => {
            let complete = query::Command::Complete {
                query: QUERY,
                answer: query::Answer {
                    response_text: text.clone(),
                    model_used: "m".into(),
                    confidence: Some(0.25),
                    latency_ms: 1,
                    finish_reason: "stop".into(),
                    usage: query::Usage::default(),
                    chunks: 1,
                },
            };
            (complete, worker)
        }
        QueryOrder::Fail => {
            let fail = query::Command::Fail {
                query: QUERY,
                code: Code::QueryModelError,
                message: "m".into(),
            };
            (fail, worker)
        }
        QueryOrder::CancelBy(who) => {
            let cancel = query::Command::Cancel { query: QUERY };
            (cancel, Actor::User(account(*who)))
        }
        QueryOrder::GiveUp => (query::Command::Cancel { query: QUERY }, Actor::System),
    }
}

#[derive(Clone, Debug)]
enum KeyOrder {
    CreateBy(u128),
    /// The key of one of the first commands, by this person.
    RevokeBy(u128, u128),
}

fn key_order() -> impl Strategy<Value = KeyOrder> + Clone {
    prop_oneof![
        2 => (OWNER..3).prop_map(KeyOrder::CreateBy),
        1 => (0u128..6, OWNER..3).prop_map(|(key, who)| KeyOrder::RevokeBy(key, who)),
    ]
}

fn key_command(order: &KeyOrder, _: &ApiKeys, number: u128) -> (api_keys::Command, Actor) {
    let key = |n: u128| ApiKeyId::new(Uuid::from_u128(n));
    match order {
        KeyOrder::CreateBy(who) => {
            let create = api_keys::Command::Create {
                account: account(*who),
                // Each command makes its own.
                key: key(number),
                name: format!("key {number}"),
                secret_hash: SecretHash::of(&number.to_string()),
                scopes: api_keys::Scope::ALL.into(),
                expires_at: None,
            };
            (create, Actor::User(account(*who)))
        }
        KeyOrder::RevokeBy(n, who) => {
            let revoke = api_keys::Command::Revoke { key: key(*n) };
            (revoke, Actor::User(account(*who)))
        }
    }
}

proptest! {
    #[test]
    fn an_account(steps in script(".{0,8}")) {
        play(steps, |name: &String, _: &Account, n| {
            let register = account::Command::Register {
                account: account(n),
                email: format!("{name}@example.com"),
                name: name.clone(),
                password_hash: "$argon2id$".into(),
            };
            (register, Actor::Anonymous)
        })?;
    }

    #[test]
    fn an_email(steps in script(OWNER..4)) {
        play(steps, |who: &u128, _: &Email, _| {
            (email::Command::Claim { account: account(*who) }, Actor::Anonymous)
        })?;
    }

    #[test]
    fn a_session(steps in script(session_order())) {
        play(steps, session_command)?;
    }

    #[test]
    fn api_keys(steps in script(key_order())) {
        play(steps, key_command)?;
    }

    #[test]
    fn a_query(steps in script(query_order())) {
        play(steps, query_command)?;
    }
}

/// A session remembers the ids of its latest commands. The repeat of a refresh that is older than
/// they are looks like what it may be, the reuse of a superseded token: nobody gets a token for
/// it, and the session ends.
#[test]
fn a_forgotten_refresh_is_a_reuse() {
    let cx = |n: u128| Context {
        now: Timestamp::from_millis(0),
        actor: Actor::Anonymous,
        command_id: CommandId::new(Uuid::from_u128(n)),
    };
    let events = Session::default().decide(open(refresh(0)), &cx(0)).unwrap();
    let mut state = events.iter().fold(Session::default(), Session::evolve);
    let rotations = limits::RECENT_COMMANDS as u128 + 1;
    for n in 0..rotations {
        let order = session::Command::Refresh {
            presented: refresh(n),
            next: refresh(n + 1),
        };
        let events = state.decide(order, &cx(n + 1)).unwrap();
        state = events.iter().fold(state, Session::evolve);
    }
    let repeat = session::Command::Refresh {
        presented: refresh(0),
        next: refresh(1),
    };
    let events = state.decide(repeat, &cx(1)).unwrap();
    let reason = session::Reason::Reuse;
    assert!(matches!(&events[..], [session::Event::Revoked { reason: why, .. }] if *why == reason));
}
