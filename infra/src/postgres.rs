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

/// A pool that connects when it is first used, so that a process starts while the database is down.
///
/// # Errors
/// When the URL cannot be read.
pub fn pool(config: &config::Postgres, name: &str) -> Result<PgPool, Error> {
    let options = PgConnectOptions::from_str(config.url.expose())?
        .application_name(name)
        .options([("timezone", "UTC")]);
    Ok(PgPoolOptions::new()
        .max_connections(config.max_connections)
        .acquire_timeout(Duration::from_secs(2))
        .connect_lazy_with(options))
}
