//! Lets queries that ended long ago leave the log, so that its server need not keep their subjects
//! in memory. What has left is in the copy, and [`history`] reads it from there.
//!
//! In this order, for some hundred queries at a time: [`due`] finds them in the read model and asks
//! whether anything may still need them in the log; their messages are read from the log and, with
//! all hashes of their segments, from the copy, and have to be the same; a page of the ledger
//! ([`infra::archive::ledger`]) says what leaves; [`notes`] writes that into the database, where it
//! is found by id; after [`Config::settle`], when no command is under way any more that was decided
//! before that, the subjects are purged. A crash between any two steps leaves messages in the log
//! that the ledger says have left. That harms nobody, and the next sweep begins by purging what is
//! on the last page.
//!
//! One instance purges at a time, by a lock in the database. Where two take themselves for it, the
//! object store takes the page of one of them only.

mod due;
pub(crate) mod history;
mod notes;

pub(crate) use notes::Notes;

use async_nats::{Client, jetstream};
use domain::subject;
use due::{Due, Floor};
use futures_util::future::try_join_all;
use infra::{
    archive::{
        Archive, Error as CopyError, Hash, Message, confirm,
        ledger::{self, Anchor, Left, Page},
    },
    clock, config, direct_get, epoch,
    lifecycle::Lifecycle,
    objects::{Bucket, Store},
    telemetry::chain,
};
use serde::Deserialize;
use sqlx::PgPool;
use std::{collections::BTreeMap, time::Duration};
use tracing::{debug, info, warn};
use uuid::Uuid;

/// Queries on one page.
const PAGE: usize = 1_000;
/// Requests to the server of the log at a time.
const AT_ONCE: usize = 8;
/// How often it is looked whether the ledger has grown, by this instance or another.
const LOOK: Duration = Duration::from_secs(5);
/// How often queries are looked for that may leave.
const EVERY: Duration = Duration::from_secs(600);
/// Longer than any command that submits a query may be under way.
const SETTLE: Duration = Duration::from_secs(30);

/// When queries leave the log.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long after its end a query stays.
    pub keep: Duration,
    /// How often queries are looked for that may leave.
    pub every: Duration,
    /// How long before they are purged it is known that they will be: longer than a command may be
    /// under way, so that none comes too late that knew nothing of it.
    pub settle: Duration,
}

impl Config {
    /// With the usual pace.
    pub const fn after(keep: Duration) -> Self {
        Self {
            keep,
            every: EVERY,
            settle: SETTLE,
        }
    }

    /// `LOG_KEEP_DAYS`; `None` where all stay for ever.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn from_env() -> Result<Option<Self>, config::Error> {
        Ok(config::keep_from_env()?.map(Self::after))
    }
}

/// It cannot go on now.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error(transparent)]
    Epoch(#[from] epoch::Error),
    #[error(transparent)]
    Notes(#[from] notes::Error),
    #[error("the database does not answer")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Log(#[from] direct_get::Error),
    #[error("what still needs the log cannot be asked")]
    Needs(#[source] async_nats::Error),
    #[error("the user of NATS_PURGE_URL cannot connect")]
    Connect(#[from] infra::nats::Error),
    #[error(transparent)]
    Stream(#[from] infra::jetstream::Error),
    #[error(
        "LOG_KEEP_DAYS is set, but this log was made without it, and nats-server does not let that \
         be changed: restore it from its copy into new servers"
    )]
    Unbounded,
    #[error("log and copy differ at {0}: nothing leaves the log; `amaima admin verify` tells more")]
    Differs(u64),
    #[error("{subject} is not purged: {reason}")]
    Refused { subject: String, reason: String },
}

/// What it takes.
pub(crate) struct Purger {
    /// When queries leave, if they do.
    pub(crate) config: Option<Config>,
    /// How to reach NATS.
    pub(crate) nats: config::Nats,
    /// To the log, as everybody.
    pub(crate) client: Client,
    /// Where the copy is.
    pub(crate) bucket: Bucket,
    /// To the live generation.
    pub(crate) pool: PgPool,
    /// Is kept up to date with the ledger.
    pub(crate) notes: Notes,
}

impl Purger {
    /// Until the life ends.
    pub(crate) async fn run(self, lifecycle: Lifecycle) {
        tokio::select! {
            () = lifecycle.stopping() => {}
            () = self.follow() => {}
            () = self.purge() => {}
        }
    }

    /// Takes in what other instances have written.
    async fn follow(&self) {
        loop {
            if let Err(error) = self.look().await {
                warn!(
                    error = chain(&error),
                    "the ledger is not read for the moment"
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn look(&self) -> Result<(), Error> {
        let archive = self.archive().await?;
        Ok(self.notes.catch_up(&archive).await?)
    }

    async fn archive(&self) -> Result<Archive, Error> {
        let epoch = epoch::of_log(&self.client).await?;
        Ok(Archive::new(Store::Bucket(self.bucket.clone()), epoch))
    }

    async fn purge(&self) {
        let Some(config) = &self.config else {
            return std::future::pending().await;
        };
        // What was begun before is finished first, by whomever.
        let mut begun = true;
        loop {
            match self.sweep(config, begun).await {
                Ok(()) => {
                    begun = false;
                    tokio::time::sleep(config.every).await;
                }
                Err(error) => {
                    begun = true;
                    warn!(
                        error = chain(&error),
                        "nothing leaves the log for the moment"
                    );
                    tokio::time::sleep(config.every.min(LOOK)).await;
                }
            }
        }
    }

    /// Goes once over all queries; purges the last page again first, if that may be unfinished.
    async fn sweep(&self, config: &Config, begun: bool) -> Result<(), Error> {
        let context = jetstream::new(self.client.clone());
        if !infra::jetstream::is_bounded(&context).await? {
            return Err(Error::Unbounded);
        }
        if !due::has_read_model(&self.pool).await? {
            return Ok(());
        }
        let Some(_lock) = due::lock(&self.pool).await? else {
            debug!("another instance purges the log");
            return Ok(());
        };
        let purging = Purging {
            purger: self,
            archive: self.archive().await?,
            client: self.connect().await?,
            context,
        };
        let mut end = purging.archive.ledger_end().await?;
        if let Some(page) = end.as_ref().filter(|_| begun) {
            self.notes.catch_up(&purging.archive).await?;
            tokio::time::sleep(config.settle).await;
            purging.purge(&page.left).await?;
        }
        let keep = i64::try_from(config.keep.as_millis()).unwrap_or(i64::MAX);
        let mut after = Some(Uuid::nil());
        while let Some(from) = after {
            let before = clock::now().plus_millis(keep.saturating_neg());
            let (found, next) = due::find(&self.pool, from, before).await?;
            after = next;
            for some in found.chunks(PAGE) {
                let Some(page) = purging.write_down(end.as_ref(), some).await? else {
                    continue;
                };
                self.notes.catch_up(&purging.archive).await?;
                tokio::time::sleep(config.settle).await;
                purging.purge(&page.left).await?;
                info!(
                    queries = page.left.len(),
                    page = page.number,
                    altogether = page.aggregates,
                    "queries have left the log"
                );
                end = Some(page);
            }
        }
        Ok(())
    }

    async fn connect(&self) -> Result<Client, Error> {
        let url = self.nats.purge_url.clone();
        let nats = config::Nats {
            url: url.unwrap_or_else(|| self.nats.url.clone()),
            ..self.nats.clone()
        };
        Ok(infra::nats::connect(&nats, "backend-projection-svc-purger").await?)
    }
}

/// One sweep.
struct Purging<'a> {
    purger: &'a Purger,
    archive: Archive,
    /// As the user who may purge.
    client: Client,
    context: jetstream::Context,
}

impl Purging<'_> {
    /// Writes a page of those that may leave; `None` where none may.
    async fn write_down(&self, end: Option<&Page>, due: &[Due]) -> Result<Option<Page>, Error> {
        let Some(tail) = self.archive.tail().await? else {
            return Ok(None);
        };
        let floor = Floor::of(&self.purger.pool, &self.context, tail.last).await?;
        let (mut left, mut hashes) = (Vec::new(), BTreeMap::new());
        let admitted: Vec<&Due> = due.iter().filter(|due| floor.admits(due)).collect();
        for some in admitted.chunks(AT_ONCE) {
            let read = try_join_all(some.iter().map(|due| self.whole(due))).await?;
            for (subject, messages) in read.into_iter().flatten() {
                left.push(Left {
                    subject,
                    seqs: messages.iter().map(|(seq, _)| *seq).collect(),
                });
                hashes.extend(messages);
            }
        }
        if left.is_empty() {
            return Ok(None);
        }
        if let Some(seq) = confirm(&self.archive, &hashes).await? {
            return Err(Error::Differs(seq));
        }
        let copy = Anchor {
            last: tail.last,
            chain: tail.chain,
        };
        let bucket = &self.purger.bucket;
        let page = ledger::extend(bucket, &self.archive, end, left, copy).await?;
        Ok(Some(page))
    }

    /// The subject, and the hashes of its messages by sequence, if all of them are there as the
    /// read model knows them, from the first one on.
    async fn whole(&self, due: &Due) -> Result<Option<(String, Vec<(u64, Hash)>)>, Error> {
        let client = &self.purger.client;
        let found = direct_get::whole(client, subject::EVENTS, &due.subject).await?;
        let mut last = 0;
        let mut hashes = Vec::with_capacity(found.len());
        for stored in found {
            let message = Message::stored(stored);
            if message.expected() != Some(last) {
                warn!(
                    subject = due.subject,
                    seq = message.seq,
                    "it does not follow the commit before: it stays in the log"
                );
                return Ok(None);
            }
            last = message.seq;
            hashes.push((
                last,
                Hash::of(&infra::archive::Record::Message(message).frame()),
            ));
        }
        // The read model, or a replica that answers, may lag behind.
        Ok((last == due.last_seq).then(|| (due.subject.clone(), hashes)))
    }

    async fn purge(&self, left: &[Left]) -> Result<(), Error> {
        for some in left.chunks(AT_ONCE) {
            try_join_all(some.iter().map(|left| self.purge_one(left))).await?;
        }
        Ok(())
    }

    /// Up to its last known commit: should there be another one, it stays and is found by readers.
    async fn purge_one(&self, left: &Left) -> Result<(), Error> {
        let refused = |reason: String| Error::Refused {
            subject: left.subject.clone(),
            reason,
        };
        let last = left.seqs.last().copied().unwrap_or(0);
        let ask = serde_json::json!({ "filter": left.subject, "seq": last + 1 });
        let api = format!("$JS.API.STREAM.PURGE.{}", subject::EVENTS);
        let answer = self.client.request(api, ask.to_string().into()).await;
        let answer = answer.map_err(|error| refused(chain(&error)))?;
        let answer: Answer =
            serde_json::from_slice(&answer.payload).map_err(|error| refused(error.to_string()))?;
        match answer.error {
            None => Ok(()),
            Some(error) => Err(refused(error.description)),
        }
    }
}

/// The server's answer.
#[derive(Deserialize)]
struct Answer {
    error: Option<Described>,
}

#[derive(Deserialize)]
struct Described {
    description: String,
}
