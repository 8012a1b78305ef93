//! The servers below the services: nats-server with JetStream, PostgreSQL and an S3 endpoint, each
//! in a private directory, on 127.0.0.1, and gone when the process that started them is gone.
//!
//! [`Stack::start`] locks the data directory, finds or installs the servers ([`Programs`]), starts
//! the three side by side and returns when each has answered a real request. A test says
//! [`testing`], which is the same in a directory that disappears, and reaches a single server
//! through [`Stack::nats`], [`Stack::postgres`] and [`Stack::s3`] to kill, pause or restart it on
//! the same port and data:
//!
//! ```no_run
//! # async fn example() -> Result<(), amaima::stack::Error> {
//! let stack = amaima::stack::testing().await?;
//! let database_url = stack.database("projections").await?;
//! stack.nats().kill().await?;
//! stack.nats().restart().await?;
//! # Ok(())
//! # }
//! ```
//!
//! One more server is one more file beside `nats.rs`, a variant in [`ServerKind`] and in
//! `server::Body`, and a line in [`Stack::start`].

mod cluster;
mod daemon;
mod data_dir;
mod endpoints;
mod error;
mod nats;
mod ports;
mod postgres;
mod process;
mod programs;
mod s3;
mod server;
mod testing;
mod unprivileged;
mod wait;

pub use cluster::{Cluster, cluster, cluster_with};
pub use data_dir::{Holder, holder, running_database, running_nats, running_s3, wipe};
pub use endpoints::{Endpoints, Existing};
pub use error::{Error, ServerKind};
pub use process::Process;
pub use programs::{Pinned, Programs, Wheel};
pub use server::Server;
pub use testing::{testing, testing_with};
pub use wait::{TimedOut, wait_for};

use data_dir::DataDir;
use infra::{config::ObjectStore, sealing::MasterKeys};
use std::{fmt, path::PathBuf, sync::Arc, time::Duration};
use tempfile::TempDir;

/// The bucket that the stack's own S3 endpoint has from the start.
pub const BUCKET: &str = infra::config::BUCKET;

/// The file with master keys, in the data directory.
const MASTER_KEYS: &str = "master-keys";

/// When the servers let a write count as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMode {
    /// When the disk has it: `sync_interval: always` in JetStream, `synchronous_commit = on` in
    /// PostgreSQL.
    #[default]
    Always,
    /// In JetStream when the operating system has it: a crash of the server loses nothing, a crash
    /// of the machine up to two minutes. In PostgreSQL a moment later (`synchronous_commit = off`):
    /// a crash loses the last transactions whole, and a projection repeats them from the log.
    Relaxed,
}

impl From<SyncMode> for infra::config::Sync {
    fn from(mode: SyncMode) -> Self {
        match mode {
            SyncMode::Always => Self::Always,
            SyncMode::Relaxed => Self::Relaxed,
        }
    }
}

/// Fixed ports on 127.0.0.1. A port that is not given is the one of the last start in the same data
/// directory, if it is still free, else any free one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ports {
    /// For NATS clients.
    pub nats: Option<u16>,
    /// For PostgreSQL clients.
    pub postgres: Option<u16>,
    /// For the S3 endpoint.
    pub s3: Option<u16>,
}

/// Is told, line by line, what the stack does.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(&str) + Send + Sync>);

impl Progress {
    /// Passes each line to `tell`.
    pub fn new(tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    fn say(&self, line: impl AsRef<str>) {
        (self.0)(line.as_ref());
    }
}

impl Default for Progress {
    /// Lines go to the log.
    fn default() -> Self {
        Self::new(|line| tracing::debug!("{line}"))
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

/// What to start, and where.
#[derive(Clone, Debug)]
pub struct StackOptions {
    /// Everything lives under here, made if it is missing. One stack at a time.
    pub data_dir: PathBuf,
    /// Ports that must be these.
    pub ports: Ports,
    /// When a write counts as done.
    pub sync: SyncMode,
    /// Where nats-server keeps its streams, if not in the data directory: a disk of their own.
    pub nats_store: Option<PathBuf>,
    /// The data need not outlive the stack: PostgreSQL starts from a copied cluster and never
    /// syncs its files, and the servers are taken down without their last rites.
    pub disposable: bool,
    /// Servers that run already and are used instead of own ones.
    pub existing: Existing,
    /// Where the programs are looked for and installed.
    pub programs: Programs,
    /// Who hears about progress.
    pub progress: Progress,
    /// How long each server may take until it answers; crash recovery counts.
    pub patience: Duration,
}

impl StackOptions {
    /// Own servers in this directory, durable, on any free ports.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            ports: Ports::default(),
            sync: SyncMode::default(),
            nats_store: None,
            disposable: false,
            existing: Existing::default(),
            programs: Programs::default(),
            progress: Progress::default(),
            patience: Duration::from_secs(60),
        }
    }
}

/// Three running servers. They stop when this is dropped (without waiting for clients), and when
/// this process ends in whatever way.
#[derive(Debug)]
pub struct Stack {
    // The order matters: servers go before the directory that they write to.
    nats: Server,
    postgres: Server,
    s3: Server,
    endpoints: Endpoints,
    progress: Progress,
    data_dir: DataDir,
    temporary: Option<TempDir>,
}

impl Stack {
    /// Starts the servers and waits until each answers a real request.
    ///
    /// # Errors
    /// When the data directory is in use, a program is neither there nor installable, or a server
    /// does not answer in time; the message holds the end of its log.
    pub async fn start(options: StackOptions) -> Result<Self, Error> {
        let data_dir = DataDir::open(&options.data_dir, options.disposable)?;
        let (nats, postgres, s3) = tokio::try_join!(
            nats::start(&options, &data_dir),
            postgres::start(&options, &data_dir),
            s3::start(&options, &data_dir),
        )?;
        let endpoints = Endpoints {
            nats_url: nats.1.url.expose().to_owned(),
            nats_sync: nats.1.sync,
            nats_system_url: nats.1.system_url,
            nats_purge_url: nats.1.purge_url,
            database_url: postgres.1,
            s3: s3.1,
            master_keys_file: master_keys(&options, &data_dir)?,
        };
        Ok(Self {
            nats: nats.0,
            postgres: postgres.0,
            s3: s3.0,
            endpoints,
            progress: options.progress,
            data_dir,
            temporary: None,
        })
    }

    /// Where clients connect.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// The log.
    pub fn nats(&self) -> &Server {
        &self.nats
    }

    /// The read models.
    pub fn postgres(&self) -> &Server {
        &self.postgres
    }

    /// The files.
    pub fn s3(&self) -> &Server {
        &self.s3
    }

    /// The directory that holds all of it.
    pub fn data_dir(&self) -> &std::path::Path {
        self.data_dir.path()
    }

    /// Makes a fresh, empty database and returns its URL.
    ///
    /// # Errors
    /// When PostgreSQL does not answer, or has a database of this name.
    pub async fn database(&self, name: &str) -> Result<String, Error> {
        postgres::create_database(&self.endpoints.database_url, name).await
    }

    /// Waits until a server ends that nobody stopped, and says which.
    pub async fn server_lost(&self) -> ServerKind {
        let servers = [&self.nats, &self.postgres, &self.s3];
        loop {
            if let Some(lost) = servers.iter().find(|server| server.is_lost()) {
                return lost.kind();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The server of this kind.
    pub fn server(&self, kind: ServerKind) -> &Server {
        match kind {
            ServerKind::Nats => &self.nats,
            ServerKind::Postgres => &self.postgres,
            ServerKind::S3 => &self.s3,
        }
    }

    /// Stops the servers in good order: all is written, so that the next start is quick.
    ///
    /// # Errors
    /// When a server does not end in time; it is killed then.
    pub async fn stop(self) -> Result<(), Error> {
        for server in [&self.s3, &self.postgres, &self.nats] {
            match server.stop().await {
                Ok(()) => self.progress.say(format!("{}: stopped", server.kind())),
                Err(Error::NotOurs { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The file with master keys that is given, or the data directory's own, made if it is missing.
fn master_keys(options: &StackOptions, data_dir: &DataDir) -> Result<String, Error> {
    if let Some(given) = &options.existing.master_keys_file {
        return Ok(given.clone());
    }
    let file = data_dir.path().join(MASTER_KEYS);
    if !file.exists() {
        let name = infra::clock::fresh_id().simple().to_string();
        let made = MasterKeys::fresh_line(&name).map_err(std::io::Error::other);
        made.and_then(|line| data_dir::write_secret(&file, line.as_bytes()))
            .map_err(Error::io("cannot write", &file))?;
    }
    Ok(file.display().to_string())
}

/// The file with the master keys of the stack on this data directory.
pub fn master_keys_file(data_dir: &std::path::Path) -> PathBuf {
    data_dir.join(MASTER_KEYS)
}

/// The S3 settings of the stack's own endpoint.
fn own_object_store(port: u16, access_key: &str, secret_key: &str) -> ObjectStore {
    ObjectStore {
        endpoint: format!("http://127.0.0.1:{port}"),
        region: "us-east-1".into(),
        bucket: BUCKET.into(),
        access_key: access_key.into(),
        secret_key: infra::config::Secret::new(secret_key),
    }
}
