//! `amaima admin policies`: how far the policies are, what they have set aside, what they would do.

mod dry_run;
mod parked;
mod status;

use super::{Connection, Error, Exit, Output};
use clap::{Args, Subcommand};

/// What is asked about policies; without a subcommand, how far they are.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(subcommand)]
    ask: Option<Ask>,
}

#[derive(Debug, Subcommand)]
enum Ask {
    /// Replay them over the log without doing anything, and count what would be done
    #[command(after_help = super::EXIT_CODES)]
    DryRun(dry_run::Options),
    /// Have parked commits tried again, after what was in their way is mended
    #[command(after_help = super::EXIT_CODES)]
    Retry(parked::Retry),
    /// Let a parked commit go: its reactions will never happen
    #[command(after_help = super::EXIT_CODES)]
    Skip(parked::Skip),
}

pub(super) async fn run(
    connection: &Connection,
    options: Options,
    output: &mut Output<'_>,
) -> Result<Exit, Error> {
    match options.ask {
        None => status::run(connection, output).await,
        Some(Ask::DryRun(options)) => dry_run::run(connection, options, output).await,
        Some(Ask::Retry(options)) => parked::retry(connection, &options, output).await,
        Some(Ask::Skip(options)) => parked::skip(connection, options, output).await,
    }
}
