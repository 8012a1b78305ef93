//! Reads of the small system: they lag, but never behind what the client has seen.

use super::System;
use crate::history::{
    call::{Operation, Outcome, Shown, ShownQuery},
    fold::fold,
    rows::{QUERIES, Row},
};
use domain::query::Status;
use uuid::Uuid;

/// Queries on one page, few enough that lists are cut.
const PAGE: usize = 6;

impl System {
    /// A place in the log that a read of this client may reflect, and the token it sends.
    fn place(&mut self, client: usize) -> (u64, Option<u64>) {
        let head = self.history.log.len() as u64;
        let with_token = !self.random.one_in(3);
        let person = &self.clients[client];
        let at_least = person.token.filter(|_| with_token);
        let from = person.seen.max(at_least.unwrap_or(0));
        let behind = usize::try_from(head - from).unwrap_or(0);
        let place = from + self.random.below(behind + 1) as u64;
        self.clients[client].seen = place;
        (place, at_least)
    }

    fn show(&self, place: u64) -> Vec<(Uuid, ShownQuery, Row)> {
        let log = &self.history.log[..usize::try_from(place).unwrap_or(0)];
        let mut shown: Vec<_> = fold(log).0[QUERIES]
            .iter()
            .map(|(id, row)| {
                let status = row["status"].as_str().and_then(Status::parse);
                let text = row["response_text"].as_str().map(str::to_owned);
                let status = status.unwrap_or(Status::Queued);
                (
                    *id,
                    ShownQuery {
                        query: *id,
                        status,
                        text,
                    },
                    row.clone(),
                )
            })
            .collect();
        shown.sort_by_key(|(id, _, row)| std::cmp::Reverse((row["created_at"].as_i64(), *id)));
        shown
    }

    pub fn read_one(&mut self, client: usize) {
        let own = self.clients[client].queries.clone();
        let Some(query) = self.random.pick(&own).copied() else {
            return;
        };
        let (place, at_least) = self.place(client);
        let found = self.show(place).into_iter().filter(|(id, ..)| *id == query);
        let queries = found.map(|(_, shown, _)| shown).collect();
        let shown = Shown {
            queries,
            sessions: Vec::new(),
            complete: true,
        };
        self.call(
            client,
            Operation::ReadQuery { query, at_least },
            Outcome::Shown(shown),
        );
    }

    pub fn read_list(&mut self, client: usize) {
        let (place, at_least) = self.place(client);
        let owner = self.clients[client].account.to_string();
        let all = self.show(place);
        let own = all
            .into_iter()
            .filter(|(.., row)| row["owner"].as_str() == Some(&owner));
        let mut queries: Vec<ShownQuery> = own.map(|(_, shown, _)| shown).collect();
        let complete = queries.len() < PAGE;
        queries.truncate(PAGE);
        let shown = Shown {
            queries,
            sessions: Vec::new(),
            complete,
        };
        self.call(
            client,
            Operation::ReadQueries { at_least },
            Outcome::Shown(shown),
        );
    }
}
