//! What is there of a query before its job is opened.

use super::{Ended, Worker, later, reporting::COMMAND, stop::Stop};
use domain::wire::token::{Body, Message};
use infra::{
    jobs::Waiting,
    retry::Backoff,
    sealing::{
        QueryKey,
        query_key::{self, Answer as FoundKey},
    },
    tokens::History,
};
use std::time::{Duration, Instant};

/// What is known of a query before its job is opened.
pub(super) struct Found {
    pub(super) stop: Stop,
    pub(super) key: Option<QueryKey>,
    pub(super) history: History,
}

impl Found {
    /// The model that has begun, if any has.
    pub(super) fn begun_by(&self) -> Option<&str> {
        let mut bodies = self.history.messages.iter().rev().map(|told| &told.body);
        bodies.find_map(|body| match body {
            Body::Chunk(chunk) => chunk.model.as_deref(),
            Body::Queued { .. } | Body::Terminal(_) => None,
        })
    }
}

impl Worker {
    /// What the query's token stream holds, and how to read it.
    pub(super) async fn find(&self, waiting: &Waiting) -> Result<Found, Ended> {
        let query = waiting.query();
        let (stored, stop, key) = tokio::join!(
            self.tokens.stored(query),
            Stop::listen(&self.client, query),
            self.key(waiting)
        );
        let stop = stop.map_err(|error| later(query, &error))?;
        let key = match key.map_err(|error| later(query, &error))? {
            FoundKey::Key(key) => Some(key),
            FoundKey::Plain => None,
            // Nobody could read the answer.
            FoundKey::Erased => return Err(Ended::Done),
        };
        let history = stored.and_then(|stored| stored.open(key.as_ref()));
        let history = history.map_err(|error| later(query, &error))?;
        if history.messages.last().is_some_and(Message::is_terminal) {
            return Err(Ended::Done);
        }
        Ok(Found { stop, key, history })
    }

    /// The key of a job, which command-svc may take as long to give as for a command.
    async fn key(&self, waiting: &Waiting) -> Result<FoundKey, query_key::Error> {
        let Some(person) = waiting.person() else {
            return Ok(FoundKey::Plain);
        };
        let begun = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            match self.keys.ask(waiting.query(), person).await {
                Err(_) if begun.elapsed() < COMMAND => backoff.wait().await,
                answer => return answer,
            }
        }
    }
}
