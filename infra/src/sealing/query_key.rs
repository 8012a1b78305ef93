//! The key of one query, which its token stream and its job are sealed with.
//!
//! command-svc derives it from the person's key ([`Keyring::of_query`]); gateways and workers hold
//! no master keys and ask command-svc ([`QueryKeys`]), once for each query that they follow or
//! answer. Who asks keeps the key for as long as that takes.

use super::{Key, Keyring, NotOpened, NotSealed, keyring, keyring::Found, open, seal};
use async_nats::{Client, HeaderMap, Request};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use domain::{
    id::{AccountId, QueryId},
    subject,
    wire::query_key,
};
use std::time::Duration;
use zeroize::Zeroizing;

/// How long one question waits.
const ANSWER: Duration = Duration::from_secs(2);

/// The key of one query.
#[derive(Clone, Debug)]
pub struct QueryKey {
    person: AccountId,
    key: Key,
}

impl QueryKey {
    /// The key that is derived from this person's for one query.
    pub const fn new(person: AccountId, key: Key) -> Self {
        Self { person, key }
    }

    /// Whose it is.
    pub const fn person(&self) -> AccountId {
        self.person
    }

    /// Seals what goes to `subject` under these headers, and marks it.
    ///
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn seal(
        &self,
        subject: &str,
        headers: &mut HeaderMap,
        text: &[u8],
    ) -> Result<Vec<u8>, NotSealed> {
        seal(subject, headers, text, self.person, &self.key)
    }

    /// Opens what was stored at `subject`.
    ///
    /// # Errors
    /// When it was sealed with another key or elsewhere, or was changed since.
    pub fn open(
        &self,
        subject: &str,
        headers: Option<&HeaderMap>,
        sealed: &[u8],
    ) -> Result<Vec<u8>, NotOpened> {
        open(subject, headers, sealed, &self.key)
    }
}

/// What is known of a query's key.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It is there.
    Key(QueryKey),
    /// Nothing of the person's is sealed.
    Plain,
    /// The person was erased.
    Erased,
}

impl Answer {
    /// The key, if there is one.
    pub const fn key(&self) -> Option<&QueryKey> {
        match self {
            Self::Key(key) => Some(key),
            Self::Plain | Self::Erased => None,
        }
    }
}

impl Keyring {
    /// The key of a query of this person.
    ///
    /// # Errors
    /// As for [`Self::find`].
    pub async fn of_query(
        &self,
        query: QueryId,
        person: AccountId,
    ) -> Result<Answer, keyring::Error> {
        if !self.seals() {
            return Ok(Answer::Plain);
        }
        Ok(match self.find(person).await? {
            Found::Key(key) => Answer::Key(QueryKey::new(person, key.query(query))),
            Found::Erased => Answer::Erased,
            Found::Absent => Answer::Plain,
        })
    }
}

impl From<Answer> for query_key::Reply {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Key(QueryKey { key, .. }) => Self::Key {
                key: query_key::Secret(BASE64.encode(key.expose())),
            },
            Answer::Plain => Self::Plain,
            Answer::Erased => Self::Erased,
        }
    }
}

/// command-svc cannot be asked for a key just now.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not answer.
    #[error("nobody gives the key of {query}")]
    NoAnswer {
        /// The query.
        query: QueryId,
        /// Why.
        source: async_nats::RequestError,
    },
    /// It cannot tell, or what it says is no answer.
    #[error("the key of {query} is not to be had now")]
    Unavailable {
        /// The query.
        query: QueryId,
    },
}

/// Asks command-svc for keys of queries.
#[derive(Clone, Debug)]
pub struct QueryKeys {
    client: Client,
}

impl QueryKeys {
    /// Over this connection.
    pub const fn new(client: Client) -> Self {
        Self { client }
    }

    /// Asks once for the key of a query of this person.
    ///
    /// # Errors
    /// When there is no answer now.
    pub async fn ask(&self, query: QueryId, owner: AccountId) -> Result<Answer, Error> {
        let unavailable = Error::Unavailable { query };
        let Ok(request) = serde_json::to_vec(&query_key::Request { query, owner }) else {
            return Err(unavailable);
        };
        let request = Request::new().payload(request.into()).timeout(Some(ANSWER));
        let answer = self.client.send_request(subject::QUERY_KEY, request).await;
        let answer = answer.map_err(|source| Error::NoAnswer { query, source })?;
        read(&answer.payload, owner).ok_or(unavailable)
    }
}

fn read(reply: &[u8], owner: AccountId) -> Option<Answer> {
    match serde_json::from_slice(reply).ok()? {
        query_key::Reply::Key { key } => {
            let key = Zeroizing::new(BASE64.decode(key.0).ok()?);
            Some(Answer::Key(QueryKey::new(owner, Key::of(&key)?)))
        }
        query_key::Reply::Plain => Some(Answer::Plain),
        query_key::Reply::Erased => Some(Answer::Erased),
        query_key::Reply::Unavailable => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const MIA: AccountId = AccountId::new(Uuid::from_u128(1));

    #[test]
    fn a_key_that_is_handed_on_opens_what_the_first_one_sealed() {
        let key = QueryKey::new(MIA, Key::fresh().unwrap());
        let mut headers = HeaderMap::new();
        let sealed = key.seal("tok.1", &mut headers, b"Sun").unwrap();
        let reply = query_key::Reply::from(Answer::Key(key));
        assert!(format!("{reply:?}").contains("***"), "{reply:?}");
        let reply = serde_json::to_vec(&reply).unwrap();
        let Some(Answer::Key(given)) = read(&reply, MIA) else {
            panic!("a key is given");
        };
        assert_eq!(given.person(), MIA);
        let open = |subject| given.open(subject, Some(&headers), &sealed);
        assert_eq!(open("tok.1").unwrap(), b"Sun");
        assert_eq!(open("tok.2"), Err(NotOpened));
    }

    #[test]
    fn what_is_no_answer_is_none() {
        for reply in [
            r#"{"state":"unavailable"}"#,
            r#"{"state":"key","key":"QQ=="}"#,
            r#"{"state":"key","key":"?"}"#,
            r#"{"state":"maybe"}"#,
            "",
        ] {
            assert!(read(reply.as_bytes(), MIA).is_none(), "{reply}");
        }
        assert!(matches!(
            read(br#"{"state":"plain"}"#, MIA),
            Some(Answer::Plain)
        ));
        assert!(matches!(
            read(br#"{"state":"erased"}"#, MIA),
            Some(Answer::Erased)
        ));
    }
}
