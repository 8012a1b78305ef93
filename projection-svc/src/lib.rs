//! The read side: folds the log into PostgreSQL and answers questions about what it found.
//!
//! A commit goes this way: [`log`] reads it in order, [`commit`] decodes it, [`view`] folds a batch
//! of them into rows, [`owner`] writes the rows and the checkpoint in one transaction, and
//! [`lane`] keeps all this going and tells [`questions`] how far it is. A question goes this way:
//! `qry.<view>` → wait until the rows reflect what the caller has seen → the view's `query`.
//!
//! Several instances may run: a PostgreSQL advisory lock makes one of them the writer, all of them
//! answer. To add a view, see [`view`].

mod commit;
mod instant;
mod lane;
mod log;
mod migrations;
mod owner;
mod questions;
mod view;

use infra::{config, lifecycle::Lifecycle};
use std::time::Duration;
use tokio::sync::watch;

/// The service's name, in the log's lines, on the bus and in the database's list of connections.
const NAME: &str = "backend-projection-svc";

/// What the service needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the log and the bus are.
    pub nats: config::Nats,
    /// Where the read models are.
    pub postgres: config::Postgres,
}

impl Config {
    /// Reads the environment; see [`config::Nats::from_env`] and [`config::Postgres::from_env`].
    ///
    /// # Errors
    /// When a variable cannot be read.
    pub fn from_env() -> Result<Self, config::Error> {
        Ok(Self {
            nats: config::Nats::from_env()?,
            postgres: config::Postgres::from_env()?,
        })
    }
}

/// The service cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// NATS was not there at the start.
    #[error(transparent)]
    Connect(#[from] infra::nats::Error),
    /// The streams are not as they must be.
    #[error(transparent)]
    Streams(#[from] infra::jetstream::Error),
    /// The database cannot be named.
    #[error(transparent)]
    Database(#[from] infra::postgres::Error),
    /// The tables cannot be made.
    #[error("the migrations cannot be applied")]
    Migrations(#[source] sqlx::migrate::MigrateError),
    /// The questions' subjects cannot be subscribed to.
    #[error("the endpoints cannot be set up")]
    Endpoints(#[source] async_nats::Error),
}

/// Runs the service until its life ends. NATS must be there at the start; PostgreSQL is waited for.
///
/// # Errors
/// When it cannot begin. Afterwards every loss of a server is waited out.
pub async fn run(config: Config, lifecycle: Lifecycle) -> Result<(), Error> {
    let client = infra::nats::connect(&config.nats, NAME).await?;
    let context = infra::jetstream::prepare(&client, &config.nats).await?;
    let pool = infra::postgres::pool(&config.postgres, NAME)?;
    tokio::select! {
        () = lifecycle.stopping() => return Ok(()),
        applied = migrations::apply(&pool) => applied.map_err(Error::Migrations)?,
    }
    let (report, applied) = watch::channel(0);
    let lane = lane::Lane {
        projection: "main",
        client: client.clone(),
        context,
        database: (*pool.connect_options()).clone(),
        report,
    };
    lifecycle.spawn("projection", lane.run(lifecycle.soft()));
    questions::serve(&client, &pool, &applied, &lifecycle)
        .await
        .map_err(Error::Endpoints)
}

/// First and longest delay between two attempts to reach a server.
fn backoff() -> infra::retry::Backoff {
    infra::retry::Backoff::new(Duration::from_millis(50), Duration::from_secs(1))
}
