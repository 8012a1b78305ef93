//! Histories that are made up: a small system in memory that keeps every promise, with clients,
//! lost answers, repeats, and reads that lag. They are as valid as a recorded one, and quick.

mod people;
mod reads;

use super::{
    History, Random,
    call::{Call, Effect, Handle, Operation, Outcome},
    fold::fold,
    log::{Commit, Events},
};
use domain::{
    Timestamp,
    id::{AccountId, QueryId},
    query::{self, CancelledBy, Status},
    subject::{Aggregate, Kind},
    wire::error::Code,
};
use std::{collections::HashMap, time::Duration};
use uuid::Uuid;

const CLIENTS: usize = 3;

/// A valid history of about this many calls.
pub fn history(seed: u64, calls: usize) -> History {
    let mut system = System {
        random: Random::new(seed),
        history: History::default(),
        last: HashMap::new(),
        clients: Vec::new(),
        clock: 0,
    };
    for client in 0..CLIENTS {
        system.register(client);
    }
    for _ in 0..calls {
        system.step();
    }
    system.come_to_rest();
    system.history.rows = fold(&system.history.log);
    system.history
}

struct System {
    random: Random,
    history: History,
    /// The last sequence of each aggregate.
    last: HashMap<Aggregate, u64>,
    clients: Vec<Person>,
    clock: i64,
}

struct Person {
    account: Uuid,
    session: Uuid,
    refresh: Uuid,
    generation: u64,
    queries: Vec<Uuid>,
    /// How far the latest read has seen the log.
    seen: u64,
    /// The token of the latest accepted write.
    token: Option<u64>,
}

impl System {
    fn now(&mut self) -> Timestamp {
        self.clock += 1;
        Timestamp::from_millis(self.clock)
    }

    fn append(&mut self, kind: Kind, id: Uuid, command: &str, events: Events) -> u64 {
        let aggregate = Aggregate::new(kind, id);
        let seq = self.history.log.len() as u64 + 1;
        let expected = self.last.insert(aggregate, seq).unwrap_or(0);
        let command = command.to_owned();
        let expected = Some(expected);
        let commit = Commit {
            seq,
            aggregate,
            expected,
            command,
            events,
        };
        self.history.log.push(commit);
        seq
    }

    fn call(&mut self, client: usize, operation: Operation, outcome: Outcome) {
        let began = Duration::from_millis(self.clock.unsigned_abs());
        let person = self
            .clients
            .get(client)
            .map_or(Uuid::nil(), |person| person.account);
        let ended = began;
        self.history.calls.push(Call {
            client,
            person,
            began,
            ended,
            operation,
            outcome,
        });
    }

    fn command(&mut self) -> String {
        self.random.id().to_string()
    }

    fn step(&mut self) {
        let client = self.random.below(CLIENTS);
        match self.random.below(10) {
            0..=2 => self.submit(client),
            3..=4 => self.work(),
            5 => self.cancel(client),
            6 => self.refresh(client),
            7..=8 => self.read_one(client),
            _ => self.read_list(client),
        }
    }

    fn submit(&mut self, client: usize) {
        let (id, owner) = (
            self.random.id(),
            AccountId::new(self.clients[client].account),
        );
        let text = format!("question {}", self.history.calls.len());
        let handle = match self.random.below(3) {
            0 => Handle::Id(id),
            1 => Handle::Key(text.clone()),
            _ => Handle::None,
        };
        let submit = Operation::Submit {
            text: text.clone(),
            handle,
        };
        if self.random.one_in(8) {
            // It never arrived.
            self.call(
                client,
                submit,
                Outcome::Unknown("connection refused".into()),
            );
            return;
        }
        if self.random.one_in(8) {
            self.call(client, submit, Outcome::Refused("409".into()));
            return;
        }
        let submission = query::Submission {
            text,
            operation: "general".into(),
            file_ids: Vec::new(),
            context: None,
            reference: None,
            options: None,
        };
        let (query, at, command) = (QueryId::new(id), self.now(), self.command());
        let event = query::Event::Submitted {
            query,
            owner,
            submission,
            at,
            route: None,
        };
        let seq = self.append(Kind::Query, id, &command, Events::Query(vec![event]));
        if self.random.one_in(5) {
            self.call(client, submit, Outcome::Unknown("timed out".into()));
            return;
        }
        self.clients[client].queries.push(id);
        // The first answer may come late, and its token stands for all that has happened by then. A
        // repeat is told the submission's own.
        if self.random.one_in(3) {
            self.work();
        }
        let late = self.history.log.len() as u64;
        let repeats = self.random.below(2);
        for token in [late, seq].into_iter().take(1 + repeats) {
            let token = Some(token);
            self.clients[client].token = token;
            let outcome = Outcome::Accepted {
                effect: Effect::Query {
                    query: id,
                    answer: None,
                },
                token,
            };
            self.call(client, submit.clone(), outcome);
        }
    }

    /// The state of a query, by the domain's own fold.
    fn state(&self, id: Uuid) -> query::Query {
        let commits = self
            .history
            .log
            .iter()
            .filter(|commit| commit.aggregate.id == id);
        let events = commits.flat_map(Commit::of_query);
        events.fold(query::Query::default(), |state, event| {
            domain::Aggregate::evolve(state, event)
        })
    }

    fn open_queries(&self) -> Vec<Uuid> {
        let commits = self
            .history
            .log
            .iter()
            .filter(|commit| commit.expected == Some(0));
        let queries = commits.filter(|commit| commit.aggregate.kind == Kind::Query);
        let ids = queries.map(|commit| commit.aggregate.id);
        ids.filter(|id| match self.state(*id) {
            query::Query::Asked { status, .. } => !status.is_final(),
            query::Query::Absent | query::Query::Erased => false,
        })
        .collect()
    }

    /// A worker starts a query, or ends one.
    fn work(&mut self) {
        let open = self.open_queries();
        let Some(id) = self.random.pick(&open).copied() else {
            return;
        };
        let query::Query::Asked {
            attempts, status, ..
        } = self.state(id)
        else {
            return;
        };
        let (query, at, command) = (QueryId::new(id), self.now(), self.command());
        let event = if status == Status::Queued {
            let (worker, model, attempt) = ("w".into(), "m".into(), attempts + 1);
            query::Event::Started {
                query,
                worker,
                model,
                attempt,
                at,
            }
        } else if self.random.one_in(4) {
            let (code, message) = (Code::QueryModelError, "The model failed".into());
            query::Event::Failed {
                query,
                code,
                message,
                at,
            }
        } else {
            let answer = query::Answer {
                response_text: format!("answer to {id}"),
                model_used: "m".into(),
                confidence: Some(0.5),
                latency_ms: 3,
                finish_reason: "stop".into(),
                usage: query::Usage::default(),
                chunks: 1,
            };
            query::Event::Completed { query, answer, at }
        };
        self.append(Kind::Query, id, &command, Events::Query(vec![event]));
    }

    fn cancel(&mut self, client: usize) {
        let own = self.clients[client].queries.clone();
        let Some(query) = self.random.pick(&own).copied() else {
            return;
        };
        let cancel = Operation::Cancel { query };
        if !self.open_queries().contains(&query) {
            self.call(client, cancel, Outcome::Refused("409 CONFLICT".into()));
            return;
        }
        let (command, at) = (self.command(), self.now());
        let event = query::Event::Cancelled {
            query: QueryId::new(query),
            by: CancelledBy::Owner,
            at,
        };
        let seq = self.append(Kind::Query, query, &command, Events::Query(vec![event]));
        let token = Some(seq);
        self.clients[client].token = token;
        self.call(
            client,
            cancel,
            Outcome::Accepted {
                effect: Effect::Ended,
                token,
            },
        );
    }

    fn come_to_rest(&mut self) {
        while !self.open_queries().is_empty() {
            self.work();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::check::violations;

    /// Histories per property. Each has another seed, which a failure names.
    const HISTORIES: u64 = 150;

    #[test]
    fn a_system_that_keeps_its_promises_breaks_none() {
        for seed in 0..HISTORIES {
            let history = history(seed, 40);
            assert!(history.log.len() > 15, "seed {seed}");
            let found = violations(&history);
            assert!(found.is_empty(), "seed {seed}: {found:#?}");
        }
    }
}
