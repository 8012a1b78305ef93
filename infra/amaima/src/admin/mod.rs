//! `amaima admin`: looking into a system that runs, and mending it.
//!
//! One file per subject. Each makes a report that can be written twice: as a table for people
//! ([`std::fmt::Display`]) and as one JSON document for scripts ([`serde::Serialize`], whose keys
//! are stable). To add a subject: its file with `Options` and `run`, its variant in [`Subject`] and
//! its line in [`run`].

mod aggregate;
mod archive;
mod backup;
mod catalogue;
mod connection;
mod erase;
mod error;
mod export;
mod keys;
mod output;
mod policies;
mod progress;
mod projections;
mod restore;
mod streams;
mod table;
mod verify;

pub use connection::Connection;
pub use error::Error;
pub use output::{Exit, Output};
pub use progress::Progress;
pub use table::Table;

use clap::{Args, Subcommand};
use std::{io::Write, path::Path};

/// Said by the help of every subject.
const EXIT_CODES: &str = "\
Exit codes:
  0  all is well
  1  degraded, or something was found that somebody should look at
  2  ill, unreachable or unknown, and usage errors";

/// What is looked at, and where.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Options {
    /// The bus, as `nats://host:port`; without it the running `amaima up` of the data directory
    #[arg(long, env = "NATS_URL", hide_env_values = true, global = true)]
    nats_url: Option<String>,
    /// One JSON document instead of tables; errors as `{"error": …}`
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, Subcommand)]
enum Subject {
    /// The streams, their consumers, and whether their settings keep what we promise
    #[command(after_help = EXIT_CODES)]
    Streams,
    /// One aggregate: its history, its state, what changed between two of its states
    #[command(subcommand, after_help = EXIT_CODES)]
    Aggregate(aggregate::Options),
    /// The types of events, their versions, how many of each the log holds
    #[command(after_help = EXIT_CODES)]
    Catalogue(catalogue::Options),
    /// How far the policies are, what they have set aside, what they would do
    #[command(after_help = EXIT_CODES)]
    Policies(policies::Options),
    /// The copy of the log: where it is, and how far it lags behind
    #[command(after_help = EXIT_CODES)]
    Archive,
    /// Compare the log with its copy, and name the first difference
    #[command(after_help = verify::EXIT_CODES)]
    Verify(verify::Options),
    /// Write everything that another machine needs to go on into a directory
    #[command(after_help = EXIT_CODES)]
    Backup(backup::Options),
    /// Write the log anew, on servers without one, from a backup or from its copy
    #[command(after_help = EXIT_CODES)]
    Restore(restore::Options),
    /// The projections: how far they are, building them anew, what they have set aside
    #[command(after_help = EXIT_CODES)]
    Projections(projections::Options),
    /// Forget a person for ever, in every copy and backup
    #[command(after_help = EXIT_CODES)]
    Erase(erase::Options),
    /// The keys of persons and the master keys: how many, rotation, backup
    #[command(subcommand, after_help = EXIT_CODES)]
    Keys(keys::Options),
    /// One of the analysts' views as a Parquet file
    #[command(after_help = EXIT_CODES)]
    Export(export::Options),
}

/// Does what was asked for, and tells how it is with the system. What was found out goes to `out`,
/// progress and errors to standard error.
pub async fn run(data_dir: &Path, options: Options, out: &mut (dyn Write + Send)) -> Exit {
    let mut output = Output::new(out, options.json);
    let asked = async {
        let bus = Connection::open(data_dir, options.nats_url.as_deref());
        match options.subject {
            Subject::Streams => streams::run(&bus.await?, &mut output).await,
            Subject::Aggregate(options) => aggregate::run(&bus.await?, options, &mut output).await,
            Subject::Catalogue(options) => catalogue::run(&bus.await?, options, &mut output).await,
            Subject::Policies(options) => policies::run(&bus.await?, options, &mut output).await,
            Subject::Archive => archive::run(data_dir, &bus.await?, &mut output).await,
            Subject::Verify(options) => {
                verify::run(data_dir, &bus.await?, options, &mut output).await
            }
            Subject::Backup(options) => {
                backup::run(data_dir, &bus.await?, options, &mut output).await
            }
            Subject::Restore(options) => {
                restore::run(data_dir, &bus.await?, options, &mut output).await
            }
            Subject::Projections(options) => {
                projections::run(&bus.await?, options, &mut output).await
            }
            Subject::Erase(options) => erase::run(&bus.await?, options, &mut output).await,
            Subject::Keys(keys::Options::New { name }) => keys::new(&name, &mut output),
            Subject::Keys(options) => keys::run(&bus.await?, options, &mut output).await,
            // Asks the database and nobody on the bus.
            Subject::Export(options) => export::run(data_dir, options, &mut output).await,
        }
    };
    match asked.await {
        Ok(exit) => exit,
        Err(error) => {
            output.failed(&error);
            Exit::Ill
        }
    }
}
