//! The streams and buckets that the system stands on, made at start and checked: a stream that
//! exists with weaker settings stops the start, since promises rest on them.

use crate::config;
use async_nats::{
    Client,
    jetstream::{
        self, ErrorCode,
        context::{CreateKeyValueError, CreateStreamError},
        kv,
        stream::{
            Compression, Config, DiscardPolicy, InfoError, PersistenceMode, Republish,
            RetentionPolicy, StorageType,
        },
    },
};
use domain::{limits, subject};
use std::{collections::HashMap, time::Duration};

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
    /// The log is gone, and the other streams are not.
    #[error(
        "the stream {log} is gone although {other} is there: its server could not load it, or somebody deleted it; a new one would delete what is left of it on disk. Look at the server's log, then restore (`amaima admin restore`), or delete {other} as well to begin anew",
        log = subject::EVENTS
    )]
    LogLost {
        /// A stream that is there.
        other: &'static str,
    },
    /// The keys of persons are gone, and the log is not.
    #[error(
        "the stream {keys} is gone although {log} holds sealed commits: its server could not load it, or somebody deleted it; without the keys nothing can be read. Look at the server's log, then bring the keys back (`amaima admin keys restore`)",
        keys = subject::KEYS, log = subject::EVENTS
    )]
    KeysLost,
    /// The streams cannot be looked up.
    #[error("the streams cannot be looked up")]
    Lookup(#[source] InfoError),
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
const REPLAY: Duration = Duration::from_millis(limits::TOKENS_LIFE_MILLIS);
/// Marks a log whose commits may be sealed, in the stream's metadata.
const SEALED: &str = "amaima-sealed";
/// Most bytes of parked commits, some ten thousand of them.
const PARKED_BYTES: i64 = 8 * 1024 * 1024;

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
    let log = log_as_made(&context).await?;
    demand_keys(&context, log.as_ref()).await?;
    for (name, mut config) in streams(nats) {
        if let (subject::EVENTS, Some(log)) = (name, &log) {
            // The server does not take this back, and it says whether something may have left.
            config.deny_purge = log.deny_purge;
        }
        let info = context
            .create_or_update_stream(config.clone())
            .await
            .map_err(|source| Error::Stream { name, source })?;
        check(name, &config, &info.config)?;
    }
    for (name, config) in [
        (subject::REVOKED, revoked(nats)),
        (subject::SUBMISSIONS, submissions(nats)),
        (subject::SNAPSHOTS, snapshots(nats)),
        (subject::PARKED_POLICIES, parked_policies(nats)),
        (subject::WORKERS, workers(nats)),
    ] {
        context
            .create_or_update_key_value(config)
            .await
            .map_err(|source| Error::Bucket { name, source })?;
    }
    Ok(context)
}

/// Makes the stream of keys alone, for keys that have to be there before the log.
///
/// # Errors
/// When the server does not agree.
pub async fn prepare_keys(client: &Client, nats: &config::Nats) -> Result<(), Error> {
    let (name, config) = (subject::KEYS, keys(nats));
    let made = jetstream::new(client.clone())
        .create_or_update_stream(config.clone())
        .await;
    let info = made.map_err(|source| Error::Stream { name, source })?;
    check(name, &config, &info.config)
}

/// How the log was made, if it is there. A server that finds a damaged block at its start may leave
/// the whole stream out, and a stream of that name that is made then takes the place of its files.
/// So the log is made only where nothing is: it is always made before the other streams.
async fn log_as_made(context: &jetstream::Context) -> Result<Option<Config>, Error> {
    if let Some(log) = look_up(context, subject::EVENTS).await? {
        return Ok(Some(log));
    }
    for other in [subject::JOBS, subject::TOKENS, subject::TIMERS] {
        if look_up(context, other).await?.is_some() {
            // Somebody else may have made both between the two questions.
            let log = look_up(context, subject::EVENTS).await?;
            return log.map(Some).ok_or(Error::LogLost { other });
        }
    }
    Ok(None)
}

/// The keys are made before the log is marked as sealed.
async fn demand_keys(context: &jetstream::Context, log: Option<&Config>) -> Result<(), Error> {
    let is_sealed = log.is_some_and(|log| log.metadata.contains_key(SEALED));
    if is_sealed && look_up(context, subject::KEYS).await?.is_none() {
        return Err(Error::KeysLost);
    }
    Ok(())
}

async fn look_up(context: &jetstream::Context, name: &str) -> Result<Option<Config>, Error> {
    let Ok(stream) = context.get_stream_no_info(name).await else {
        return Ok(None);
    };
    match stream.get_info().await {
        Ok(info) => Ok(Some(info.config)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(Error::Lookup(error)),
    }
}

/// Whether the log is one that queries may leave long after they have ended. That is decided when it
/// is made, and stays.
///
/// # Errors
/// When that cannot be said now.
pub async fn is_bounded(context: &jetstream::Context) -> Result<bool, Error> {
    let log = look_up(context, subject::EVENTS).await?;
    Ok(log.is_some_and(|log| !log.deny_purge))
}

/// Whether the server says that there is no such stream.
pub(crate) fn is_not_found(error: &InfoError) -> bool {
    let said = std::error::Error::source(error);
    let said = said.and_then(|source| source.downcast_ref::<jetstream::Error>());
    said.is_some_and(|said| said.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// The streams by their names, as the system needs them, in the order in which they are made.
pub fn streams(nats: &config::Nats) -> [(&'static str, Config); 5] {
    [
        (subject::KEYS, keys(nats)),
        (subject::EVENTS, events(nats)),
        (subject::JOBS, jobs(nats)),
        (subject::TOKENS, tokens(nats)),
        (subject::TIMERS, timers(nats)),
    ]
}

/// The log. Nothing is refused silently, and nothing leaves it but what a bounded one lets go.
pub(crate) fn events(nats: &config::Nats) -> Config {
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
        deny_purge: !nats.bounded,
        compression: Some(Compression::S2),
        metadata: HashMap::from([(SEALED.to_owned(), "1".to_owned())]),
        ..Config::default()
    }
}

/// The keys of persons. A key that is destroyed is deleted, which overwrites it on the disk.
fn keys(nats: &config::Nats) -> Config {
    Config {
        name: subject::KEYS.into(),
        description: Some("The keys of persons, wrapped: never part of a copy of the log".into()),
        subjects: vec![subject::ALL_KEYS.into()],
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: nats.replicas,
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: true,
        deny_purge: true,
        republish: Some(Republish {
            source: subject::ALL_KEYS.into(),
            destination: "changed.key.{{wildcard(1)}}".into(),
            headers_only: true,
        }),
        ..Config::default()
    }
}

/// Work for inference workers; a message is gone once its worker is done. What is for a model that
/// nobody has goes with time: its query has failed long before.
fn jobs(nats: &config::Nats) -> Config {
    Config {
        name: subject::JOBS.into(),
        description: Some("Queries that wait for a worker".into()),
        subjects: vec![subject::ALL_JOBS.into()],
        retention: RetentionPolicy::WorkQueue,
        storage: StorageType::File,
        max_age: REPLAY,
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

/// Timers, set and due. A due one is gone once what it calls for is done; the others wait for their
/// time. The server refuses `discard: new` beside schedules; nothing is discarded without a limit.
fn timers(nats: &config::Nats) -> Config {
    Config {
        name: subject::TIMERS.into(),
        description: Some("What should be done at a time".into()),
        subjects: subject::ALL_TIMERS.map(Into::into).to_vec(),
        retention: RetentionPolicy::WorkQueue,
        storage: StorageType::File,
        num_replicas: nats.replicas,
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: true,
        allow_message_schedules: true,
        // The server turns it on itself beside schedules.
        allow_rollup: true,
        allow_message_ttl: true,
        ..Config::default()
    }
}

/// Commits whose reactions cannot be carried out. While it is full, further ones wait in the log.
fn parked_policies(nats: &config::Nats) -> kv::Config {
    kv::Config {
        bucket: subject::PARKED_POLICIES.into(),
        description: "Commits whose reactions cannot be carried out".into(),
        history: 1,
        max_bytes: PARKED_BYTES,
        limit_markers: Some(Duration::from_secs(60)),
        storage: StorageType::File,
        num_replicas: nats.replicas,
        ..kv::Config::default()
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

/// In files, since a bucket in memory is gone after a restart of its server.
fn workers(nats: &config::Nats) -> kv::Config {
    kv::Config {
        bucket: subject::WORKERS.into(),
        description: "Inference workers and what they can take".into(),
        history: 1,
        max_age: Duration::from_millis(domain::wire::worker::GONE_MILLIS),
        storage: StorageType::File,
        num_replicas: nats.replicas,
        ..kv::Config::default()
    }
}

/// Copies of what the log says, made again whenever one is missing.
fn snapshots(nats: &config::Nats) -> kv::Config {
    kv::Config {
        bucket: subject::SNAPSHOTS.into(),
        description: "Aggregates as they were at some commit, to load long ones quickly".into(),
        history: 1,
        storage: StorageType::File,
        num_replicas: nats.replicas,
        ..kv::Config::default()
    }
}

/// Compares what the server made with what was asked for.
fn check(name: &'static str, wanted: &Config, made: &Config) -> Result<(), Error> {
    match promises(wanted, made).into_iter().find(|(_, kept)| !kept) {
        Some((setting, _)) => Err(Error::Weaker { name, setting }),
        None => Ok(()),
    }
}

/// The settings of a stream that promises rest on, and whether the stream that was made keeps them.
pub fn promises(wanted: &Config, made: &Config) -> Vec<(&'static str, bool)> {
    // A limit of the other side of zero means none.
    let unlimited = |limit: i64| limit <= 0;
    let kept = |wanted: i64, made: i64| unlimited(made) || (!unlimited(wanted) && made >= wanted);
    let as_long =
        made.max_age.is_zero() || (!wanted.max_age.is_zero() && made.max_age >= wanted.max_age);
    let relaxed = |config: &Config| config.persist_mode == Some(PersistenceMode::Async);
    vec![
        ("replicas", made.num_replicas >= wanted.num_replicas),
        ("storage", made.storage == wanted.storage),
        ("retention", made.retention == wanted.retention),
        ("discard", made.discard == wanted.discard),
        ("max_age", as_long),
        ("max_bytes", kept(wanted.max_bytes, made.max_bytes)),
        ("max_msgs", kept(wanted.max_messages, made.max_messages)),
        (
            "max_msgs_per_subject",
            kept(
                wanted.max_messages_per_subject,
                made.max_messages_per_subject,
            ),
        ),
        ("no_ack", !made.no_ack),
        ("sealed", !made.sealed),
        ("deny_delete", made.deny_delete || !wanted.deny_delete),
        ("allow_rollup", wanted.allow_rollup || !made.allow_rollup),
        ("allow_direct", made.allow_direct || !wanted.allow_direct),
        (
            "allow_atomic",
            made.allow_atomic_publish || !wanted.allow_atomic_publish,
        ),
        (
            "allow_msg_schedules",
            made.allow_message_schedules == wanted.allow_message_schedules,
        ),
        ("republish", made.republish == wanted.republish),
        // Writes may be relaxed only where they were asked to be.
        ("persist_mode", relaxed(wanted) || !relaxed(made)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_lets_nothing_go_where_it_was_not_made_for_that() {
        let mut nats = config::Nats::at("");
        assert!(events(&nats).deny_purge);
        nats.bounded = true;
        let bounded = events(&nats);
        assert!(!bounded.deny_purge && bounded.deny_delete);
    }

    fn weaker(change: impl FnOnce(&mut Config)) -> Option<&'static str> {
        let wanted = events(&config::Nats::at(""));
        let mut made = wanted.clone();
        change(&mut made);
        match check("EVENTS", &wanted, &made) {
            Err(Error::Weaker { setting, .. }) => Some(setting),
            _ => None,
        }
    }

    #[test]
    fn whatever_promises_rest_on_is_compared() {
        assert_eq!(weaker(|_| {}), None);
        assert_eq!(weaker(|made| made.num_replicas = 3), None);
        let memory = StorageType::Memory;
        assert_eq!(weaker(|made| made.storage = memory), Some("storage"));
        assert_eq!(weaker(|made| made.num_replicas = 0), Some("replicas"));
        let old = DiscardPolicy::Old;
        assert_eq!(weaker(|made| made.discard = old), Some("discard"));
        assert_eq!(weaker(|made| made.max_bytes = 1 << 30), Some("max_bytes"));
        assert_eq!(weaker(|made| made.max_messages = 9), Some("max_msgs"));
        assert_eq!(
            weaker(|made| made.max_messages_per_subject = 1),
            Some("max_msgs_per_subject")
        );
        assert_eq!(weaker(|made| made.max_age = REPLAY), Some("max_age"));
        assert_eq!(weaker(|made| made.deny_delete = false), Some("deny_delete"));
        assert_eq!(weaker(|made| made.no_ack = true), Some("no_ack"));
        let direct = weaker(|made| made.allow_direct = false);
        assert_eq!(direct, Some("allow_direct"));
        let atomic = weaker(|made| made.allow_atomic_publish = false);
        assert_eq!(atomic, Some("allow_atomic"));
        let relaxed = Some(PersistenceMode::Async);
        assert_eq!(
            weaker(|made| made.persist_mode = relaxed),
            Some("persist_mode")
        );
    }
}
