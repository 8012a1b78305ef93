//! `amaima admin aggregate`: one aggregate, straight from the log, or from the copy if it has left.

mod commits;
mod diff;
mod history;
mod mask;
mod state;

use super::{Connection, Error, Exit, Output};
use clap::{Args, Subcommand};
use commits::{Commit, Named};

/// What is asked about an aggregate. It is named by its kind and id, or by its subject in the log.
#[derive(Debug, Subcommand)]
pub(super) enum Options {
    /// Each commit: what happened, when, by whose command
    #[command(after_help = super::EXIT_CODES)]
    History(History),
    /// The state that decisions start from, now or at a sequence
    #[command(after_help = super::EXIT_CODES)]
    State(State),
    /// What changed between two sequences, as JSON pointers (exit code 1 when something did)
    #[command(after_help = super::EXIT_CODES)]
    Diff(Diff),
}

/// See [`Options::History`].
#[derive(Debug, Args)]
pub(super) struct History {
    /// Kind and id, or the subject in the log
    #[arg(num_args = 1..=2, required = true, value_name = "KIND ID | SUBJECT")]
    aggregate: Vec<String>,
    /// The events themselves as well; secrets are masked
    #[arg(long)]
    events: bool,
}

/// See [`Options::State`].
#[derive(Debug, Args)]
pub(super) struct State {
    /// Kind and id, or the subject in the log
    #[arg(num_args = 1..=2, required = true, value_name = "KIND ID | SUBJECT")]
    aggregate: Vec<String>,
    /// As it was when the log had this sequence
    #[arg(long, value_name = "SEQ")]
    at: Option<u64>,
}

/// See [`Options::Diff`].
#[derive(Debug, Args)]
pub(super) struct Diff {
    /// Kind and id, or the subject in the log; then two sequences
    #[arg(num_args = 3..=4, required = true, value_name = "KIND ID | SUBJECT, SEQ SEQ")]
    aggregate_and_sequences: Vec<String>,
}

pub(super) async fn run(
    connection: &Connection,
    options: Options,
    output: &mut Output<'_>,
) -> Result<Exit, Error> {
    match options {
        Options::History(options) => {
            let named = Named::parse(&options.aggregate)?;
            let commits = commits::read(connection, &named).await?;
            history::run(&named, &commits, options.events, output)
        }
        Options::State(options) => {
            let named = Named::parse(&options.aggregate)?;
            let commits = commits::read(connection, &named).await?;
            state::run(&named, &commits, options.at, output)
        }
        Options::Diff(options) => {
            let (named, sequences) = options
                .aggregate_and_sequences
                .split_at(options.aggregate_and_sequences.len() - 2);
            let named = Named::parse(named)?;
            let (from, to) = (sequence(&sequences[0])?, sequence(&sequences[1])?);
            let commits = commits::read(connection, &named).await?;
            diff::run(&named, &commits, from, to, output)
        }
    }
}

fn sequence(text: &str) -> Result<u64, Error> {
    text.parse()
        .map_err(|_| Error::Unknown(format!("{text:?} is no sequence of the log")))
}
