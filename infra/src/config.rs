//! Sections of configuration that several services share. Services run from the environment;
//! `amaima up` fills the same structs directly.

use serde::Deserialize;
use std::{fmt, str::FromStr, time::Duration};

/// A setting in the environment is not usable.
#[derive(Debug, thiserror::Error)]
#[error("{name} is not valid: {reason}")]
pub struct Error {
    /// The variable.
    pub name: &'static str,
    /// The rule that it breaks.
    pub reason: String,
}

/// Text that is never printed.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// When the server of the log may say that a message is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sync {
    /// When the disk has it.
    #[default]
    Always,
    /// When the operating system has it: a crash of the machine may lose the last ones.
    Relaxed,
}

impl Sync {
    /// As it is written in the environment.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Relaxed => "relaxed",
        }
    }
}

impl FromStr for Sync {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "always" => Ok(Self::Always),
            "relaxed" => Ok(Self::Relaxed),
            _ => Err("neither `always` nor `relaxed`"),
        }
    }
}

/// How to reach NATS.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nats {
    /// `nats://host:port`, several separated by commas. May hold a user and a password.
    pub url: Secret,
    /// Copies of every stream; 1 on a single server.
    #[serde(default = "one")]
    pub replicas: usize,
    /// What the server of the log is expected to do. A weaker one stops the start.
    #[serde(default)]
    pub sync: Sync,
    /// The same server as a user of its system account, who may ask it whether it does.
    #[serde(default)]
    pub system_url: Option<Secret>,
    /// The same server as the user who alone may purge the log; for projection-svc.
    #[serde(default)]
    pub purge_url: Option<Secret>,
    /// Whether the operator vouches for it, where no system account can be asked.
    #[serde(default)]
    pub sync_unchecked: bool,
    /// Whether a log that is made is one that queries may leave long after they have ended.
    #[serde(default)]
    pub bounded: bool,
}

const fn one() -> usize {
    1
}

impl Nats {
    /// A single server whose writes may be relaxed, as in tests.
    pub fn at(url: &str) -> Self {
        Self {
            url: Secret::new(url),
            replicas: 1,
            sync: Sync::Relaxed,
            system_url: None,
            purge_url: None,
            sync_unchecked: false,
            bounded: false,
        }
    }

    /// `NATS_URL`, `NATS_REPLICAS`, `NATS_SYNC` (`always` or `relaxed`), `NATS_SYSTEM_URL`,
    /// `NATS_PURGE_URL`, `NATS_SYNC_UNCHECKED` and [`keep_from_env`].
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn from_env() -> Result<Self, Error> {
        Ok(Self {
            url: Secret::new(text("NATS_URL", "nats://127.0.0.1:4222")),
            replicas: parsed("NATS_REPLICAS", 1)?,
            sync: parsed("NATS_SYNC", Sync::Always)?,
            system_url: secret("NATS_SYSTEM_URL"),
            purge_url: secret("NATS_PURGE_URL"),
            sync_unchecked: parsed("NATS_SYNC_UNCHECKED", false)?,
            bounded: keep_from_env()?.is_some(),
        })
    }
}

/// `LOG_KEEP_DAYS`: how long a query stays in the log after its end; `None` means for ever.
///
/// # Errors
/// When it is no such time.
pub fn keep_from_env() -> Result<Option<Duration>, Error> {
    let days: f64 = parsed("LOG_KEEP_DAYS", 0.0)?;
    let keep = Duration::try_from_secs_f64(days * 86_400.0).map_err(|_| Error {
        name: "LOG_KEEP_DAYS",
        reason: "it is a number of days, or 0 for ever".to_owned(),
    })?;
    Ok(Some(keep).filter(|keep| !keep.is_zero()))
}

/// How to reach PostgreSQL.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postgres {
    /// `postgres://user:password@host:port/database`
    pub url: Secret,
    /// Most connections of one process.
    pub max_connections: u32,
}

impl Postgres {
    /// A database, with as many connections as one projection and its readers need.
    pub fn at(url: &str) -> Self {
        Self {
            url: Secret::new(url),
            max_connections: 16,
        }
    }

    /// `DATABASE_URL` and `DATABASE_MAX_CONNECTIONS`.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn from_env() -> Result<Self, Error> {
        Ok(Self {
            url: Secret::new(text("DATABASE_URL", "postgres://127.0.0.1:5432/amaima")),
            max_connections: parsed("DATABASE_MAX_CONNECTIONS", 16)?,
        })
    }
}

/// The bucket where none is named.
pub const BUCKET: &str = "amaima-files";

/// How to reach the object store.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectStore {
    /// Base URL of an S3 endpoint.
    pub endpoint: String,
    /// Its region.
    pub region: String,
    /// The bucket that holds our objects.
    pub bucket: String,
    /// Access key.
    pub access_key: String,
    /// Secret key.
    pub secret_key: Secret,
}

impl ObjectStore {
    /// `S3_ENDPOINT` with its `S3_REGION`, `S3_BUCKET`, `S3_ACCESS_KEY` and `S3_SECRET_KEY`;
    /// `None` without an endpoint.
    ///
    /// # Errors
    /// When the endpoint stands without the keys that it needs.
    pub fn from_env() -> Result<Option<Self>, Error> {
        let endpoint = text("S3_ENDPOINT", "");
        if endpoint.is_empty() {
            return Ok(None);
        }
        let needed = |name| match text(name, "") {
            empty if empty.is_empty() => Err(Error {
                name,
                reason: "S3_ENDPOINT is set and needs it".to_owned(),
            }),
            given => Ok(given),
        };
        Ok(Some(Self {
            endpoint,
            region: text("S3_REGION", "us-east-1"),
            bucket: text("S3_BUCKET", BUCKET),
            access_key: needed("S3_ACCESS_KEY")?,
            secret_key: Secret::new(needed("S3_SECRET_KEY")?),
        }))
    }
}

/// The variable's text as a secret, unless it is absent or empty.
fn secret(name: &str) -> Option<Secret> {
    Some(Secret::new(text(name, ""))).filter(|secret| !secret.expose().is_empty())
}

/// The variable's text, or the default where it is absent or empty.
pub fn text(name: &str, default: &str) -> String {
    std::env::var(name)
        .ok()
        .filter(|text| !text.is_empty())
        .unwrap_or_else(|| default.to_owned())
}

/// The variable's value, or the default where it is absent or empty.
///
/// # Errors
/// When there is a text that cannot be read as `T`.
pub fn parsed<T: FromStr>(name: &'static str, default: T) -> Result<T, Error>
where
    T::Err: fmt::Display,
{
    Ok(optional(name)?.unwrap_or(default))
}

/// The variable's value; `None` where it is absent or empty.
///
/// # Errors
/// When there is a text that cannot be read as `T`.
pub fn optional<T: FromStr>(name: &'static str) -> Result<Option<T>, Error>
where
    T::Err: fmt::Display,
{
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => {
            let value = text.parse().map_err(|error: T::Err| Error {
                name,
                reason: error.to_string(),
            })?;
            Ok(Some(value))
        }
        Ok(_) | Err(_) => Ok(None),
    }
}
