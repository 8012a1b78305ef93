//! One server of a stack, as a test takes hold of it.

use super::{Error, ServerKind, nats::Nats, postgres::Postgres, s3::S3};
use std::path::Path;

/// A server of the stack. The methods that control it fail with [`Error::NotOurs`] for a server
/// that was given from outside.
#[derive(Debug)]
pub struct Server {
    kind: ServerKind,
    body: Body,
}

#[derive(Debug)]
pub(super) enum Body {
    Existing,
    Nats(Nats),
    Postgres(Postgres),
    S3(S3),
}

impl Server {
    pub(super) fn new(kind: ServerKind, body: Body) -> Self {
        Self { kind, body }
    }

    /// Which one.
    pub fn kind(&self) -> ServerKind {
        self.kind
    }

    /// Its process, while it runs in one: the S3 endpoint lives in this process.
    pub fn pid(&self) -> Option<u32> {
        match &self.body {
            Body::Existing | Body::S3(_) => None,
            Body::Nats(nats) => nats.pid(),
            Body::Postgres(postgres) => postgres.pid(),
        }
    }

    /// Its log file, where it has one.
    pub fn log_file(&self) -> Option<&Path> {
        match &self.body {
            Body::Existing | Body::S3(_) => None,
            Body::Nats(nats) => Some(nats.log_file()),
            Body::Postgres(postgres) => Some(postgres.log_file()),
        }
    }

    /// Ends it at once, like `kill -9` (with PostgreSQL's own children), and returns when it is
    /// gone. Connections break.
    ///
    /// # Errors
    /// When it is not ours or not running.
    pub async fn kill(&self) -> Result<(), Error> {
        match &self.body {
            Body::Existing => Err(self.not_ours()),
            Body::Nats(nats) => nats.kill(),
            Body::Postgres(postgres) => postgres.kill().await,
            Body::S3(s3) => s3.stop(),
        }
    }

    /// Freezes it, like `SIGSTOP`: connections stay open and nothing answers.
    ///
    /// # Errors
    /// When it is not ours or not running.
    pub fn pause(&self) -> Result<(), Error> {
        match &self.body {
            Body::Existing => Err(self.not_ours()),
            Body::Nats(nats) => nats.pause(),
            Body::Postgres(postgres) => postgres.pause(),
            Body::S3(s3) => s3.pause(),
        }
    }

    /// Thaws it after [`Server::pause`].
    ///
    /// # Errors
    /// When it is not ours or not running.
    pub fn resume(&self) -> Result<(), Error> {
        match &self.body {
            Body::Existing => Err(self.not_ours()),
            Body::Nats(nats) => nats.resume(),
            Body::Postgres(postgres) => postgres.resume(),
            Body::S3(s3) => s3.resume(),
        }
    }

    /// Stops it in good order and returns when it is gone.
    ///
    /// # Errors
    /// When it is not ours, or does not end in time.
    pub async fn stop(&self) -> Result<(), Error> {
        match &self.body {
            Body::Existing => Err(self.not_ours()),
            Body::Nats(nats) => nats.stop().await,
            Body::Postgres(postgres) => postgres.stop().await,
            Body::S3(s3) => s3.stop(),
        }
    }

    /// Starts it again on the same port and data, stopping it first if it runs, and returns when
    /// it answers.
    ///
    /// # Errors
    /// When it is not ours, or does not answer in time.
    pub async fn restart(&self) -> Result<(), Error> {
        match &self.body {
            Body::Existing => Err(self.not_ours()),
            Body::Nats(nats) => nats.restart().await,
            Body::Postgres(postgres) => postgres.restart().await,
            Body::S3(s3) => s3.restart().await,
        }
    }

    /// It ended although nobody stopped it.
    pub(super) fn is_lost(&self) -> bool {
        match &self.body {
            Body::Existing | Body::S3(_) => false,
            Body::Nats(nats) => nats.is_lost(),
            Body::Postgres(postgres) => postgres.is_lost(),
        }
    }

    fn not_ours(&self) -> Error {
        Error::NotOurs { server: self.kind }
    }
}
