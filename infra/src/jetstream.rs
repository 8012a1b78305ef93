//! The streams and buckets that the system stands on, made at start and checked: a stream that
//! exists with weaker settings stops the start, since promises rest on them.

use crate::config;
use async_nats::{
    Client,
    jetstream::{
        self,
        context::{CreateKeyValueError, CreateStreamError},
        kv,
        stream::{
            Compression, Config, DiscardPolicy, PersistenceMode, Republish, RetentionPolicy,
            StorageType,
        },
    },
};
use domain::{limits, subject};
use std::time::Duration;

/// The ground could not be laid.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A stream could not be made or changed.
    #[error("stream {name} cannot be set up")]
    Stream {
        /// Its name.
        name: &'static str,
        /// What the server says.
        source: CreateStreamError,
    },
    /// A bucket could not be made or changed.
    #[error("bucket {name} cannot be set up")]
    Bucket {
        /// Its name.
        name: &'static str,
        /// What the server says.
        source: CreateKeyValueError,
    },
    /// The server is too old: it accepts conflicting writes.
    #[error(
        "nats-server {found} is too old: {required} or newer is needed, since older ones accept conflicting writes"
    )]
    ServerTooOld {
        /// What answered.
        found: String,
        /// What is needed.
        required: &'static str,
    },
    /// A stream has not the settings that were asked for.
    #[error("stream {name} has other settings than asked for: {setting}")]
    Weaker {
        /// Its name.
        name: &'static str,
        /// The setting.
        setting: &'static str,
    },
}

/// How long the server remembers message ids.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// How long a token stream can be replayed (contract §15).
const REPLAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes every stream and bucket, or brings it up to date, and checks what the server made of it.
///
/// # Errors
/// When the server is too old or does not agree.
pub async fn prepare(client: &Client, nats: &config::Nats) -> Result<jetstream::Context, Error> {
    if !client.is_server_compatible(2, 14, 0) {
        let found = client.server_info().version;
        return Err(Error::ServerTooOld {
            found,
            required: "2.14",
        });
    }
    let context = jetstream::new(client.clone());
    for (name, config) in [
        (subject::EVENTS, events(nats)),
        (subject::JOBS, jobs(nats)),
        (subject::TOKENS, tokens(nats)),
    ] {
        let info = context
            .create_or_update_stream(config.clone())
            .await
            .map_err(|source| Error::Stream { name, source })?;
        check(name, &config, &info.config)?;
    }
    for config in [revoked(nats), submissions(nats)] {
        let name = if config.bucket == subject::REVOKED {
            subject::REVOKED
        } else {
            subject::SUBMISSIONS
        };
        context
            .create_or_update_key_value(config)
            .await
            .map_err(|source| Error::Bucket { name, source })?;
    }
    Ok(context)
}

/// The log. Nothing leaves it, nothing is refused silently.
fn events(nats: &config::Nats) -> Config {
    Config {
        name: subject::EVENTS.into(),
        description: Some("One message per decision: a batch of CloudEvents".into()),
        subjects: vec![subject::ALL_EVENTS.into()],
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: nats.replicas,
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: true,
        allow_atomic_publish: true,
        deny_delete: true,
        compression: Some(Compression::S2),
        ..Config::default()
    }
}

/// Work for inference workers; a message is gone once its worker is done.
fn jobs(nats: &config::Nats) -> Config {
    Config {
        name: subject::JOBS.into(),
        description: Some("Queries that wait for a worker".into()),
        subjects: vec![subject::ALL_JOBS.into()],
        retention: RetentionPolicy::WorkQueue,
        storage: StorageType::File,
        num_replicas: nats.replicas,
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: true,
        ..Config::default()
    }
}

/// What followers are told. It is a replayable view of the record, so that the server need not
/// sync each chunk. What was stored is published again under `live.<query>`: a core subscriber of
/// the subject itself would also see messages that the stream refused.
fn tokens(nats: &config::Nats) -> Config {
    Config {
        name: subject::TOKENS.into(),
        description: Some("Token streams of queries, replayable for a day".into()),
        subjects: vec![subject::ALL_TOKENS.into()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: nats.replicas,
        max_age: REPLAY,
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: true,
        // Replicated streams write through the replication log; the server refuses the mode there.
        persist_mode: (nats.replicas == 1).then_some(PersistenceMode::Async),
        republish: Some(Republish {
            source: subject::ALL_TOKENS.into(),
            destination: "live.{{wildcard(1)}}".into(),
            headers_only: false,
        }),
        ..Config::default()
    }
}

fn revoked(nats: &config::Nats) -> kv::Config {
    kv::Config {
        bucket: subject::REVOKED.into(),
        description: "Refresh ids and sessions that are worthless".into(),
        history: 1,
        num_replicas: nats.replicas,
        limit_markers: Some(Duration::from_secs(60)),
        ..kv::Config::default()
    }
}

/// In files, since a bucket in memory is gone after a restart of its server, and submitting with it.
fn submissions(nats: &config::Nats) -> kv::Config {
    kv::Config {
        bucket: subject::SUBMISSIONS.into(),
        description: "Each user's latest submissions, for duplicates and claims".into(),
        history: 1,
        max_age: Duration::from_millis(limits::CLAIM_QUERY_MILLIS),
        storage: StorageType::File,
        num_replicas: nats.replicas,
        ..kv::Config::default()
    }
}

fn check(name: &'static str, wanted: &Config, made: &Config) -> Result<(), Error> {
    let weaker = |setting| Err(Error::Weaker { name, setting });
    if made.num_replicas < wanted.num_replicas {
        return weaker("replicas");
    }
    if made.storage != wanted.storage {
        return weaker("storage");
    }
    if made.retention != wanted.retention {
        return weaker("retention");
    }
    if made.discard != wanted.discard {
        return weaker("discard");
    }
    if made.allow_direct != wanted.allow_direct {
        return weaker("allow_direct");
    }
    if made.allow_atomic_publish != wanted.allow_atomic_publish {
        return weaker("allow_atomic");
    }
    if made.republish != wanted.republish {
        return weaker("republish");
    }
    // Writes may be relaxed only where they were asked to be.
    if made.persist_mode == Some(PersistenceMode::Async) && wanted.persist_mode != made.persist_mode
    {
        return weaker("persist_mode");
    }
    Ok(())
}
