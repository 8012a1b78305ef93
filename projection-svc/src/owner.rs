//! The right to write, of which there is one for the live generation and one for building.
//!
//! Ownership is a PostgreSQL advisory lock, held by the *control* connection. Each lane writes over
//! a connection that holds a lock of its own, and a new owner begins when the lane locks of the one
//! before are free: whoever has lost the lock has lost the means to write.
//!
//! A killed owner's sessions end with its sockets, and a standby has the lock at its next try
//! ([`POLL`]). An owner that hangs, or whose machine is gone, keeps its sessions; so it has to say
//! something over the control connection at least every [`LEASE`], or a standby has the server
//! end its sessions. Without a standby nobody does that, and nobody needs it.

use crate::generation::{self, Meta, Slot};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// How often a standby tries for the lock.
const POLL: Duration = Duration::from_millis(100);
/// How often an owner has to say something.
pub(crate) const BEAT: Duration = Duration::from_millis(500);
/// After this much silence a standby takes over.
const LEASE: Duration = Duration::from_secs(3);
/// How often a standby looks how long the owner has been silent.
const LOOK: Duration = Duration::from_millis(500);
/// Longest wait for the database's answer to a small question.
const ANSWER: Duration = Duration::from_secs(10);
/// How long the lane locks of the owner before may take to become free once its sessions are told
/// to end: a statement in work ends first.
const LANES_FREE: Duration = Duration::from_secs(30);

/// First half of the keys of our advisory locks; the second is the role's in the upper bits, and 0
/// for the control connection or the lane's number and 1.
const SPACE: i32 = 0x616d_6169;

/// The lock of whoever purges the log.
const PURGE: i32 = 2 << 16;

/// What is owned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// To write the live generation.
    Live,
    /// To write one that may become live.
    Build,
}

impl Role {
    /// For logs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Build => "build",
        }
    }

    const fn key(self) -> i32 {
        match self {
            Self::Live => 0,
            Self::Build => 1 << 16,
        }
    }
}

/// The database does not let us.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It is not there.
    #[error("the database cannot be reached")]
    Connect(#[source] sqlx::Error),
    /// It does not answer.
    #[error("the database has not answered in time")]
    Silent,
    /// It answers with an error.
    #[error("the database does not do as asked")]
    Database(#[from] sqlx::Error),
    /// The generation that we own is another now, or is not wanted any more.
    #[error("the generation is gone")]
    Gone,
    /// Somebody still holds the lane.
    #[error("lane {lane} is still held by a session of the owner before")]
    Held {
        /// Which.
        lane: usize,
    },
}

/// The right to write.
pub(crate) struct Ownership {
    role: Role,
    database: PgConnectOptions,
    control: PgConnection,
}

impl Ownership {
    /// Waits until nobody else owns it. Dropping the future gives up.
    pub(crate) async fn acquire(role: Role, database: &PgConnectOptions) -> Result<Self, Error> {
        let mut control = connect(database).await?;
        let mut looked = Instant::now();
        let mut announced = false;
        while !in_time(try_lock(&mut control, role.key())).await? {
            if !announced {
                info!(role = role.name(), "standing by: another instance writes");
                announced = true;
            }
            if looked.elapsed() > LOOK {
                looked = Instant::now();
                let ended = in_time(end_silent(&mut control, role)).await?;
                if ended > 0 {
                    warn!(
                        role = role.name(),
                        silent_ms = LEASE.as_millis(),
                        "the owner has been silent for too long: its session is ended"
                    );
                }
            }
            tokio::time::sleep(POLL).await;
        }
        let ended = in_time(end_lanes(&mut control, role)).await?;
        if ended > 0 {
            info!(
                role = role.name(),
                ended, "lanes of the owner before are ended"
            );
        }
        Ok(Self {
            role,
            database: database.clone(),
            control,
        })
    }

    /// Opens the connection of one lane, to write into this schema.
    pub(crate) async fn lane(&self, lane: usize, schema: &str) -> Result<PgConnection, Error> {
        let mut options = self.database.clone().options([
            ("search_path", schema),
            ("idle_in_transaction_session_timeout", "30s"),
            ("jit", "off"),
        ]);
        if self.role == Role::Build {
            // A crash of the server takes whole transactions, rows with their checkpoint, and
            // they are projected again.
            options = options.options([("synchronous_commit", "off")]);
        }
        let key = self.role.key() + i32::try_from(lane).unwrap_or(0) + 1;
        let begun = Instant::now();
        let mut connection = connect(&options).await?;
        while !in_time(try_lock(&mut connection, key)).await? {
            if begun.elapsed() > LANES_FREE {
                return Err(Error::Held { lane });
            }
            tokio::time::sleep(POLL / 5).await;
        }
        Ok(connection)
    }

    /// The control connection, for what is done between chunks.
    pub(crate) fn control(&mut self) -> &mut PgConnection {
        &mut self.control
    }

    /// Tells the standbys that this owner lives, and finds out whether it still is the owner.
    pub(crate) async fn beat(&mut self) -> Result<(), Error> {
        in_time(async {
            sqlx::query("SELECT")
                .execute(&mut self.control)
                .await
                .map(|_| ())
        })
        .await
    }

    /// The same, with a look at a generation.
    pub(crate) async fn look(&mut self, slot: Slot) -> Result<Option<Meta>, Error> {
        in_time(generation::look(&mut self.control, slot)).await
    }

    /// Gives the lock back.
    pub(crate) async fn release(self) {
        // Where that fails the connection is gone, and the lock with it.
        self.control.close().await.ok();
    }
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, Error> {
    tokio::time::timeout(ANSWER, PgConnection::connect_with(options))
        .await
        .map_err(|_| Error::Silent)?
        .map_err(Error::Connect)
}

/// Takes the right to purge the log, for as long as this connection lasts, if nobody has it.
pub(crate) async fn try_purge(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    try_lock(connection, PURGE).await
}

async fn try_lock(connection: &mut PgConnection, key: i32) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_try_advisory_lock($1, $2)")
        .bind(SPACE)
        .bind(key)
        .fetch_one(connection)
        .await
}

/// Ends the session of an owner that has not said anything within its lease. Two numbers as the
/// key of a lock are `classid` and `objid` in the list of locks, with `objsubid` 2.
async fn end_silent(connection: &mut PgConnection, role: Role) -> Result<usize, sqlx::Error> {
    let ended: Vec<bool> = sqlx::query_scalar(
        "SELECT pg_terminate_backend(pid)
         FROM pg_locks JOIN pg_stat_activity USING (pid)
         WHERE locktype = 'advisory' AND granted AND pg_locks.database =
                   (SELECT oid FROM pg_database WHERE datname = current_database())
           AND classid::bigint = $1 AND objid::bigint = $2 AND objsubid = 2
           AND clock_timestamp() - state_change > make_interval(secs => $3)
           AND pid <> pg_backend_pid()",
    )
    .bind(i64::from(SPACE))
    .bind(i64::from(role.key()))
    .bind(LEASE.as_secs_f64())
    .fetch_all(connection)
    .await?;
    Ok(ended.len())
}

/// Ends the sessions that hold lanes of an owner before.
async fn end_lanes(connection: &mut PgConnection, role: Role) -> Result<usize, sqlx::Error> {
    let ended: Vec<bool> = sqlx::query_scalar(
        "SELECT pg_terminate_backend(pid)
         FROM pg_locks
         WHERE locktype = 'advisory' AND granted AND database =
                   (SELECT oid FROM pg_database WHERE datname = current_database())
           AND classid::bigint = $1 AND objid::bigint BETWEEN $2 AND $3 AND objsubid = 2
           AND pid <> pg_backend_pid()",
    )
    .bind(i64::from(SPACE))
    .bind(i64::from(role.key()) + 1)
    .bind(i64::from(role.key()) + 0xffff)
    .fetch_all(connection)
    .await?;
    Ok(ended.len())
}

async fn in_time<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(ANSWER, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Error::Silent),
    }
}
