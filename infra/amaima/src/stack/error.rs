//! What can go wrong with a stack.

use super::wait::TimedOut;
use std::{fmt, io, path::PathBuf};

/// One of the three servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKind {
    /// nats-server with JetStream.
    Nats,
    /// PostgreSQL.
    Postgres,
    /// The S3 endpoint.
    S3,
}

impl fmt::Display for ServerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nats => "nats-server",
            Self::Postgres => "PostgreSQL",
            Self::S3 => "S3 endpoint",
        })
    }
}

/// The stack could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another stack runs on the same data directory.
    #[error(
        "{} is in use by another amaima (process {pid}); stop it with `amaima down`, or choose \
         another directory with --data-dir",
        data_dir.display()
    )]
    InUse {
        /// The directory.
        data_dir: PathBuf,
        /// Who holds it, as the lock file says.
        pid: String,
    },
    /// A program is missing or too old, and cannot be installed from here.
    #[error("{}", missing(program, refused, attempt.as_deref(), how_to))]
    Missing {
        /// Its name.
        program: &'static str,
        /// The versions that were found but cannot be used, with the reason.
        refused: Vec<String>,
        /// Why the installation failed, if one was tried.
        attempt: Option<String>,
        /// The commands to type.
        how_to: String,
    },
    /// A program cannot be installed from here.
    #[error("{reason}")]
    CannotInstall {
        /// Why not.
        reason: String,
    },
    /// A downloaded file is not the pinned one.
    #[error("{} has SHA-256 {found}, not the pinned {expected}; it was not installed", file.display())]
    WrongHash {
        /// The file.
        file: PathBuf,
        /// What was pinned.
        expected: String,
        /// What was downloaded.
        found: String,
    },
    /// A server ended instead of answering.
    #[error("{server} ended with {status} before it answered; the end of its log:\n{log}")]
    Ended {
        /// Which.
        server: ServerKind,
        /// How it ended.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// A server did not answer in time.
    #[error("{server} is not ready; the end of its log:\n{log}")]
    NotReady {
        /// Which.
        server: ServerKind,
        /// The end of its log.
        log: String,
        /// The last failure.
        source: TimedOut,
    },
    /// A given port is taken.
    #[error("port {port} for {server} is taken on 127.0.0.1")]
    PortTaken {
        /// Which.
        server: ServerKind,
        /// The port.
        port: u16,
    },
    /// A server given by the environment is not usable.
    #[error("the given {server} cannot be used: {reason}")]
    Unusable {
        /// Which.
        server: ServerKind,
        /// Why.
        reason: String,
    },
    /// The server was started by somebody else.
    #[error("{server} is not ours to control: it was given by the environment or the caller")]
    NotOurs {
        /// Which.
        server: ServerKind,
    },
    /// The server is not running.
    #[error("{server} is not running")]
    NotRunning {
        /// Which.
        server: ServerKind,
    },
    /// Settings in the environment do not fit together.
    #[error(transparent)]
    Config(#[from] infra::config::Error),
    /// A program that the stack ran failed.
    #[error("{command} failed: {output}")]
    Command {
        /// The command line.
        command: String,
        /// What it said.
        output: String,
    },
    /// PostgreSQL refused a statement.
    #[error("PostgreSQL: {what}")]
    Postgres {
        /// What was tried.
        what: String,
        /// The refusal.
        source: sqlx::Error,
    },
    /// A file or directory could not be used.
    #[error("{what}: {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The data directory holds something that cannot be used.
    #[error("{}: {reason}", path.display())]
    Data {
        /// What.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

impl Error {
    pub(super) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}

fn missing(program: &str, refused: &[String], attempt: Option<&str>, how_to: &str) -> String {
    let mut text = format!("no usable {program} was found");
    for reason in refused {
        text.push_str("\n  refused: ");
        text.push_str(reason);
    }
    if let Some(attempt) = attempt {
        text.push_str("\n  installing it failed: ");
        text.push_str(attempt);
    }
    text.push_str("\nInstall it with:\n");
    text.push_str(how_to);
    text
}
