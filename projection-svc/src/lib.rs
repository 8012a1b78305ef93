//! The read side: folds the log into PostgreSQL and answers questions about what it found.
//!
//! A commit goes this way: [`log`] reads it in order and [`commit`] decodes it, ahead of whoever
//! writes; [`chunk`] cuts the log between commands and parts a chunk into groups; [`lane`]s fold
//! ([`view`]) and write ([`write`]) the groups side by side, each with its lanes' checkpoints in one
//! transaction; [`projector`] is the loop around all this. A question goes this way: `qry.<view>` →
//! wait until the rows reflect what the caller has seen ([`position`]) → the view's `query`.
//!
//! Read models come in generations ([`generation`]): [`live`] keeps the one going that answers
//! questions, [`builder`] brings another up beside it and makes it live. Operators are answered in
//! [`admin`]; [`analysts`] read with SQL. Beside them, [`archiver`] copies the log to the object
//! store, and [`purger`] lets go of what ended long ago.
//!
//! Several instances may run: [`owner`] makes one of them the writer, all of them answer. To add a
//! view, see [`view`].

mod admin;
mod analysts;
pub mod archiver;
mod builder;
mod chunk;
mod commit;
mod generation;
mod instant;
mod lane;
mod live;
mod log;
mod migrations;
mod owner;
mod parked;
mod position;
mod projector;
pub mod purger;
mod questions;
pub mod seal;
mod view;
mod write;

use infra::{
    config,
    lifecycle::Lifecycle,
    objects::Bucket,
    sealing::{Keyring, Sealing},
};
use position::Position;
use purger::{Notes, Purger};
use std::time::Duration;
use tracing::warn;

/// The service's name, in the log's lines, on the bus and in the database's list of connections.
const NAME: &str = "backend-projection-svc";

/// Aggregates lie in this many parts, which is as far as they can be spread.
const LANES_MOST: usize = domain::subject::PARTS as usize;

/// What the service needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the log and the bus are.
    pub nats: config::Nats,
    /// How the words of persons are kept.
    pub sealing: Sealing,
    /// Where the read models are.
    pub postgres: config::Postgres,
    /// In how many lanes the log is folded, 1 to 64.
    pub lanes: usize,
    /// A projection that does not move for this long, while there is something to do, is ill.
    pub stalled_after: Duration,
    /// Where the log is copied to, if it is.
    pub archive: Option<archiver::Config>,
    /// When queries leave the log, if they do; there must be a copy.
    pub purge: Option<purger::Config>,
}

impl Config {
    /// The defaults: as many lanes as cores, at most four, and no copy of the log.
    pub fn at(nats: config::Nats, sealing: Sealing, postgres: config::Postgres) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            nats,
            sealing,
            postgres,
            lanes: cores.min(4),
            stalled_after: Duration::from_secs(10),
            archive: None,
            purge: None,
        }
    }

    /// Reads the environment: [`config::Nats::from_env`], [`Sealing::from_env`],
    /// [`config::Postgres::from_env`], [`archiver::Config::from_env`],
    /// [`purger::Config::from_env`], `PROJECTION_LANES` and `PROJECTION_STALLED_SECS`.
    ///
    /// # Errors
    /// When a variable cannot be read.
    pub fn from_env() -> Result<Self, config::Error> {
        Self::sealing_with(Sealing::from_env()?)
    }

    /// From the environment but for the master keys.
    ///
    /// # Errors
    /// When a variable cannot be read.
    pub fn sealing_with(sealing: Sealing) -> Result<Self, config::Error> {
        let mut config = Self::at(
            config::Nats::from_env()?,
            sealing,
            config::Postgres::from_env()?,
        );
        config.lanes = config::parsed("PROJECTION_LANES", config.lanes)?;
        if !(1..=LANES_MOST).contains(&config.lanes) {
            return Err(config::Error {
                name: "PROJECTION_LANES",
                reason: format!("it is a number from 1 to {LANES_MOST}"),
            });
        }
        let secs = config::parsed("PROJECTION_STALLED_SECS", config.stalled_after.as_secs())?;
        config.stalled_after = Duration::from_secs(secs);
        config.archive = archiver::Config::from_env()?;
        config.purge = purger::Config::from_env()?;
        Ok(config)
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
    /// Queries should leave the log, and cannot.
    #[error(
        "LOG_KEEP_DAYS is set, and {0} is not: nothing may leave the log without a copy of it, and \
         without the user who alone may purge it (infra/deploy/nats-purge.conf)"
    )]
    Purge(&'static str),
    /// The database cannot be named.
    #[error(transparent)]
    Database(#[from] infra::postgres::Error),
    /// The tables cannot be made.
    #[error("the migrations cannot be applied")]
    Migrations(#[source] sqlx::migrate::MigrateError),
    /// Changes of keys cannot be heard of.
    #[error("changes of keys cannot be heard of")]
    Keys(#[source] async_nats::SubscribeError),
    /// The questions' subjects cannot be subscribed to.
    #[error("the endpoints cannot be set up")]
    Endpoints(#[source] async_nats::Error),
}

/// Runs the service until its life ends. NATS must be there at the start; PostgreSQL is waited for.
///
/// # Errors
/// When it cannot begin. Afterwards every loss of a server is waited out.
pub async fn run(config: Config, lifecycle: Lifecycle) -> Result<(), Error> {
    if config.purge.is_some() && config.archive.is_none() {
        return Err(Error::Purge("S3_ENDPOINT"));
    }
    if config.purge.is_some() && config.nats.purge_url.is_none() {
        return Err(Error::Purge("NATS_PURGE_URL"));
    }
    let client = infra::nats::connect(&config.nats, NAME).await?;
    let context = infra::jetstream::prepare(&client, &config.nats).await?;
    let is_bounded = infra::jetstream::is_bounded(&context).await?;
    let keys = Keyring::new(&client, config.sealing);
    keys.follow(&lifecycle).await.map_err(Error::Keys)?;
    let copy = config
        .archive
        .as_ref()
        .map(|archive| Bucket::new(&archive.store));
    if let Some(archive) = config.archive {
        lifecycle.spawn(
            "archiver",
            archiver::run(archive, client.clone(), lifecycle.clone()),
        );
    } else {
        warn!("the log is not copied: there is no S3_ENDPOINT");
    }
    let database = infra::postgres::options(&config.postgres, NAME)?;
    // Migrations name their tables without a schema, and mean the database's own.
    let migrating = infra::postgres::pool(&config.postgres, database.clone());
    tokio::select! {
        () = lifecycle.stopping() => return Ok(()),
        applied = migrations::apply(&migrating) => applied.map_err(Error::Migrations)?,
    }
    migrating.close().await;
    let live = database
        .clone()
        .options([("search_path", generation::Slot::Live.schema())]);
    let pool = infra::postgres::pool(&config.postgres, live);
    let source = projector::Source {
        client: client.clone(),
        context,
        keys: keys.clone(),
        lifecycle: lifecycle.clone(),
        copy: None,
        archive: copy.clone(),
    };
    let notes = Notes::new(pool.clone());
    if let Some(bucket) = copy.clone() {
        let purger = Purger {
            config: config.purge,
            nats: config.nats,
            client: client.clone(),
            bucket,
            pool: pool.clone(),
            notes: notes.clone(),
        };
        lifecycle.spawn("purger", purger.run(lifecycle.clone()));
        purger::history::serve(&client, notes, &lifecycle)
            .await
            .map_err(|error| Error::Endpoints(error.into()))?;
    }
    let position = Position::unknown();
    lifecycle.spawn(
        "position",
        position.clone().follow(pool.clone(), lifecycle.clone()),
    );
    let builder = builder::Builder {
        source: source.clone(),
        database: database.clone(),
        pool: pool.clone(),
        lanes: config.lanes,
        copy: copy.clone(),
    };
    lifecycle.spawn("builder", builder.run());
    let live = live::Live {
        source,
        database,
        pool: pool.clone(),
        lanes: config.lanes,
        stalled_after: config.stalled_after,
        copy,
        position: position.clone(),
    };
    lifecycle.spawn("projection", live.run());
    let store = view::Store {
        pool,
        keys,
        client: client.clone(),
        is_bounded,
    };
    questions::serve(&client, &store, position.subscribe(), &lifecycle)
        .await
        .map_err(Error::Endpoints)
}

/// First and longest delay between two attempts to reach a server.
fn backoff() -> infra::retry::Backoff {
    infra::retry::Backoff::new(Duration::from_millis(50), Duration::from_secs(1))
}
