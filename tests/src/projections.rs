//! Projections alone: the servers, a log that the test writes itself, and instances of
//! projection-svc.

use crate::{
    archive,
    service::{self, Role},
    world::PATIENCE,
};
use amaima::stack::{self, Process, Stack, wait_for};
use domain::{
    id::AccountId,
    subject,
    wire::{
        admin,
        view::{self, Accounts, Queries, QueryPage},
    },
};
use infra::{bus::Views, clock, config, lifecycle::Lifecycle};
use sqlx::PgPool;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Servers without services.
pub struct Bench {
    /// The servers.
    pub stack: Stack,
    /// To the bus.
    pub client: async_nats::Client,
    /// To the database.
    pub pool: PgPool,
    logs: TempDir,
}

impl Bench {
    /// Servers with an empty log.
    ///
    /// # Panics
    /// When they do not start.
    pub async fn start() -> Self {
        Self::on(stack::testing().await.expect("the servers start")).await
    }

    /// These servers.
    ///
    /// # Panics
    /// When they do not answer.
    pub async fn on(stack: Stack) -> Self {
        let nats = config::Nats::at(&stack.endpoints().nats_url);
        let client = infra::nats::connect(&nats, "test").await.expect("a bus");
        infra::jetstream::prepare(&client, &nats)
            .await
            .expect("streams");
        let pool = sqlx::postgres::PgPoolOptions::new()
            .max_connections(8)
            .connect(&stack.endpoints().database_url)
            .await
            .expect("a database");
        Self {
            stack,
            client,
            pool,
            logs: TempDir::new().expect("a directory for logs"),
        }
    }

    /// The configuration of an instance on these servers.
    pub fn config(&self) -> projection_svc::Config {
        projection_svc::Config::at(
            config::Nats::at(&self.stack.endpoints().nats_url),
            self.stack.endpoints().sealing().expect("master keys"),
            config::Postgres::at(&self.stack.endpoints().database_url),
        )
    }

    /// The same, which also copies the log.
    pub fn copying(&self) -> projection_svc::Config {
        projection_svc::Config {
            archive: Some(archive::config(&self.stack)),
            ..self.config()
        }
    }

    /// Runs an instance in this process, in the life that is given back.
    pub fn run(&self, config: projection_svc::Config) -> Lifecycle {
        let lifecycle = Lifecycle::new();
        let each = lifecycle.clone();
        lifecycle.spawn("projection-svc", async move {
            projection_svc::run(config, each)
                .await
                .expect("projection-svc runs");
        });
        lifecycle
    }

    /// Has an instance fold the log into the empty database of [`Self::pool`]: events per second,
    /// from the first that is seen in the rows to the one of the sequence `last`.
    ///
    /// # Errors
    /// When the database does not answer any more.
    pub async fn replay(&self, config: projection_svc::Config, last: u64) -> anyhow::Result<f64> {
        let life = self.run(config);
        let mut first: Option<(Instant, i64)> = None;
        let rate = loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let seq = sqlx::query_scalar("SELECT min(seq) FROM rm.checkpoint");
            // Until they are made the tables are not there.
            let Ok(seq) = seq.fetch_one(&self.pool).await else {
                continue;
            };
            let seq: i64 = seq;
            match first {
                None if seq > 0 => first = Some((Instant::now(), seq)),
                Some((began, at)) if seq >= i64::try_from(last)? => {
                    break (seq - at) as f64 / began.elapsed().as_secs_f64();
                }
                _ => {}
            }
        };
        life.stop(Duration::from_secs(10)).await;
        Ok(rate)
    }

    /// Starts an instance as a process.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(&self, lanes: usize) -> Process {
        let mut env: Vec<(String, String)> = self
            .stack
            .endpoints()
            .env()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        env.push(("PROJECTION_LANES".into(), lanes.to_string()));
        env.push((
            "ARCHIVE_EVERY_MS".into(),
            archive::EVERY.as_millis().to_string(),
        ));
        service::spawn(Role::Projection, &env, self.logs.path()).expect("a process starts")
    }

    /// What instances that run as processes have logged.
    pub fn logs(&self) -> String {
        std::fs::read_to_string(self.logs.path().join("projection-svc.log")).unwrap_or_default()
    }

    /// Waits until all lanes of the live generation have this sequence.
    ///
    /// # Panics
    /// When that does not come.
    pub async fn reached(&self, seq: u64) {
        let reached = wait_for("the projection", PATIENCE * 4, || async {
            let reached: i64 = sqlx::query_scalar("SELECT min(seq) FROM rm.checkpoint")
                .fetch_one(&self.pool)
                .await
                .map_err(|error| error.to_string())?;
            if u64::try_from(reached).unwrap_or(0) >= seq {
                Ok(())
            } else {
                Err(format!("{reached} of {seq}"))
            }
        });
        if let Err(error) = reached.await {
            panic!("{error}\n{}", self.logs());
        }
    }

    /// A hash of every row of a generation's views.
    ///
    /// # Panics
    /// When they cannot be read.
    pub async fn hash(&self, schema: &str) -> Vec<(String, i64, String)> {
        hash(&self.pool, schema).await
    }

    /// Orders something of the owner.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn order(&self, order: &admin::Projections) -> Result<admin::Reply, String> {
        let payload = serde_json::to_vec(order).map_err(|error| error.to_string())?;
        let request = async_nats::Request::new()
            .payload(payload.into())
            .timeout(Some(Duration::from_secs(30)));
        let answer = self
            .client
            .send_request(subject::ADMIN_PROJECTIONS, request)
            .await
            .map_err(|error| error.to_string())?;
        serde_json::from_slice(&answer.payload).map_err(|error| error.to_string())
    }

    /// Orders something once somebody answers.
    ///
    /// # Panics
    /// When nobody does.
    pub async fn ordered(&self, order: &admin::Projections) -> admin::Reply {
        let answered = wait_for("an answer to an order", PATIENCE, || self.order(order));
        answered.await.expect("an answer")
    }

    /// How the projections are.
    ///
    /// # Errors
    /// When nobody tells.
    pub async fn status(&self) -> Result<admin::Status, String> {
        match self.order(&admin::Projections::Status).await? {
            admin::Reply::Status(status) => Ok(status),
            other => Err(format!("{other:?}")),
        }
    }

    /// Waits for a status.
    ///
    /// # Panics
    /// When it does not come.
    pub async fn status_when(
        &self,
        what: &str,
        is_so: impl Fn(&admin::Status) -> bool,
    ) -> admin::Status {
        let seen = wait_for(what, PATIENCE * 4, || async {
            let status = self.status().await?;
            if is_so(&status) {
                Ok(status)
            } else {
                Err(format!("{status:?}"))
            }
        });
        match seen.await {
            Ok(status) => status,
            Err(error) => panic!("{error}\n{}", self.logs()),
        }
    }

    /// Asks for somebody's queries.
    pub async fn queries(&self, owner: AccountId, at_least: u64) -> view::Reply<QueryPage> {
        let question = Queries::List {
            owner,
            limit: 20,
            after: None,
            status: None,
            operation: None,
        };
        self.ask(subject::View::Queries, at_least, question).await
    }

    /// Asks for an account.
    pub async fn account(
        &self,
        account: AccountId,
        at_least: u64,
    ) -> view::Reply<view::AccountFound> {
        self.ask(subject::View::Accounts, at_least, Accounts::Get { account })
            .await
    }

    async fn ask<Q, R>(&self, view: subject::View, at_least: u64, question: Q) -> view::Reply<R>
    where
        Q: serde::Serialize + Sync,
        R: serde::de::DeserializeOwned,
    {
        let request = view::Request {
            at_least,
            deadline: clock::now().plus_millis(5_000),
            request_id: "req_0123456789ab".into(),
            question,
        };
        Views::new(self.client.clone()).ask(view, &request).await
    }
}

/// A hash of every row of a generation's views.
///
/// # Panics
/// When they cannot be read.
pub async fn hash(pool: &PgPool, schema: &str) -> Vec<(String, i64, String)> {
    let mut hashes = Vec::new();
    for table in ["accounts", "sessions", "queries", "api_keys"] {
        let (count, hash): (i64, Option<String>) = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "SELECT count(*), md5(string_agg(md5(row::text), '' ORDER BY md5(row::text)))
                     FROM {schema}.{table} AS row"
        )))
        .fetch_one(pool)
        .await
        .expect("rows");
        hashes.push((table.to_owned(), count, hash.unwrap_or_default()));
    }
    hashes
}
