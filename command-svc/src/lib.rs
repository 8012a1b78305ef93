//! The only write path: commands in, decisions, commits in the log, and what follows from them.
//!
//! A command arrives as a NATS request on `cmd.<kind>` ([`handler`]), is checked against the table
//! of who may do what, and goes to its handler, one file each. Most handlers are one call of
//! [`write_path::WritePath::execute`]: load, fold, decide, append with the expected sequence, try
//! again on conflict. Beside it, [`policy_runner`] carries out what should follow from events.
//!
//! To add a command: its variant in [`domain::wire::command::Body`], its row in
//! [`domain::authority`], a file in `handler/` and a line in its `dispatch`.

pub mod handler;
pub mod passwords;
pub mod policy_runner;
pub mod submissions;
pub mod write_path;

use infra::{
    config, event_store::EventStore, group_commit::GroupCommit, lifecycle::Lifecycle,
    snapshots::Snapshots,
};
use tracing::info;
use write_path::WritePath;

/// What command-svc needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The log and the bus.
    pub nats: config::Nats,
    /// Most commands in work at once; more are turned away at once.
    pub in_work: usize,
}

impl Config {
    /// The defaults, at this bus.
    pub const fn at(nats: config::Nats) -> Self {
        Self {
            nats,
            in_work: 2_048,
        }
    }

    /// `COMMANDS_IN_WORK`, and the variables of [`config::Nats::from_env`].
    ///
    /// # Errors
    /// When a variable cannot be read.
    pub fn from_env() -> Result<Self, config::Error> {
        let defaults = Self::at(config::Nats::from_env()?);
        Ok(Self {
            in_work: config::parsed("COMMANDS_IN_WORK", defaults.in_work)?,
            ..defaults
        })
    }
}

/// command-svc could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
    /// Passwords cannot be hashed on this machine.
    #[error(transparent)]
    Passwords(#[from] passwords::Error),
    /// The bucket of snapshots could not be opened.
    #[error("the bucket of snapshots cannot be opened")]
    Snapshots(#[source] async_nats::jetstream::context::KeyValueError),
    /// The bucket of submissions could not be opened.
    #[error("the bucket of submissions cannot be opened")]
    Submissions(#[source] async_nats::jetstream::context::KeyValueError),
}

/// Runs until the lifecycle stops it.
///
/// # Errors
/// When it cannot start.
pub async fn run(config: Config, lifecycle: Lifecycle) -> Result<(), Error> {
    infra::durability::check(&config.nats).await?;
    let client = infra::nats::connect(&config.nats, "backend-command-svc").await?;
    let context = infra::jetstream::prepare(&client, &config.nats).await?;
    let submissions = submissions::Submissions::open(&context)
        .await
        .map_err(Error::Submissions)?;
    let commits = GroupCommit::start(client.clone(), config.nats.sync, &lifecycle);
    let snapshots = Snapshots::open(&context, &lifecycle)
        .await
        .map_err(Error::Snapshots)?;
    let store = EventStore::new(client.clone()).with_snapshots(snapshots);
    let write = WritePath::new(store, commits);
    let passwords = passwords::Passwords::new()?;
    let handlers = handler::Handlers::new(&client, write, passwords, submissions);
    policy_runner::start(&client, &context, &lifecycle);
    handler::serve(&client, handlers, config.in_work, &lifecycle)
        .await
        .map_err(Error::Offer)?;
    info!("command-svc takes commands");
    lifecycle.stopping().await;
    Ok(())
}
