//! The one writer of a projection.
//!
//! Ownership is an advisory lock, and rows are written over the very connection that holds it:
//! whoever has lost the lock has lost the means to write. The checkpoint, which moves only from
//! the value that the owner knows, says the same once more.

use crate::{
    commit::Commit,
    view::{self, Batch, signed},
};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use std::{collections::HashSet, time::Duration};
use tokio::sync::watch;
use tracing::{error, info};

/// How often a standby looks at the checkpoint and tries for the lock.
const POLL: Duration = Duration::from_millis(100);
/// Longest wait for the database's answer; an answer later than this counts as none.
const ANSWER: Duration = Duration::from_secs(30);
/// The server ends an owner's session, and with it the lock, after this much silence.
const SILENCE: &str = "30s";
/// Why later commits of a parked aggregate are parked.
const AFTER_PARKED: &str = "an earlier commit of this aggregate is parked";

/// The rows cannot be written now, or no longer by us.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The database is not there.
    #[error("the database cannot be reached")]
    Connect(#[source] sqlx::Error),
    /// The database does not answer.
    #[error("the database has not answered in time")]
    Silent,
    /// Checkpoint or parked commits cannot be read or written.
    #[error("the checkpoint cannot be read or written")]
    Checkpoint(#[from] sqlx::Error),
    /// The rows cannot be written.
    #[error(transparent)]
    Rows(#[from] view::Error),
    /// Somebody else has moved the checkpoint.
    #[error("the checkpoint is no longer at {expected}: somebody else writes")]
    NotTheOwner {
        /// Where we left it.
        expected: u64,
    },
}

/// The right to write a projection.
pub(crate) struct Owner {
    projection: &'static str,
    connection: PgConnection,
    checkpoint: u64,
    parked: HashSet<String>,
    report: watch::Sender<u64>,
}

impl Owner {
    /// Waits until nobody else owns the projection; meanwhile `report` follows the checkpoint.
    pub(crate) async fn acquire(
        projection: &'static str,
        database: &PgConnectOptions,
        report: watch::Sender<u64>,
    ) -> Result<Self, Error> {
        let options = database.clone().options([
            ("idle_session_timeout", SILENCE),
            ("idle_in_transaction_session_timeout", SILENCE),
        ]);
        let connection = in_time(async {
            PgConnection::connect_with(&options)
                .await
                .map_err(Error::Connect)
        });
        let mut owner = Self {
            projection,
            connection: connection.await?,
            checkpoint: 0,
            parked: HashSet::new(),
            report,
        };
        let mut announced = false;
        while !in_time(owner.try_lock()).await? {
            if !announced {
                info!(projection, "standing by: another instance writes");
                announced = true;
            }
            tokio::time::sleep(POLL).await;
        }
        in_time(owner.begin()).await?;
        info!(
            projection,
            seq = owner.checkpoint,
            parked = owner.parked.len(),
            "owning the projection"
        );
        Ok(owner)
    }

    /// Sequence of the last commit that the rows reflect.
    pub(crate) const fn checkpoint(&self) -> u64 {
        self.checkpoint
    }

    async fn try_lock(&mut self) -> Result<bool, Error> {
        let (locked, seq): (bool, Option<i64>) = sqlx::query_as(
            "SELECT pg_try_advisory_lock(hashtextextended('amaima.projection.' || $1, 0)),
                    (SELECT seq FROM checkpoint WHERE projection = $1)",
        )
        .bind(self.projection)
        .fetch_one(&mut self.connection)
        .await?;
        self.reached(unsigned(seq.unwrap_or(0)));
        Ok(locked)
    }

    /// Reads what the last owner has left. It may have written until its lock was free, so that
    /// what came with the lock is not good enough.
    async fn begin(&mut self) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO checkpoint (projection, seq) VALUES ($1, 0) ON CONFLICT DO NOTHING",
        )
        .bind(self.projection)
        .execute(&mut self.connection)
        .await?;
        let seq: i64 = sqlx::query_scalar("SELECT seq FROM checkpoint WHERE projection = $1")
            .bind(self.projection)
            .fetch_one(&mut self.connection)
            .await?;
        let parked: Vec<String> = sqlx::query_scalar("SELECT DISTINCT subject FROM parked")
            .fetch_all(&mut self.connection)
            .await?;
        self.parked = parked.into_iter().collect();
        self.reached(unsigned(seq));
        Ok(())
    }

    fn reached(&mut self, seq: u64) {
        self.checkpoint = seq;
        self.report.send_if_modified(|known| {
            let moved = *known != seq;
            *known = seq;
            moved
        });
    }

    /// Makes sure that the connection, and with it the lock, is still there.
    pub(crate) async fn ping(&mut self) -> Result<(), Error> {
        in_time(async { Ok(self.connection.ping().await?) }).await
    }

    /// Gives the lock back.
    pub(crate) async fn release(self) {
        // Where that fails the connection is gone, and the lock with it.
        self.connection.close().await.ok();
    }

    /// Writes the rows of a batch of commits that follow the checkpoint without a gap.
    ///
    /// Where the database does not take them because of what they say, the batch is halved until
    /// the commit at fault stands alone and can be parked.
    pub(crate) async fn apply(&mut self, commits: &[Commit]) -> Result<(), Error> {
        let mut stack = vec![commits];
        while let Some(commits) = stack.pop() {
            match in_time(self.write(commits, None)).await {
                Ok(()) => {}
                Err(Error::Rows(error)) if error.is_poison() && commits.len() > 1 => {
                    let (first, rest) = commits.split_at(commits.len() / 2);
                    stack.extend([rest, first]);
                }
                Err(Error::Rows(error)) if error.is_poison() => {
                    let reason = infra::telemetry::chain(&error);
                    in_time(self.write(commits, Some(&reason))).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// One transaction: rows, parked commits, checkpoint. With `poison` nothing but parks.
    async fn write(&mut self, commits: &[Commit], poison: Option<&str>) -> Result<(), Error> {
        let Some(last) = commits.last().map(|commit| commit.seq) else {
            return Ok(());
        };
        let mut batch = Batch::new();
        let mut parked = Vec::new();
        for commit in commits {
            match self.fate(commit, &parked, poison) {
                Ok(events) => batch
                    .apply(events, commit.seq)
                    .map_err(view::Error::Contradiction)?,
                Err(reason) => parked.push(Parked { commit, reason }),
            }
        }
        let mut transaction = self.connection.begin().await?;
        batch.write(&mut transaction).await?;
        if !parked.is_empty() {
            park(&parked, &mut transaction).await?;
        }
        let moved = sqlx::query(
            "UPDATE checkpoint SET seq = $1, updated_at = now()
             WHERE projection = $2 AND seq = $3",
        )
        .bind(signed(last))
        .bind(self.projection)
        .bind(signed(self.checkpoint))
        .execute(&mut *transaction)
        .await?;
        if moved.rows_affected() == 0 {
            return Err(Error::NotTheOwner {
                expected: self.checkpoint,
            });
        }
        transaction.commit().await?;
        for Parked { commit, reason } in parked {
            error!(
                seq = commit.seq,
                subject = commit.subject,
                reason,
                "a commit cannot be projected and is parked"
            );
            self.parked.insert(commit.subject.clone());
        }
        self.reached(last);
        Ok(())
    }

    /// The events of a commit, or why it is parked.
    fn fate<'a>(
        &self,
        commit: &'a Commit,
        parked: &[Parked<'_>],
        poison: Option<&'a str>,
    ) -> Result<&'a crate::commit::Events, &'a str> {
        let is_parked = self.parked.contains(&commit.subject)
            || parked
                .iter()
                .any(|earlier| earlier.commit.subject == commit.subject);
        if is_parked {
            return Err(AFTER_PARKED);
        }
        match poison {
            Some(reason) => Err(reason),
            None => commit.events.as_ref().map_err(String::as_str),
        }
    }
}

/// A commit that cannot be projected.
struct Parked<'a> {
    commit: &'a Commit,
    reason: &'a str,
}

async fn park(parked: &[Parked<'_>], connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let column = |value: fn(&Parked<'_>) -> String| parked.iter().map(value).collect::<Vec<_>>();
    let seqs: Vec<i64> = parked.iter().map(|each| signed(each.commit.seq)).collect();
    sqlx::query(
        "INSERT INTO parked (seq, subject, reason)
         SELECT * FROM UNNEST($1::bigint[], $2::text[], $3::text[])",
    )
    .bind(seqs)
    .bind(column(|each| each.commit.subject.clone()))
    .bind(column(|each| each.reason.replace('\0', "\u{fffd}")))
    .execute(connection)
    .await?;
    Ok(())
}

async fn in_time<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(ANSWER, work)
        .await
        .unwrap_or(Err(Error::Silent))
}

fn unsigned(seq: i64) -> u64 {
    u64::try_from(seq).unwrap_or(0)
}
