//! The pool of connections to PostgreSQL.

use crate::config;
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::{str::FromStr, time::Duration};

/// The database could not be named.
#[derive(Debug, thiserror::Error)]
#[error("the database URL cannot be read")]
pub struct Error(#[from] sqlx::Error);

/// How to connect to the database, under a name that its list of connections shows.
///
/// # Errors
/// When the URL cannot be read.
pub fn options(config: &config::Postgres, name: &str) -> Result<PgConnectOptions, Error> {
    Ok(PgConnectOptions::from_str(config.url.expose())?
        .application_name(name)
        .options([("timezone", "UTC")]))
}

/// A pool that connects when it is first used, so that a process starts while the database is down.
pub fn pool(config: &config::Postgres, options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(config.max_connections)
        .acquire_timeout(Duration::from_secs(2))
        .connect_lazy_with(options)
}
