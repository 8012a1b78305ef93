//! Commits as command-svc writes them, made up fast: for tests and benches of what reads the log.
//!
//! The same seed makes the same history. Accounts, sessions and queries are of realistic shape, many
//! queries are in flight at a time, and all aggregates obey their own rules.

use domain::{
    Actor, Aggregate, Timestamp, account,
    api_keys::{self, Scope, SecretHash},
    commit::{self, header},
    email,
    id::{AccountId, ApiKeyId, CommandId, EmailId, QueryId, RefreshId, SessionId},
    query::{self, Answer, CancelledBy, Submission, Usage},
    session, subject,
    wire::error::Code,
};
use infra::{
    append::Part,
    sealing::{
        keyring::{self, Keyring},
        seal,
    },
};
use std::collections::VecDeque;
use uuid::Uuid;

/// Queries that are in flight at a time.
const IN_FLIGHT: usize = 200;

/// Makes commands up, one after the other.
#[derive(Debug)]
pub struct History {
    random: u64,
    now: i64,
    accounts: Vec<Person>,
    queries: VecDeque<Asked>,
    concerned: AccountId,
}

#[derive(Debug)]
struct Person {
    account: AccountId,
    session: SessionId,
    refresh: RefreshId,
    generation: u64,
    keys: Vec<ApiKeyId>,
}

#[derive(Debug)]
struct Asked {
    query: QueryId,
    owner: AccountId,
    is_started: bool,
}

impl History {
    /// The history of this seed.
    pub fn new(seed: u64) -> Self {
        Self {
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            now: 1_741_079_700_000,
            accounts: Vec::new(),
            queries: VecDeque::new(),
            concerned: AccountId::new(Uuid::nil()),
        }
    }

    /// Whom the command concerned that was made up last.
    pub fn concerned(&self) -> AccountId {
        self.concerned
    }

    /// The commits of the next command; several where it concerns several aggregates. Their
    /// expected sequences are not filled in.
    pub fn command(&mut self) -> Vec<Part> {
        self.now += 3;
        let dice = self.dice(1000);
        if self.accounts.is_empty() || dice < 4 {
            return self.register();
        }
        if dice < 10 {
            return self.refresh();
        }
        if dice < 13 {
            return self.make_key_or_revoke_one();
        }
        if self.queries.len() < IN_FLIGHT {
            return self.submit();
        }
        self.go_on()
    }

    /// A person registers: an address, an account and a session.
    pub fn register(&mut self) -> Vec<Part> {
        self.now += 3;
        let (account, session) = (AccountId::new(self.id()), SessionId::new(self.id()));
        let refresh = RefreshId::new(self.id());
        let address = format!("{account}@example.com");
        let at = self.at();
        let claimed = email::Event::Claimed { account, at };
        let registered = account::Event::Registered {
            account,
            email: address.clone(),
            name: "Mia Example".into(),
            password_hash: "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo".into(),
            tier: account::Tier::Free,
            at,
        };
        let opened = session::Event::Opened {
            session,
            account,
            refresh,
            device_id: Some("device-1".into()),
            device_name: Some("Phone".into()),
            at,
        };
        let command = self.id();
        let parts = vec![
            part::<email::Email>(EmailId::of(&address).uuid(), command, at, claimed),
            part::<account::Account>(account.uuid(), command, at, registered),
            part::<session::Session>(session.uuid(), command, at, opened),
        ];
        self.concerned = account;
        self.accounts.push(Person {
            account,
            session,
            refresh,
            generation: 0,
            keys: vec![],
        });
        parts
    }

    fn refresh(&mut self) -> Vec<Part> {
        let (command, refresh, at) = (self.id(), RefreshId::new(self.id()), self.at());
        let index = self.dice(self.accounts.len());
        let person = &mut self.accounts[index];
        self.concerned = person.account;
        person.generation += 1;
        let superseded = std::mem::replace(&mut person.refresh, refresh);
        let event = session::Event::Refreshed {
            session: person.session,
            superseded,
            refresh,
            generation: person.generation,
            at,
        };
        let session = person.session.uuid();
        vec![part::<session::Session>(session, command, at, event)]
    }

    /// Every third key is revoked before the next one is made.
    fn make_key_or_revoke_one(&mut self) -> Vec<Part> {
        let (command, key, at) = (self.id(), ApiKeyId::new(self.id()), self.at());
        let index = self.dice(self.accounts.len());
        let person = &mut self.accounts[index];
        let account = person.account;
        self.concerned = account;
        let event = if person.keys.len() == 3 {
            let key = person.keys.swap_remove(0);
            api_keys::Event::Revoked { account, key, at }
        } else {
            person.keys.push(key);
            api_keys::Event::Created {
                account,
                key,
                name: "nightly import".into(),
                secret_hash: SecretHash::of(&key.to_string()),
                scopes: [Scope::QueriesRead].into(),
                expires_at: None,
                at,
            }
        };
        vec![part::<api_keys::ApiKeys>(
            account.uuid(),
            command,
            at,
            event,
        )]
    }

    fn submit(&mut self) -> Vec<Part> {
        let query = QueryId::new(self.id());
        let (command, at) = (self.id(), self.at());
        let submitted = self.submitted(query, command, at);
        self.queries.push_back(Asked {
            query,
            owner: self.concerned,
            is_started: false,
        });
        vec![submitted]
    }

    /// One command that submits several queries: no such command exists, but it is what a command
    /// across lanes looks like.
    pub fn submit_together(&mut self, count: usize) -> Vec<Part> {
        self.now += 3;
        let (command, at) = (self.id(), self.at());
        (0..count)
            .map(|_| {
                let query = QueryId::new(self.id());
                self.submitted(query, command, at)
            })
            .collect()
    }

    fn submitted(&mut self, query: QueryId, command: Uuid, at: Timestamp) -> Part {
        let index = self.dice(self.accounts.len().max(1));
        let owner = self.accounts.get(index);
        self.concerned = owner.map_or(AccountId::new(Uuid::nil()), |person| person.account);
        let event = query::Event::Submitted {
            query,
            owner: self.concerned,
            submission: Submission {
                text: "What is a projection here, and why is it kept apart from the log?".into(),
                operation: "general".into(),
                file_ids: vec![],
                context: None,
                reference: None,
                options: None,
            },
            at,
            route: None,
        };
        part::<query::Query>(query.uuid(), command, at, event)
    }

    /// A query that is in flight takes its next step.
    fn go_on(&mut self) -> Vec<Part> {
        let (command, at) = (self.id(), self.at());
        let index = self.dice(self.queries.len());
        self.queries.swap(0, index);
        let asked = &mut self.queries[0];
        let query = asked.query;
        self.concerned = asked.owner;
        if !std::mem::replace(&mut asked.is_started, true) {
            let event = query::Event::Started {
                query,
                worker: "worker-1".into(),
                model: "amaima-demo".into(),
                attempt: 1,
                at,
            };
            return vec![part::<query::Query>(query.uuid(), command, at, event)];
        }
        self.queries.pop_front();
        let event = match self.dice(20) {
            0 => query::Event::Failed {
                query,
                code: Code::QueryModelError,
                message: "The model failed.".into(),
                at,
            },
            1 => query::Event::Cancelled {
                query,
                by: CancelledBy::Owner,
                at,
            },
            _ => query::Event::Completed {
                query,
                answer: Answer {
                    response_text: ANSWER.into(),
                    model_used: "amaima-demo".into(),
                    confidence: Some(0.75),
                    latency_ms: 120,
                    finish_reason: "stop".into(),
                    usage: Usage {
                        prompt_tokens: 24,
                        completion_tokens: 60,
                    },
                    chunks: 12,
                },
                at,
            },
        };
        vec![part::<query::Query>(query.uuid(), command, at, event)]
    }

    /// Somebody who has registered.
    pub fn person(&mut self) -> AccountId {
        let index = self.dice(self.accounts.len());
        self.accounts[index].account
    }

    fn at(&self) -> Timestamp {
        Timestamp::from_millis(self.now)
    }

    fn dice(&mut self, sides: usize) -> usize {
        let sides = u64::try_from(sides.max(1)).unwrap_or(u64::MAX);
        usize::try_from((self.next() >> 33) % sides).unwrap_or(0)
    }

    fn id(&mut self) -> Uuid {
        Uuid::from_u64_pair(self.next(), self.next())
    }

    /// SplitMix64 (Steele, Lea and Flood, 2014).
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

const ANSWER: &str = "A projection reads the log from its checkpoint on and folds each commit into \
    rows, in one transaction with the checkpoint. It is kept apart so that reads never hold up \
    writes, and so that it can be built anew from the log at any time.";

/// A commit of one event.
pub(crate) fn part<A: Aggregate>(id: Uuid, command: Uuid, at: Timestamp, event: A::Event) -> Part {
    let command = CommandId::new(command);
    let encoded = commit::encode::<A>(id, command, at, &[event]).expect("events are JSON");
    let mut headers = async_nats::HeaderMap::new();
    let actor = serde_json::to_string(&Actor::Anonymous).expect("an actor is JSON");
    for (name, value) in [
        (header::COMMAND_ID, command.to_string()),
        (header::EVENT_TYPES, encoded.types),
        (header::ACTOR, actor),
        (header::CORRELATION_ID, "req_0123456789ab".into()),
        (header::CAUSATION_ID, "req_0123456789ab".into()),
        (header::REQUEST_ID, "req_0123456789ab".into()),
        (header::SCHEMA, commit::SCHEMA.into()),
    ] {
        headers.insert(name, value);
    }
    Part {
        subject: encoded.aggregate.subject(),
        expected: 0,
        headers,
        payload: encoded.payload.into(),
    }
}

/// Seals commits with the key of this person, as command-svc does. The claim on an address tells
/// nothing about a person.
///
/// # Errors
/// When there is no key to be had.
pub async fn sealed(
    keys: &Keyring,
    person: AccountId,
    parts: Vec<Part>,
) -> Result<Vec<Part>, keyring::Error> {
    let key = keys.for_writing(person).await?;
    let seal = |mut part: Part| {
        let kind = subject::Aggregate::parse(&part.subject).map(|aggregate| aggregate.kind);
        if let Some(key) = key.as_ref().filter(|_| kind != Some(subject::Kind::Email)) {
            let payload = std::mem::take(&mut part.payload);
            let sealed = seal(&part.subject, &mut part.headers, &payload, person, &key.log)?;
            part.payload = sealed.into();
        }
        Ok(part)
    };
    parts.into_iter().map(seal).collect()
}

/// Writes commits to the log as fast as the server takes them: one writer, whose order is the log's,
/// needs no expected sequences. Answers with the last sequence.
///
/// # Errors
/// When the server does not take them.
pub async fn write(
    client: &async_nats::Client,
    commits: impl IntoIterator<Item = Part>,
) -> anyhow::Result<u64> {
    // The server holds a bounded number of messages that it has not stored yet, and drops more.
    const UNACKNOWLEDGED: usize = 2000;
    let mut last = 0;
    let mut commits = commits.into_iter().enumerate().peekable();
    while let Some((index, part)) = commits.next() {
        if index % UNACKNOWLEDGED != UNACKNOWLEDGED - 1 && commits.peek().is_some() {
            client
                .publish_with_headers(part.subject, part.headers, part.payload)
                .await?;
            continue;
        }
        let request = async_nats::Request::new()
            .headers(part.headers)
            .payload(part.payload);
        let answer = client.send_request(part.subject, request).await?;
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload)?;
        last = answer["seq"]
            .as_u64()
            .ok_or_else(|| anyhow::anyhow!("{} refuses: {answer}", subject::EVENTS))?;
    }
    Ok(last)
}
