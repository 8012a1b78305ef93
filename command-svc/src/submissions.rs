//! Each user's latest submissions without an id of their own, for two rules of contract §5:
//!
//! - the same question by REST within ten seconds gets the first one back,
//! - a socket that submits what its user has just posted by REST claims that query.
//!
//! One entry per user and question in a key-value bucket, changed by compare-and-set, so that two
//! gateways and two instances of this service agree.

use async_nats::jetstream::{self, context::KeyValueError, kv};
use domain::{
    Timestamp,
    id::{AccountId, QueryId},
    limits,
    query::Submission,
    subject,
    wire::command::Via,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Queries that one entry keeps; older ones can no longer be claimed.
const KEPT: usize = 8;
/// How often a compare-and-set is tried.
const ATTEMPTS: u32 = 16;

/// The bucket could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the latest submissions cannot be read or written")]
pub struct Error(#[source] Option<async_nats::Error>);

/// The bucket.
#[derive(Clone, Debug)]
pub struct Submissions {
    bucket: kv::Store,
}

/// A query that was posted by REST a short time ago.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Posted {
    query: QueryId,
    files: Vec<String>,
    at: Timestamp,
    /// Had neither an id nor a key, so that an identical one is the same.
    unnamed: bool,
    claimed: bool,
}

impl Submissions {
    /// Opens the bucket, which [`infra::jetstream::prepare`] has made.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn open(context: &jetstream::Context) -> Result<Self, KeyValueError> {
        Ok(Self {
            bucket: context.get_key_value(subject::SUBMISSIONS).await?,
        })
    }

    /// The id under which a submission should be known: `query`, or an earlier one's that it
    /// repeats or claims.
    ///
    /// # Errors
    /// When the bucket cannot be read or written.
    pub async fn resolve(
        &self,
        owner: AccountId,
        query: QueryId,
        named: bool,
        via: Via,
        submission: &Submission,
        now: Timestamp,
    ) -> Result<QueryId, Error> {
        if via == Via::Completions || (via == Via::Socket && named) {
            return Ok(query);
        }
        let key = key(owner, submission);
        // By REST most questions are new: one write, which the server refuses if they are not.
        let mut seen = match via {
            Via::Rest => Entry::default(),
            Via::Socket | Via::Completions => self.look(&key).await?,
        };
        for _ in 0..ATTEMPTS {
            let (found, changed) = settle(&mut seen.posted, query, named, via, submission, now);
            if !changed {
                return Ok(found);
            }
            let value =
                serde_json::to_vec(&seen.posted).map_err(|error| Error(Some(error.into())))?;
            let stored = self.bucket.update(&key, value.into(), seen.revision).await;
            if stored.is_ok() {
                return Ok(found);
            }
            seen = self.look(&key).await?;
        }
        Err(Error(None))
    }

    async fn look(&self, key: &str) -> Result<Entry, Error> {
        let entry = self.bucket.entry(key).await;
        let entry = entry.map_err(|error| Error(Some(error.into())))?;
        Ok(entry.map_or_else(Entry::default, |entry| Entry {
            posted: serde_json::from_slice(&entry.value).unwrap_or_default(),
            revision: entry.revision,
        }))
    }
}

/// What the bucket has for one user and question.
#[derive(Default)]
struct Entry {
    posted: Vec<Posted>,
    /// Zero if there is none.
    revision: u64,
}

/// Applies both rules to the entry; answers with the id and whether the entry changed.
fn settle(
    posted: &mut Vec<Posted>,
    query: QueryId,
    named: bool,
    via: Via,
    submission: &Submission,
    now: Timestamp,
) -> (QueryId, bool) {
    posted.retain(|each| now.millis_since(each.at) <= limits::CLAIM_QUERY_MILLIS);
    match via {
        Via::Socket => match posted.iter_mut().find(|each| !each.claimed) {
            Some(each) => {
                each.claimed = true;
                (each.query, true)
            }
            None => (query, false),
        },
        Via::Completions => (query, false),
        Via::Rest => {
            let same = posted.iter().rev().find(|each| {
                each.query == query
                    || (!named
                        && each.unnamed
                        && each.files == submission.file_ids
                        && now.millis_since(each.at) <= limits::DUPLICATE_QUERY_MILLIS)
            });
            if let Some(same) = same {
                return (same.query, false);
            }
            if posted.len() == KEPT {
                posted.remove(0);
            }
            posted.push(Posted {
                query,
                files: submission.file_ids.clone(),
                at: now,
                unnamed: !named,
                claimed: false,
            });
            (query, true)
        }
    }
}

/// A key-value key that tells nothing of the question.
fn key(owner: AccountId, submission: &Submission) -> String {
    let question = QueryId::derived(&[&submission.operation, &submission.text]);
    let owner: Uuid = owner.uuid();
    format!("{}.{}", owner.simple(), question.uuid().simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u128) -> QueryId {
        QueryId::new(Uuid::from_u128(n))
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + millis)
    }

    fn question() -> Submission {
        Submission {
            text: "Why?".into(),
            operation: "general".into(),
            file_ids: vec![],
            context: None,
            reference: None,
            options: None,
        }
    }

    #[test]
    fn an_identical_post_within_ten_seconds_is_the_same_query() {
        let mut posted = vec![];
        let q = question();
        assert_eq!(
            settle(&mut posted, id(1), false, Via::Rest, &q, at(0)).0,
            id(1)
        );
        assert_eq!(
            settle(&mut posted, id(2), false, Via::Rest, &q, at(10_000)).0,
            id(1)
        );
        assert_eq!(
            settle(&mut posted, id(3), false, Via::Rest, &q, at(10_001)).0,
            id(3)
        );
        assert_eq!(
            settle(&mut posted, id(4), true, Via::Rest, &q, at(10_002)).0,
            id(4)
        );
        let mut other = question();
        other.file_ids = vec!["f".into()];
        assert_eq!(
            settle(&mut posted, id(5), false, Via::Rest, &other, at(10_003)).0,
            id(5)
        );
    }

    #[test]
    fn a_post_is_claimed_once_by_a_socket() {
        let mut posted = vec![];
        let q = question();
        assert_eq!(
            settle(&mut posted, id(9), false, Via::Socket, &q, at(0)),
            (id(9), false)
        );
        settle(&mut posted, id(1), false, Via::Rest, &q, at(0));
        assert_eq!(
            settle(&mut posted, id(2), false, Via::Socket, &q, at(120_000)).0,
            id(1)
        );
        assert_eq!(
            settle(&mut posted, id(3), false, Via::Socket, &q, at(120_000)).0,
            id(3)
        );
        settle(&mut posted, id(4), false, Via::Rest, &q, at(200_000));
        assert_eq!(
            settle(&mut posted, id(5), false, Via::Socket, &q, at(320_001)).0,
            id(5)
        );
    }
}
