//! Jobs as they wait in the stream `JOBS`. Where the query's key is known they are sealed with it;
//! what it takes to ask for the key stands beside them: the query is the message's id, the person
//! is named by [`domain::commit::header::SEALED`].

use crate::sealing::{NotOpened, NotSealed, QueryKey, Unknown, sealed_for};
use async_nats::{HeaderMap, header};
use bytes::Bytes;
use domain::{
    id::{AccountId, QueryId},
    wire::job::Job,
};

/// A job cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is none, or cannot be written as JSON. The words of the parser are left out, which may
    /// quote a person.
    #[error("a job is not JSON of ours ({0:?} error)")]
    Json(serde_json::error::Category),
    /// It is sealed, and does not say for which query.
    #[error("a sealed job does not name its query")]
    Unnamed,
    /// It was sealed in another way.
    #[error("a job cannot be opened")]
    Unknown(#[from] Unknown),
    /// It is not what was sealed, or the key is another one.
    #[error("a job cannot be opened")]
    NotOpened(#[from] NotOpened),
    /// It cannot be sealed.
    #[error("a job cannot be sealed")]
    NotSealed(#[from] NotSealed),
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error.classify())
    }
}

/// Headers and payload of a job for `subject`. The message id makes the server drop repeats.
///
/// # Errors
/// When it cannot be sealed.
pub fn message(
    subject: &str,
    job: &Job,
    key: Option<&QueryKey>,
) -> Result<(HeaderMap, Bytes), Error> {
    let mut headers = HeaderMap::new();
    headers.insert(header::NATS_MESSAGE_ID, job.query.to_string());
    let mut payload = serde_json::to_vec(job)?;
    if let Some(key) = key {
        payload = key.seal(subject, &mut headers, &payload)?;
    }
    Ok((headers, payload.into()))
}

/// A job as it was taken from the stream.
#[derive(Clone, Debug)]
pub struct Waiting {
    query: QueryId,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Plain(Box<Job>),
    Sealed {
        person: AccountId,
        subject: String,
        headers: Option<HeaderMap>,
        payload: Bytes,
    },
}

impl Waiting {
    /// Takes what was found at `subject`.
    ///
    /// # Errors
    /// When that is no job.
    pub fn read(
        subject: &str,
        headers: Option<&HeaderMap>,
        payload: &Bytes,
    ) -> Result<Self, Error> {
        let Some(person) = sealed_for(headers)? else {
            let job: Job = serde_json::from_slice(payload)?;
            return Ok(Self {
                query: job.query,
                kind: Kind::Plain(Box::new(job)),
            });
        };
        let named = headers.and_then(|headers| headers.get(header::NATS_MESSAGE_ID));
        let query = named.and_then(|query| query.as_str().parse().ok());
        Ok(Self {
            query: query.ok_or(Error::Unnamed)?,
            kind: Kind::Sealed {
                person,
                subject: subject.to_owned(),
                headers: headers.cloned(),
                payload: payload.clone(),
            },
        })
    }

    /// The query that needs an answer.
    pub const fn query(&self) -> QueryId {
        self.query
    }

    /// Whose key it takes; `None` if it is not sealed.
    pub const fn person(&self) -> Option<AccountId> {
        match &self.kind {
            Kind::Plain(_) => None,
            Kind::Sealed { person, .. } => Some(*person),
        }
    }

    /// The job; a key is not needed for one that is not sealed.
    ///
    /// # Errors
    /// When it cannot be opened with this key.
    pub fn open(self, key: Option<&QueryKey>) -> Result<Job, Error> {
        match self.kind {
            Kind::Plain(job) => Ok(*job),
            Kind::Sealed {
                subject,
                headers,
                payload,
                ..
            } => {
                let key = key.ok_or(NotOpened)?;
                let text = key.open(&subject, headers.as_ref(), &payload)?;
                Ok(serde_json::from_slice(&text)?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealing::Key;
    use domain::Timestamp;
    use uuid::Uuid;

    const MIA: AccountId = AccountId::new(Uuid::from_u128(1));
    const SUBJECT: &str = "job.any.interactive";

    fn job() -> Job {
        Job {
            query: QueryId::new(Uuid::from_u128(9)),
            owner: MIA,
            text: "Why?".into(),
            operation: "general".into(),
            submitted_at: Timestamp::from_millis(0),
            options: None,
        }
    }

    #[test]
    fn a_sealed_job_says_what_its_key_takes_and_nothing_else() {
        let key = QueryKey::new(MIA, Key::fresh().unwrap());
        let (headers, payload) = message(SUBJECT, &job(), Some(&key)).unwrap();
        let text = format!("{headers:?}{}", String::from_utf8_lossy(&payload));
        assert!(!text.contains("Why?"), "{text}");
        let waiting = Waiting::read(SUBJECT, Some(&headers), &payload).unwrap();
        assert_eq!(
            (waiting.query(), waiting.person()),
            (job().query, Some(MIA))
        );
        assert_eq!(waiting.clone().open(Some(&key)).unwrap(), job());
        for other in [None, Some(&QueryKey::new(MIA, Key::fresh().unwrap()))] {
            let opened = waiting.clone().open(other);
            assert!(matches!(opened, Err(Error::NotOpened(_))), "{opened:?}");
        }
        let elsewhere = Waiting::read("job.other.interactive", Some(&headers), &payload);
        assert!(elsewhere.unwrap().open(Some(&key)).is_err());
        let mut unnamed = HeaderMap::new();
        crate::sealing::mark(&mut unnamed, MIA);
        let unnamed = Waiting::read(SUBJECT, Some(&unnamed), &payload);
        assert!(matches!(unnamed, Err(Error::Unnamed)), "{unnamed:?}");
    }

    #[test]
    fn a_plain_job_needs_no_key() {
        let (headers, payload) = message(SUBJECT, &job(), None).unwrap();
        let waiting = Waiting::read(SUBJECT, Some(&headers), &payload).unwrap();
        assert_eq!((waiting.query(), waiting.person()), (job().query, None));
        assert_eq!(waiting.open(None).unwrap(), job());
        assert!(Waiting::read(SUBJECT, None, &"?".into()).is_err());
    }
}
