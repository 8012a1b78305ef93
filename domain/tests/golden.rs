//! Every event has a golden file: its storage format, never edited. A change is a `.v2`.

use domain::{
    Timestamp, account, email,
    id::{AccountId, QueryId, RefreshId, SessionId},
    query, session,
    wire::error::Code,
};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

const fn uuid(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn golden<E>(events: &[E])
where
    E: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    for event in events {
        let json = serde_json::to_value(event).expect("JSON");
        let name = json["type"].as_str().expect("a type").to_owned();
        let back: E = serde_json::from_value(json.clone()).expect("it is read back");
        assert_eq!(back, *event);
        insta::assert_json_snapshot!(name, json);
    }
}

#[test]
fn accounts_and_emails() {
    let at = Timestamp::from_millis(1_741_079_700_000);
    golden(&[account::Event::Registered {
        account: AccountId::new(uuid(1)),
        email: "mia@example.com".into(),
        name: "Mia".into(),
        password_hash: "$argon2id$".into(),
        tier: account::Tier::Free,
        at,
    }]);
    golden(&[email::Event::Claimed {
        account: AccountId::new(uuid(1)),
        at,
    }]);
}

#[test]
fn sessions() {
    let at = Timestamp::from_millis(1_741_079_700_000);
    let session = SessionId::new(uuid(2));
    let account = AccountId::new(uuid(1));
    golden(&[
        session::Event::Opened {
            session,
            account,
            refresh: RefreshId::new(uuid(3)),
            device_id: Some("d1".into()),
            device_name: None,
            at,
        },
        session::Event::Refreshed {
            session,
            superseded: RefreshId::new(uuid(3)),
            refresh: RefreshId::new(uuid(4)),
            generation: 1,
            at,
        },
        session::Event::Revoked {
            session,
            account,
            reason: session::Reason::Reuse,
            at,
        },
    ]);
}

#[test]
fn queries() {
    let at = Timestamp::from_millis(1_741_079_700_000);
    let query = QueryId::new(uuid(5));
    golden(&[
        query::Event::Submitted {
            query,
            owner: AccountId::new(uuid(1)),
            submission: query::Submission {
                text: "Why?".into(),
                operation: "general".into(),
                file_ids: vec!["f1".into()],
                context: Some(serde_json::json!({ "source": "android" })),
                reference: Some("query_1".into()),
            },
            at,
        },
        query::Event::Started {
            query,
            worker: "worker-1".into(),
            model: "amaima-demo".into(),
            attempt: 1,
            at,
        },
        query::Event::Completed {
            query,
            answer: query::Answer {
                response_text: "Because.".into(),
                model_used: "amaima-demo".into(),
                confidence: Some(0.5),
                latency_ms: 12,
                finish_reason: "stop".into(),
                usage: query::Usage {
                    prompt_tokens: 3,
                    completion_tokens: 2,
                },
                chunks: 1,
            },
            at,
        },
        query::Event::Failed {
            query,
            code: Code::QueryModelError,
            message: "Model inference failed".into(),
            at,
        },
        query::Event::Cancelled { query, at },
    ]);
}
