//! Where the servers are, and how processes are told.

use super::Error;
use infra::{
    config::{Nats, ObjectStore, Secret, Sync},
    sealing::Sealing,
};
use std::fmt;

/// Where clients connect.
#[derive(Clone)]
pub struct Endpoints {
    /// `nats://127.0.0.1:<port>`
    pub nats_url: String,
    /// When its writes count as done.
    pub nats_sync: Sync,
    /// The same server as the user who may ask it whether they are; of the own server only.
    pub nats_system_url: Option<Secret>,
    /// The same server as the user who alone may purge the log; of the own server only.
    pub nats_purge_url: Option<Secret>,
    /// `postgres://amaima:<password>@127.0.0.1:<port>/amaima`, a superuser of the own server.
    pub database_url: String,
    /// Endpoint, bucket and keys.
    pub s3: ObjectStore,
    /// The file with the master keys; made at the first start.
    pub master_keys_file: String,
}

impl Endpoints {
    /// How services and clients reach this NATS server, and what it promises.
    pub fn nats(&self) -> Nats {
        Nats {
            sync: self.nats_sync,
            system_url: self.nats_system_url.clone(),
            purge_url: self.nats_purge_url.clone(),
            ..Nats::at(&self.nats_url)
        }
    }

    /// How the words of persons are kept: with the keys in the file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn sealing(&self) -> Result<Sealing, Error> {
        Ok(Sealing::from_file(&self.master_keys_file)?)
    }

    /// The same as variables of the environment, as every service reads them.
    pub fn env(&self) -> [(&'static str, &str); 11] {
        let system_url = self.nats_system_url.as_ref().map_or("", Secret::expose);
        let purge_url = self.nats_purge_url.as_ref().map_or("", Secret::expose);
        [
            ("NATS_URL", &self.nats_url),
            ("NATS_SYNC", self.nats_sync.as_str()),
            ("NATS_SYSTEM_URL", system_url),
            ("NATS_PURGE_URL", purge_url),
            ("DATABASE_URL", &self.database_url),
            ("S3_ENDPOINT", &self.s3.endpoint),
            ("S3_REGION", &self.s3.region),
            ("S3_BUCKET", &self.s3.bucket),
            ("S3_ACCESS_KEY", &self.s3.access_key),
            ("S3_SECRET_KEY", self.s3.secret_key.expose()),
            ("MASTER_KEYS_FILE", &self.master_keys_file),
        ]
    }
}

impl fmt::Debug for Endpoints {
    /// Without the password in the database's URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints")
            .field("nats_url", &self.nats_url)
            .field("nats_sync", &self.nats_sync)
            .field("nats_system_url", &self.nats_system_url)
            .field("nats_purge_url", &self.nats_purge_url)
            .field("database_url", &"***")
            .field("s3", &self.s3)
            .field("master_keys_file", &self.master_keys_file)
            .finish()
    }
}

/// Servers that run already. What is given here is used as it is and never started or stopped.
#[derive(Clone, Default)]
pub struct Existing {
    /// A nats-server (2.14 or newer, JetStream on).
    pub nats_url: Option<String>,
    /// When its writes should count as done.
    pub nats_sync: Sync,
    /// The same server as a user who may ask it whether they are.
    pub nats_system_url: Option<Secret>,
    /// The same server as the user who alone may purge the log.
    pub nats_purge_url: Option<Secret>,
    /// A PostgreSQL database (15 or newer).
    pub database_url: Option<String>,
    /// An S3 endpoint; the bucket is made if it is missing.
    pub s3: Option<ObjectStore>,
    /// A file with master keys.
    pub master_keys_file: Option<String>,
}

impl fmt::Debug for Existing {
    /// Without URLs, which may hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Existing")
            .field("nats", &self.nats_url.is_some())
            .field("database", &self.database_url.is_some())
            .field("s3", &self.s3)
            .finish()
    }
}

impl Existing {
    /// `NATS_URL` with its `NATS_SYNC`, `NATS_SYSTEM_URL` and `NATS_PURGE_URL`, `DATABASE_URL`,
    /// `S3_ENDPOINT` with its `S3_REGION`, `S3_BUCKET`, `S3_ACCESS_KEY` and `S3_SECRET_KEY`, and
    /// `MASTER_KEYS_FILE`, as far as they are set.
    ///
    /// # Errors
    /// When `S3_ENDPOINT` stands without the keys that it needs.
    pub fn from_env() -> Result<Self, Error> {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Ok(Self {
            nats_url: set("NATS_URL"),
            nats_sync: infra::config::parsed("NATS_SYNC", Sync::Always)?,
            nats_system_url: set("NATS_SYSTEM_URL").map(Secret::new),
            nats_purge_url: set("NATS_PURGE_URL").map(Secret::new),
            database_url: set("DATABASE_URL"),
            s3: ObjectStore::from_env()?,
            master_keys_file: set("MASTER_KEYS_FILE"),
        })
    }
}
