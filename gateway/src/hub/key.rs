//! The key of one feed's query, asked for once and kept for as long as the feed.

use domain::id::{AccountId, QueryId};
use infra::{
    sealing::{QueryKey, QueryKeys, query_key::Answer},
    telemetry,
};
use tracing::warn;

/// What is known of the key.
pub(super) struct FeedKey {
    keys: QueryKeys,
    query: QueryId,
    /// In whose name was asked, and the answer.
    known: Option<(AccountId, Answer)>,
}

impl FeedKey {
    pub(super) const fn new(keys: QueryKeys, query: QueryId) -> Self {
        Self {
            keys,
            query,
            known: None,
        }
    }

    pub(super) const fn is_known(&self) -> bool {
        self.known.is_some()
    }

    /// Asks in this person's name, unless the answer is known.
    pub(super) async fn ask(&mut self, person: AccountId) {
        if self.known.as_ref().is_some_and(|(of, _)| *of == person) {
            return;
        }
        match self.keys.ask(self.query, person).await {
            Ok(answer) => self.known = Some((person, answer)),
            Err(error) => {
                warn!(query.id = %self.query, reason = telemetry::chain(&error), "a key is missing");
            }
        }
    }

    /// What is known is of no use: it is asked for again.
    pub(super) fn forget(&mut self) {
        self.known = None;
    }

    pub(super) fn key(&self) -> Option<&QueryKey> {
        self.known.as_ref().and_then(|(_, answer)| answer.key())
    }

    /// Whether this person was erased.
    pub(super) fn is_erased(&self, person: AccountId) -> bool {
        matches!(&self.known, Some((of, Answer::Erased)) if *of == person)
    }
}
