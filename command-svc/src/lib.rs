//! The only write path: commands in, decisions, commits in the log, and what follows from them.
//!
//! A command arrives as a NATS request on `cmd.<kind>` ([`handler`]), is checked against the table
//! of who may do what, and goes to its handler, one file each. Most handlers are one call of
//! [`write_path::WritePath::execute`]: load, fold, decide, append with the expected sequence, try
//! again on conflict. Beside it, [`policy_runner`] carries out what should follow from events,
//! and [`timers`] what should happen at a time. [`query_keys`] gives out keys of single queries;
//! [`routing`] decides which model a query is given to.
//!
//! To add a command: its variant in [`domain::wire::command::Body`], its row in
//! [`domain::authority`], a file in `handler/` and a line in its `dispatch`.

pub mod deliveries;
pub mod handler;
pub mod passwords;
pub mod policy_runner;
pub mod query_keys;
pub mod routing;
pub mod submissions;
pub mod timers;
pub mod write_path;

use domain::{limits, policy};
use infra::{
    config,
    event_store::EventStore,
    group_commit::GroupCommit,
    lifecycle::Lifecycle,
    sealing::{Keyring, Sealing},
    snapshots::Snapshots,
    workers::Workers,
};
use policy_runner::{Runner, parked::Parking};
use routing::Router;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tracing::{info, warn};
use write_path::WritePath;

const DEFAULT_QUERY_LIFE_SECS: u32 = (limits::QUERY_LIFE_MILLIS / 1000) as u32;
/// How long the list of workers may take at the start.
const WORKERS_WAIT: Duration = Duration::from_secs(5);

/// What command-svc needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The log and the bus.
    pub nats: config::Nats,
    /// How the words of persons are kept.
    pub sealing: Sealing,
    /// What policies are told.
    pub policies: policy::Settings,
    /// Most commands in work at once; more are turned away at once.
    pub in_work: usize,
    /// Which model answers what: a file in place of the rules of the tree.
    pub routing_rules: Option<PathBuf>,
}

impl Config {
    /// Over this NATS, with the contract's figures.
    pub fn at(nats: config::Nats, sealing: Sealing) -> Self {
        Self {
            nats,
            sealing,
            policies: policy::Settings::default(),
            in_work: 2_048,
            routing_rules: None,
        }
    }

    /// From the environment: `QUERY_LIFE_SECS`, `COMMANDS_IN_WORK`, `ROUTING_RULES`,
    /// [`Sealing::from_env`], and how to reach NATS.
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
        let life: u32 = config::parsed("QUERY_LIFE_SECS", DEFAULT_QUERY_LIFE_SECS)?;
        if life == 0 {
            return Err(config::Error {
                name: "QUERY_LIFE_SECS",
                reason: "a query needs some time".to_owned(),
            });
        }
        let defaults = Self::at(config::Nats::from_env()?, sealing);
        Ok(Self {
            policies: policy::Settings {
                query_life_millis: i64::from(life) * 1000,
            },
            in_work: config::parsed("COMMANDS_IN_WORK", defaults.in_work)?,
            routing_rules: config::optional("ROUTING_RULES")?,
            ..defaults
        })
    }
}

/// command-svc could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rules of routing cannot be used.
    #[error(transparent)]
    Rules(#[from] routing::file::Error),
    /// No connection.
    #[error(transparent)]
    Nats(#[from] infra::nats::Error),
    /// The log does not sync what it acknowledges, or may not.
    #[error(transparent)]
    Durability(#[from] infra::durability::Error),
    /// Streams or buckets are not as they must be.
    #[error(transparent)]
    Prepare(#[from] infra::jetstream::Error),
    /// The endpoints could not be offered.
    #[error("the command endpoints cannot be offered")]
    Offer(#[source] async_nats::Error),
    /// The keys of queries could not be offered.
    #[error("the keys of queries cannot be offered")]
    OfferKeys(#[source] async_nats::Error),
    /// Passwords cannot be hashed on this machine.
    #[error(transparent)]
    Passwords(#[from] passwords::Error),
    /// The bucket of snapshots could not be opened.
    #[error("the bucket of snapshots cannot be opened")]
    Snapshots(#[source] async_nats::jetstream::context::KeyValueError),
    /// The bucket of submissions could not be opened.
    #[error("the bucket of submissions cannot be opened")]
    Submissions(#[source] async_nats::jetstream::context::KeyValueError),
    /// The bucket of parked commits could not be opened.
    #[error("the bucket of parked commits cannot be opened")]
    Parked(#[source] async_nats::jetstream::context::KeyValueError),
    /// Changes of keys cannot be heard of.
    #[error("changes of keys cannot be heard of")]
    Keys(#[source] async_nats::SubscribeError),
    /// Orders about parked commits could not be taken.
    #[error("orders about parked commits cannot be taken")]
    Orders(#[source] async_nats::SubscribeError),
}

/// Runs until the lifecycle stops it.
///
/// # Errors
/// When it cannot start.
pub async fn run(config: Config, lifecycle: Lifecycle) -> Result<(), Error> {
    let rules = routing::file::load(config.routing_rules.as_deref())?;
    infra::durability::check(&config.nats).await?;
    let client = infra::nats::connect(&config.nats, "backend-command-svc").await?;
    let context = infra::jetstream::prepare(&client, &config.nats).await?;
    let submissions = submissions::Submissions::open(&context)
        .await
        .map_err(Error::Submissions)?;
    let commits = GroupCommit::start(client.clone(), config.nats.sync, &lifecycle);
    let keys = Keyring::new(&client, config.sealing);
    keys.follow(&lifecycle).await.map_err(Error::Keys)?;
    let snapshots = Snapshots::open(&context, &keys, &lifecycle)
        .await
        .map_err(Error::Snapshots)?;
    let is_bounded = infra::jetstream::is_bounded(&context).await?;
    let store = EventStore::new(client.clone(), keys.clone())
        .with_snapshots(snapshots)
        .bounded(is_bounded);
    let write = WritePath::new(store, commits);
    let passwords = passwords::Passwords::new()?;
    let workers = Workers::watch(&client, &lifecycle);
    if tokio::time::timeout(WORKERS_WAIT, workers.synced())
        .await
        .is_err()
    {
        warn!("the workers are not known yet: queries wait for whichever comes first");
    }
    let router = Arc::new(Router::new(rules, workers));
    let handlers = handler::Handlers::new(&client, write, passwords, submissions, router);
    let parked = Parking::open(&context).await.map_err(Error::Parked)?;
    let runner = Runner::new(
        &client,
        &context,
        &keys,
        handlers.clone(),
        parked,
        config.policies,
        &lifecycle,
    );
    runner.start();
    runner
        .watch_parked(&client, &lifecycle)
        .await
        .map_err(Error::Orders)?;
    timers::start(&context, &runner, config.policies, &lifecycle);
    query_keys::serve(&client, &keys, &lifecycle)
        .await
        .map_err(Error::OfferKeys)?;
    handler::serve(&client, handlers, config.in_work, &lifecycle)
        .await
        .map_err(Error::Offer)?;
    info!("command-svc takes commands");
    lifecycle.stopping().await;
    Ok(())
}
