//! The tables, made and changed at start. Instances that start together take turns: the migrator
//! holds an advisory lock.

use infra::telemetry::chain;
use sqlx::{
    PgPool,
    migrate::{MigrateError, Migrator},
};
use tracing::{info, warn};

static MIGRATOR: Migrator = sqlx::migrate!();

/// Applies what is missing, as soon as the database is there.
pub(crate) async fn apply(pool: &PgPool) -> Result<(), MigrateError> {
    let mut backoff = crate::backoff();
    loop {
        match MIGRATOR.run(pool).await {
            Ok(()) => {
                info!("the tables are up to date");
                return Ok(());
            }
            Err(error) if is_transient(&error) => {
                warn!(error = chain(&error), "the database is not there yet");
                backoff.wait().await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_transient(error: &MigrateError) -> bool {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => match error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
            // Classes 08 (connection), 53 (resources) and 57 (the server stops or starts).
            sqlx::Error::Database(error) => error.code().is_some_and(|code| {
                ["08", "53", "57"]
                    .iter()
                    .any(|class| code.starts_with(class))
            }),
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_waited_for() {
        assert!(is_transient(&MigrateError::Execute(
            sqlx::Error::PoolTimedOut
        )));
        assert!(!is_transient(&MigrateError::VersionMismatch(1)));
    }

    #[test]
    fn migrations_are_numbered_without_gaps() {
        let versions: Vec<i64> = MIGRATOR.iter().map(|migration| migration.version).collect();
        let dense: Vec<i64> = (1..).take(versions.len()).collect();
        assert_eq!(versions, dense);
    }
}
