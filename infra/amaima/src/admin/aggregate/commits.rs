use super::{Connection, Error};
use async_nats::header;
use bytes::Bytes;
use domain::{
    Timestamp,
    subject::{self, Aggregate, Kind},
};
use infra::{
    direct_get::{self, Stored},
    jetstream, purged,
    sealing::Opened,
};
use uuid::Uuid;

/// The aggregate that was asked for.
#[derive(Debug)]
pub(super) struct Named {
    pub aggregate: Aggregate,
    pub subject: String,
}

impl Named {
    /// From kind and id, or from a subject of the log.
    pub fn parse(words: &[String]) -> Result<Self, Error> {
        let kinds = || Kind::ALL.map(Kind::as_str).join(", ");
        let aggregate = match words {
            [subject] => Aggregate::parse(subject).ok_or_else(|| {
                Error::Unknown(format!(
                    "{subject:?} is no subject of the log; give `ev.<part>.<kind>.<id>`, or a kind ({}) and an id",
                    kinds()
                ))
            })?,
            [kind, id] => {
                let kind = Kind::ALL
                    .into_iter()
                    .find(|known| known.as_str() == kind)
                    .ok_or_else(|| {
                        let kinds = kinds();
                        Error::Unknown(format!("there is no kind {kind:?}, only {kinds}"))
                    })?;
                let id = Uuid::try_parse(id)
                    .map_err(|_| Error::Unknown(format!("{id:?} is no id: a UUID is needed")))?;
                Aggregate::new(kind, id)
            }
            _ => return Err(Error::Unknown("give a kind and an id".to_owned())),
        };
        Ok(Self {
            subject: aggregate.subject(),
            aggregate,
        })
    }
}

/// One commit of an aggregate.
#[derive(Debug)]
pub(super) struct Commit {
    pub stored: Stored,
    /// Whether its person was erased, so that nobody can read it; the payload is empty then.
    pub erased: bool,
    /// When the server stored it.
    pub at: Option<Timestamp>,
}

impl Commit {
    /// A header's text.
    pub fn header(&self, name: &str) -> Option<String> {
        self.stored.headers.get(name).map(ToString::to_string)
    }
}

/// All commits of an aggregate, of which there must be one.
pub(super) async fn read(connection: &Connection, named: &Named) -> Result<Vec<Commit>, Error> {
    let history = format!("the history of {}", named.subject);
    let mut stored = direct_get::subject(&connection.client, subject::EVENTS, &named.subject, 1)
        .await
        .map_err(Error::failed(history.clone()))?;
    let is_bounded = jetstream::is_bounded(&connection.context).await;
    if stored.is_empty() && is_bounded.map_err(Error::failed(history.clone()))? {
        let left = purged::history(&connection.client, &named.subject).await;
        stored = left.map_err(Error::failed(history))?;
    }
    if stored.is_empty() {
        return Err(Error::Unknown(format!(
            "the log has no {} {}",
            named.aggregate.kind.as_str(),
            named.aggregate.id
        )));
    }
    let mut commits = Vec::with_capacity(stored.len());
    for mut stored in stored {
        let at = stored.headers.get(header::NATS_TIME_STAMP);
        let at = at.and_then(|at| Timestamp::parse(at.as_str()).ok());
        let headers = Some(&stored.headers);
        let opened = connection
            .keys
            .open(&named.subject, headers, &stored.payload)
            .await
            .map_err(Error::failed(format!("the commit {}", stored.seq)))?;
        let erased = opened == Opened::Erased;
        stored.payload = match opened {
            Opened::Text(payload) => payload,
            Opened::Erased => Bytes::new(),
        };
        commits.push(Commit { stored, erased, at });
    }
    Ok(commits)
}
