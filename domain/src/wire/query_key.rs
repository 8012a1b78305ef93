//! Asking command-svc on [`crate::subject::QUERY_KEY`] for the key of one query: what its token
//! stream and its job are sealed with. Nothing else can be read with it.

use crate::id::{AccountId, QueryId};
use serde::{Deserialize, Serialize};

/// Which key is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The query.
    pub query: QueryId,
    /// Whose it is. For anybody else the answer is another key, which opens nothing of it.
    pub owner: AccountId,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Reply {
    /// This one.
    Key {
        /// The key.
        key: Secret,
    },
    /// Nothing of this person's is sealed.
    Plain,
    /// The person was erased: nobody can read it any more.
    Erased,
    /// It cannot be told just now.
    Unavailable,
}

/// A key in Base64, never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_round_trip_and_a_key_is_not_printed() {
        let key = Secret("QQ==".into());
        let replies = [
            (Reply::Key { key }, r#"{"state":"key","key":"QQ=="}"#),
            (Reply::Plain, r#"{"state":"plain"}"#),
            (Reply::Erased, r#"{"state":"erased"}"#),
            (Reply::Unavailable, r#"{"state":"unavailable"}"#),
        ];
        for (reply, json) in replies {
            assert_eq!(serde_json::to_string(&reply).unwrap(), json);
            assert_eq!(serde_json::from_str::<Reply>(json).unwrap(), reply);
            assert!(!format!("{reply:?}").contains("QQ"), "{reply:?}");
        }
    }
}
