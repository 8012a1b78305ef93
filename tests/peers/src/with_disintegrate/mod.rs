//! The work by `disintegrate` and `disintegrate-postgres`, as their documentation shows it: a
//! `PgEventStore` with JSON, a decision maker without snapshots, and a `PgEventListener` with its
//! notifier that keeps a table.
//!
//! The listener has a pool of its own, as it may run in a process of its own: it would wait behind
//! the commands in theirs. A decision that met a concurrent one is taken again, after a moment that
//! grows; the store reports these as its own error or as PostgreSQL's, depending on the statement.
//!
//! Version 4 reads events only up to the oldest write that is still under way, whoever writes. So a
//! decision may be taken from a state without the command that the same caller has just been told
//! is accepted, and refused by a rule that holds no longer. Nothing wrong can be stored by that, but
//! a refusal has to be treated like a conflict here: no order of this work breaks a rule. Now and
//! then the listener passes an event over, under concurrent writers: the run goes on, and the row
//! that is missing for it is among the faults.

mod decisions;
mod projection;

use crate::{
    contest::{Contestant, Rows, Stored, wait_for_rows},
    database,
    work::{ANSWER, QUESTION, Step, Task},
};
use decisions::{Decide, DomainEvent, Refused};
use disintegrate::{NoSnapshot, serde::json::Json};
use disintegrate_postgres::{
    PgDecisionMaker, PgEventListener, PgEventListenerConfig, PgEventListenerError, PgEventStore,
    RetryAction, decision_maker,
};
use infra::{lifecycle::Lifecycle, retry::Backoff};
use projection::{NAME, Projection, TABLE};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::{
    str::FromStr,
    time::{Duration, Instant},
};

/// How often a decision is taken again.
const ATTEMPTS: u64 = 1_000;
/// Connections of the listener: one for its place, one for its notifications, some for the rows.
const LISTENER_CONNECTIONS: u32 = 4;
/// How often the listener looks without having been notified.
const POLL: Duration = Duration::from_millis(50);
/// PostgreSQL's code for a transaction that cannot be put in line with the others.
const SERIALIZATION_FAILURE: &str = "40001";

type Store = PgEventStore<DomainEvent, Json<DomainEvent>>;
type DecisionMaker = PgDecisionMaker<DomainEvent, Json<DomainEvent>, NoSnapshot>;

/// The decision maker, the listener and their database.
pub struct WithDisintegrate {
    pool: PgPool,
    listener_pool: PgPool,
    decisions: DecisionMaker,
    listener: Lifecycle,
}

impl WithDisintegrate {
    /// In an empty database.
    ///
    /// # Errors
    /// When PostgreSQL does not answer.
    pub async fn start(url: &str, connections: u32) -> anyhow::Result<Self> {
        let pool = database::pool(url, connections).await?;
        let listener_pool = database::pool(url, LISTENER_CONNECTIONS).await?;
        database::execute(&pool, TABLE).await?;
        make_tables(url).await?;
        let store = Store::new_uninitialized(pool.clone(), Json::default());
        Ok(Self {
            decisions: decision_maker(store, NoSnapshot),
            listener: listen(&listener_pool),
            pool,
            listener_pool,
        })
    }
}

/// Has the store make its tables and functions. One of them, in version 4.0.1, has a hexadecimal
/// literal, which PostgreSQL before 16 cannot read; there it is written in decimal and otherwise
/// left as it is.
async fn make_tables(url: &str) -> anyhow::Result<()> {
    let options = PgConnectOptions::from_str(url)?.options([("check_function_bodies", "off")]);
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_with(options)
        .await?;
    Store::try_new(pool.clone(), Json::default()).await?;
    let made: String =
        sqlx::query_scalar("SELECT pg_get_functiondef('event_store_begin_epoch'::regproc)")
            .fetch_one(&pool)
            .await?;
    let readable = made.replace("0xFFFFFFFF", "4294967295");
    database::execute(&pool, &readable).await?;
    pool.close().await;
    Ok(())
}

/// Starts the listener; it ends with the life that is returned.
fn listen(pool: &PgPool) -> Lifecycle {
    let life = Lifecycle::new();
    let store = Store::new_uninitialized(pool.clone(), Json::default());
    let config = PgEventListenerConfig::poller(POLL)
        .with_notifier()
        .with_retry(again);
    let listener =
        PgEventListener::builder(store).register_listener(Projection::new(pool.clone()), config);
    let stopping = life.soft();
    life.spawn("listener", async move {
        let ended = listener
            .start_with_shutdown(stopping.cancelled_owned())
            .await;
        if let Err(error) = ended {
            crate::say(&format!("disintegrate's listener: {error}"));
        }
    });
    life
}

/// Without it the listener ends for good at the first error.
fn again(_: PgEventListenerError<sqlx::Error>, _: usize) -> RetryAction {
    RetryAction::Wait {
        duration: Duration::from_millis(10),
    }
}

impl Contestant for WithDisintegrate {
    async fn give(&self, task: &Task, step: Step) -> anyhow::Result<u64> {
        let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(20));
        for conflicts in 0..ATTEMPTS {
            let decision = Decide {
                step,
                task: task.clone(),
                at: infra::clock::now().as_millis(),
            };
            match self.decisions.make(decision).await {
                Ok(_) => return Ok(conflicts),
                Err(error) if is_conflict(&error) => backoff.wait().await,
                Err(error) => return Err(error.into()),
            }
        }
        anyhow::bail!("a conflict {ATTEMPTS} times")
    }

    async fn completed(&self) -> anyhow::Result<u64> {
        database::count(
            &self.pool,
            "SELECT count(*) FROM query_row WHERE status = 'completed'",
        )
        .await
    }

    async fn stored(&self) -> anyhow::Result<Stored> {
        database::stored(&self.pool, "event", "query_id").await
    }

    async fn rows(&self) -> anyhow::Result<Rows> {
        let query = format!(
            "SELECT count(*), count(*) FILTER (WHERE status = 'completed'
                 AND length(query) = {QUESTION} AND length(response_text) = {ANSWER}
                 AND started_at IS NOT NULL AND completed_at IS NOT NULL)
             FROM query_row"
        );
        database::rows(&self.pool, &query).await
    }

    /// As the documentation has it: the listener's place is set back.
    async fn rebuild(&mut self, expected: u64) -> anyhow::Result<Duration> {
        self.listener.stop(Duration::from_secs(30)).await;
        database::execute(&self.pool, "TRUNCATE query_row").await?;
        sqlx::query("UPDATE event_listener SET last_processed_event_id = 0 WHERE id = $1")
            .bind(NAME)
            .execute(&self.pool)
            .await?;
        let began = Instant::now();
        self.listener = listen(&self.listener_pool);
        wait_for_rows(self, expected).await?;
        Ok(began.elapsed())
    }

    async fn stop(self) {
        self.listener.stop(Duration::from_secs(30)).await;
        self.listener_pool.close().await;
        self.pool.close().await;
    }
}

/// Whether the decision may come out otherwise when it is taken again.
fn is_conflict(error: &disintegrate::DecisionError<Refused>) -> bool {
    use disintegrate::DecisionError::{Domain, EventStore, StateStore};
    let cause = match error {
        EventStore(cause) | StateStore(cause) => cause,
        Domain(_) => return true,
    };
    match cause.downcast_ref::<disintegrate_postgres::Error>() {
        Some(disintegrate_postgres::Error::Concurrency) => true,
        Some(disintegrate_postgres::Error::Database(sqlx::Error::Database(refusal))) => {
            refusal.code().as_deref() == Some(SERIALIZATION_FAILURE)
        }
        Some(_) | None => false,
    }
}
