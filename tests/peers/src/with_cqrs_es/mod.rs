//! The work by `cqrs-es` and `postgres-es`, as their guide shows it: `postgres_cqrs` over an event
//! store without snapshots, and a `GenericQuery` over a `PostgresViewRepository`.
//!
//! The framework updates the view before a command returns, in a transaction after that of the
//! events. So a command's time is the time of both, and a crash between them leaves a view that
//! nobody mends.

mod aggregate;
mod view;

use crate::{
    contest::{Contestant, Rows, Stored, wait_for_rows},
    database,
    work::{ANSWER, QUESTION, Step, Task},
};
use aggregate::{Command, Query};
use cqrs_es::{
    AggregateError,
    persist::{GenericQuery, QueryReplay},
};
use postgres_es::{PostgresCqrs, PostgresEventRepository, PostgresViewRepository, postgres_cqrs};
use sqlx::PgPool;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use view::QueryView;

/// The tables, as the crate's `db/init.sql` has them.
const TABLES: &str = "
    CREATE TABLE events (
        aggregate_type text                         NOT NULL,
        aggregate_id   text                         NOT NULL,
        sequence       bigint CHECK (sequence >= 0) NOT NULL,
        event_type     text                         NOT NULL,
        event_version  text                         NOT NULL,
        payload        json                         NOT NULL,
        metadata       json                         NOT NULL,
        PRIMARY KEY (aggregate_type, aggregate_id, sequence)
    );
    CREATE TABLE query_view (
        view_id text                        NOT NULL,
        version bigint CHECK (version >= 0) NOT NULL,
        payload json                        NOT NULL,
        PRIMARY KEY (view_id)
    );";

/// How often a command that met a conflict is given again.
const ATTEMPTS: u64 = 100;

type View = GenericQuery<PostgresViewRepository<QueryView, Query>, QueryView, Query>;

/// The framework and its database.
pub struct WithCqrsEs {
    pool: PgPool,
    cqrs: PostgresCqrs<Query>,
    view_errors: ViewErrors,
}

/// What went wrong with the view: the framework ignores it unless it is told whom to tell.
type ViewErrors = Arc<Mutex<Vec<String>>>;

impl WithCqrsEs {
    /// In an empty database.
    ///
    /// # Errors
    /// When PostgreSQL does not answer.
    pub async fn start(url: &str, connections: u32) -> anyhow::Result<Self> {
        let pool = database::pool(url, connections).await?;
        database::execute(&pool, TABLES).await?;
        let view_errors = ViewErrors::default();
        let view = view(&pool, &view_errors);
        Ok(Self {
            cqrs: postgres_cqrs(pool.clone(), vec![Box::new(view)], ()),
            pool,
            view_errors,
        })
    }

    fn view_error(&self) -> anyhow::Result<()> {
        let mut errors = self
            .view_errors
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match errors.pop() {
            Some(error) => Err(anyhow::anyhow!("{} more, and {error}", errors.len())),
            None => Ok(()),
        }
    }
}

fn view(pool: &PgPool, errors: &ViewErrors) -> View {
    let rows = PostgresViewRepository::new("query_view", pool.clone());
    let mut view = GenericQuery::new(Arc::new(rows));
    let errors = errors.clone();
    view.use_error_handler(Box::new(move |error| {
        let mut errors = errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.push(format!("the view: {error}"));
    }));
    view
}

impl Contestant for WithCqrsEs {
    async fn give(&self, task: &Task, step: Step) -> anyhow::Result<u64> {
        let id = task.query.to_string();
        for conflicts in 0..ATTEMPTS {
            let command = Command {
                step,
                task: task.clone(),
                at: infra::clock::now().as_millis(),
            };
            match self.cqrs.execute(&id, command).await {
                Ok(()) => return Ok(conflicts),
                Err(AggregateError::AggregateConflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        anyhow::bail!("a conflict {ATTEMPTS} times")
    }

    async fn completed(&self) -> anyhow::Result<u64> {
        self.view_error()?;
        database::count(
            &self.pool,
            "SELECT count(*) FROM query_view WHERE payload->>'status' = 'completed'",
        )
        .await
    }

    async fn stored(&self) -> anyhow::Result<Stored> {
        database::stored(&self.pool, "events", "aggregate_id").await
    }

    async fn rows(&self) -> anyhow::Result<Rows> {
        let query = format!(
            "SELECT count(*), count(*) FILTER (WHERE payload->>'status' = 'completed'
                 AND length(payload->>'query') = {QUESTION}
                 AND length(payload->>'response_text') = {ANSWER}
                 AND payload->>'created_at' IS NOT NULL
                 AND payload->>'started_at' IS NOT NULL
                 AND payload->>'completed_at' IS NOT NULL)
             FROM query_view"
        );
        database::rows(&self.pool, &query).await
    }

    async fn rebuild(&mut self, expected: u64) -> anyhow::Result<Duration> {
        database::execute(&self.pool, "TRUNCATE query_view").await?;
        let began = Instant::now();
        let events = PostgresEventRepository::new(self.pool.clone());
        let replay = QueryReplay::new(events, view(&self.pool, &self.view_errors));
        replay.replay_all().await?;
        wait_for_rows(self, expected).await?;
        Ok(began.elapsed())
    }

    async fn stop(self) {
        self.pool.close().await;
    }
}
