use std::path::{Path, PathBuf};

/// The question was not answered; says what is missing and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a URL nor a running stack.
    #[error(
        "nothing runs on {data_dir}: start it with `amaima up`, or name the bus with --nats-url or NATS_URL"
    )]
    NothingRuns {
        /// The data directory that was looked at.
        data_dir: PathBuf,
    },
    /// The data directory cannot be read.
    #[error(transparent)]
    Stack(#[from] crate::stack::Error),
    /// A setting cannot be read.
    #[error(transparent)]
    Config(#[from] infra::config::Error),
    /// It is not known where the objects are.
    #[error(
        "it is not known where the copy of the log is: set S3_ENDPOINT and what belongs to it, as for projection-svc"
    )]
    NoObjects,
    /// Nobody answers.
    #[error("no NATS answers at {address}: is nats-server up, and is that the right URL?")]
    Unreachable {
        /// Where, without user and password.
        address: String,
        /// What came instead.
        source: infra::nats::Error,
    },
    /// Neither a URL nor a running stack with a database of its own.
    #[error(
        "no database runs on {data_dir}: start it with `amaima up`, or name one with --database-url or DATABASE_URL"
    )]
    NoDatabase {
        /// The data directory that was looked at.
        data_dir: PathBuf,
    },
    /// No database answers.
    #[error(
        "PostgreSQL at {address} lets nobody in: is it up, and are that the right URL and login?"
    )]
    DatabaseUnreachable {
        /// Where, without user and password.
        address: String,
        /// What came instead.
        source: async_nats::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: parquet::errors::ParquetError,
    },
    /// A request to the servers or to a service failed.
    #[error("{what} cannot be had just now")]
    Failed {
        /// What was asked for.
        what: String,
        /// Why not.
        source: async_nats::Error,
    },
    /// There is no such thing.
    #[error("{0}")]
    Unknown(String),
    /// What was found is not what this version of the program can read.
    #[error(transparent)]
    Undecodable(#[from] domain::commit::Undecodable),
}

impl Error {
    /// For `map_err`: what was asked for and did not come.
    pub fn failed<E: Into<async_nats::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::Failed {
            what,
            source: source.into(),
        }
    }

    /// For `map_err`: the file that could not be written.
    pub fn unwritable(path: &Path) -> impl FnOnce(parquet::errors::ParquetError) -> Self {
        let path = path.to_owned();
        move |source| Self::Unwritable { path, source }
    }
}
