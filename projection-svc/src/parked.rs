//! Commits that could not be projected, and what people do about them: try again, or leave one out.
//!
//! Each command is tried in a transaction of its own, together with the removal of its commits from
//! the list, in the order of the log. All this happens over a lane's connection between two chunks,
//! so that no later commit overtakes.

use crate::{
    commit::{self, Commit, Raw},
    instant::Instant,
    projector::Source,
    view::{Batch, signed},
    write,
};
use async_nats::{HeaderMap, jetstream::stream::DirectGetErrorKind};
use bytes::Bytes;
use domain::{
    subject,
    wire::admin::{self, Reply},
};
use infra::{
    archive::{self, Archive},
    epoch,
    objects::Store,
    telemetry::chain,
};
use sqlx::{Connection, PgConnection};
use std::{collections::BTreeSet, time::Duration};
use tokio::sync::oneshot;
use tracing::warn;
use uuid::Uuid;

/// Most commits of one order, which holds the projection up; the answer tells how many are left.
const MOST: u64 = 1000;
/// Most failures that one answer tells.
const FAILURES: usize = 20;
/// Longest wait for one of them from the log.
const ANSWER: Duration = Duration::from_secs(5);

/// What somebody wants done.
pub(crate) struct Order {
    /// What.
    pub(crate) action: Action,
    /// Is told what came of it.
    pub(crate) reply: oneshot::Sender<Reply>,
}

/// What can be done.
#[derive(Debug)]
pub(crate) enum Action {
    /// Project those of an aggregate after all, or all.
    Retry {
        /// The aggregate.
        subject: Option<String>,
    },
    /// Leave one out, then project those that waited for it.
    Skip {
        /// Which.
        seq: u64,
        /// Who decided.
        who: String,
        /// For what reason.
        why: String,
    },
}

/// Where the commits are.
#[derive(Clone)]
pub(crate) struct Log(pub(crate) Source);

/// A row of the list.
#[derive(Clone, Debug, sqlx::FromRow)]
struct Row {
    seq: i64,
    subject: String,
    reason: String,
    at: Instant,
}

impl Row {
    fn told(self) -> admin::Parked {
        admin::Parked {
            seq: u64::try_from(self.seq).unwrap_or(0),
            subject: self.subject,
            reason: self.reason,
            at: self.at.0,
        }
    }
}

/// A page of the list, with the number of all.
pub(crate) async fn list(
    connection: &mut PgConnection,
    after: u64,
    limit: u32,
) -> Result<(Vec<admin::Parked>, u64), sqlx::Error> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT seq, subject, reason, at FROM parked WHERE seq > $1 ORDER BY seq LIMIT $2",
    )
    .bind(signed(after))
    .bind(i64::from(limit.clamp(1, 500)))
    .fetch_all(&mut *connection)
    .await?;
    Ok((
        rows.into_iter().map(Row::told).collect(),
        count(connection).await?,
    ))
}

async fn count(connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM parked")
        .fetch_one(connection)
        .await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Does what somebody wants, and tells them. An error ends the ownership.
pub(crate) async fn settle(
    order: Order,
    generation: i64,
    connection: &mut PgConnection,
    log: &Log,
) -> Result<(), write::Error> {
    let Order { action, reply } = order;
    let settling = Settling {
        generation,
        connection,
        log,
        projected: 0,
        failed: Vec::new(),
    };
    let answer = match action {
        Action::Retry {
            subject: Some(subject),
        } => settling.one(&subject).await,
        Action::Retry { subject: None } => settling.all().await,
        Action::Skip { seq, who, why } => settling.skip(seq, &who, &why).await,
    };
    let (answer, failed) = match answer {
        Ok(answer) => (answer, Ok(())),
        Err(error) => {
            let reason = chain(&error);
            (Reply::Unavailable { reason }, Err(error))
        }
    };
    // Whoever asked may have gone.
    reply.send(answer).ok();
    failed
}

struct Settling<'a> {
    generation: i64,
    connection: &'a mut PgConnection,
    log: &'a Log,
    projected: u64,
    failed: Vec<admin::Parked>,
}

impl Settling<'_> {
    async fn told(self) -> Result<Reply, write::Error> {
        Ok(Reply::Retried {
            projected: self.projected,
            left: count(self.connection).await?,
            failed: self.failed,
        })
    }

    async fn one(mut self, subject: &str) -> Result<Reply, write::Error> {
        let mut related = BTreeSet::from([subject.to_owned()]);
        self.retry(&mut related).await?;
        self.told().await
    }

    /// Every aggregate in turn; where one fails the others still get their try.
    async fn all(mut self) -> Result<Reply, write::Error> {
        let mut tried = BTreeSet::new();
        while self.projected < MOST && self.failed.len() < FAILURES {
            let tried_so_far: Vec<&str> = tried.iter().map(String::as_str).collect();
            let next: Option<String> = sqlx::query_scalar(
                "SELECT subject FROM parked WHERE subject <> ALL($1) ORDER BY seq LIMIT 1",
            )
            .bind(tried_so_far)
            .fetch_optional(&mut *self.connection)
            .await?;
            let Some(next) = next else { break };
            let mut related = BTreeSet::from([next]);
            self.retry(&mut related).await?;
            tried.extend(related);
        }
        self.told().await
    }

    async fn skip(mut self, seq: u64, who: &str, why: &str) -> Result<Reply, write::Error> {
        let mut transaction = self.connection.begin().await?;
        let skipped: Option<(String, Option<Uuid>)> = sqlx::query_as(
            "WITH gone AS (DELETE FROM parked WHERE seq = $1 RETURNING *)
             INSERT INTO skipped (seq, subject, command, reason, parked_at, who, why)
             SELECT seq, subject, command, reason, at, $2, $3 FROM gone
             RETURNING subject, command",
        )
        .bind(signed(seq))
        .bind(who)
        .bind(why)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some((subject, command)) = skipped else {
            let reason = format!("no commit {seq} is parked");
            return Ok(Reply::Refused { reason });
        };
        fence(&mut transaction, self.generation).await?;
        transaction.commit().await?;
        warn!(
            seq,
            subject, who, why, "a parked commit is left out for good"
        );
        // The rest of its command waited for it as well.
        let rest: Vec<String> =
            sqlx::query_scalar("SELECT DISTINCT subject FROM parked WHERE command = $1")
                .bind(command)
                .fetch_all(&mut *self.connection)
                .await?;
        let mut related: BTreeSet<String> = rest.into_iter().chain([subject]).collect();
        self.retry(&mut related).await?;
        self.told().await
    }

    /// Tries the parked commits of these aggregates, and of those with which they share commands,
    /// until one fails.
    async fn retry(&mut self, related: &mut BTreeSet<String>) -> Result<(), write::Error> {
        loop {
            let subjects: Vec<&str> = related.iter().map(String::as_str).collect();
            let more: Vec<String> = sqlx::query_scalar(
                "SELECT DISTINCT other.subject FROM parked
                 JOIN parked AS other USING (command)
                 WHERE parked.subject = ANY($1) AND other.subject <> ALL($1)
                 LIMIT 100",
            )
            .bind(subjects)
            .fetch_all(&mut *self.connection)
            .await?;
            if more.is_empty() {
                break;
            }
            related.extend(more);
        }
        while self.projected < MOST {
            let subjects: Vec<&str> = related.iter().map(String::as_str).collect();
            let rows: Vec<Row> = sqlx::query_as(
                "WITH first AS (
                     SELECT * FROM parked WHERE subject = ANY($1) ORDER BY seq LIMIT 1)
                 SELECT parked.seq, parked.subject, parked.reason, parked.at
                 FROM parked, first
                 WHERE parked.seq = first.seq OR parked.command = first.command
                 ORDER BY parked.seq",
            )
            .bind(subjects)
            .fetch_all(&mut *self.connection)
            .await?;
            if rows.is_empty() {
                break;
            }
            let count = rows.len() as u64;
            match self.command(&rows).await? {
                Ok(()) => self.projected += count,
                Err((row, reason)) => {
                    sqlx::query("UPDATE parked SET reason = $2 WHERE seq = $1")
                        .bind(row.seq)
                        .bind(reason.replace('\0', "\u{fffd}"))
                        .execute(&mut *self.connection)
                        .await?;
                    self.failed.push(Row { reason, ..row }.told());
                    break;
                }
            }
        }
        Ok(())
    }

    /// Projects one command, or tells which of its commits fails and why.
    async fn command(&mut self, rows: &[Row]) -> Result<Result<(), (Row, String)>, write::Error> {
        let mut commits = Vec::with_capacity(rows.len());
        for row in rows {
            match self.log.commit(row).await {
                Ok(commit) => commits.push(commit),
                Err(reason) => return Ok(Err((row.clone(), reason))),
            }
        }
        let mut batch = Batch::new();
        for (row, commit) in rows.iter().zip(&commits) {
            let events = match &commit.events {
                Ok(events) => events,
                Err(reason) => return Ok(Err((row.clone(), reason.clone()))),
            };
            if let Err(error) = batch.apply(events, commit.seq, &commit.seal) {
                return Ok(Err((row.clone(), chain(&error))));
            }
        }
        let mut transaction = self.connection.begin().await?;
        match batch.write(&mut transaction).await {
            Ok(()) => {}
            Err(error) if error.is_poison() => {
                return Ok(Err((rows[0].clone(), chain(&error))));
            }
            Err(error) => return Err(write::Error::Rows(error)),
        }
        let seqs: Vec<i64> = rows.iter().map(|row| row.seq).collect();
        sqlx::query("DELETE FROM parked WHERE seq = ANY($1)")
            .bind(seqs)
            .execute(&mut *transaction)
            .await?;
        fence(&mut transaction, self.generation).await?;
        transaction.commit().await?;
        Ok(Ok(()))
    }
}

/// The last statement of a transaction: stops it where the tables are another generation's.
async fn fence(connection: &mut PgConnection, generation: i64) -> Result<(), write::Error> {
    let done = sqlx::query(
        "UPDATE checkpoint SET updated_at = clock_timestamp() WHERE lane = 0 AND generation = $1",
    )
    .bind(generation)
    .execute(connection)
    .await?;
    if done.rows_affected() == 0 {
        return Err(write::Error::Fenced { generation });
    }
    Ok(())
}

impl Log {
    /// Reads a commit again, or tells why it cannot be read.
    async fn commit(&self, row: &Row) -> Result<Commit, String> {
        let seq = u64::try_from(row.seq).unwrap_or(0);
        let (headers, payload) = tokio::time::timeout(ANSWER, self.get(seq, &row.subject))
            .await
            .unwrap_or_else(|_| Err("the log does not answer".to_owned()))?;
        let raw = Raw {
            seq,
            subject: &row.subject,
            headers: Some(&headers),
            payload: &payload,
        };
        let read = commit::read_all(&self.0.keys, &[raw]).await;
        let mut read = read.map_err(|error| chain(&error))?;
        read.pop().ok_or_else(|| "it is not there".to_owned())
    }

    /// From the log or, where it is not there any more, from the copy.
    async fn get(&self, seq: u64, subject: &str) -> Result<(HeaderMap, Bytes), String> {
        let source = &self.0;
        let stream = source.context.get_stream_no_info(subject::EVENTS).await;
        let stream = stream.map_err(|error| chain(&error))?;
        let missing = match stream.direct_get(seq).await {
            Ok(message) => return Ok((message.headers, message.payload)),
            Err(error) if error.kind() != DirectGetErrorKind::NotFound => {
                return Err(chain(&error));
            }
            Err(error) => chain(&error),
        };
        let Some(bucket) = &source.archive else {
            return Err(missing);
        };
        let epoch = epoch::of_log(&source.client).await;
        let epoch = epoch.map_err(|error| chain(&error))?;
        let copy = Archive::new(Store::Bucket(bucket.clone()), epoch);
        match archive::message(&copy, seq).await {
            Ok(Some(found)) if found.subject == subject => Ok((found.header_map(), found.payload)),
            Ok(_) => Err(missing),
            Err(error) => Err(chain(&error)),
        }
    }
}
