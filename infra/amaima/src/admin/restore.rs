//! `amaima admin restore`: the log and what belongs to it, on servers without services.
//!
//! In this order: what the log needs lies ready before it, the log comes next, and the erasures
//! that the copy does not know have to be repeated behind it, before any service starts: a service
//! serves what it finds. Until then nothing but this program has touched the streams.

use super::{Connection, Error, Exit, Output, Progress, archive, backup, keys};
use clap::Args;
use domain::{Actor, Timestamp, account::Account, commit::header, id::CommandId, subject};
use infra::{
    append,
    archive::{
        self as copies, Archive, LogError,
        restore::{Restored, restore},
        verify::{Against, verify},
    },
    clock,
    direct_get::{self, Stored},
    erasures::{self, Erasure},
    event_store::{EventStore, Provenance},
    jetstream,
    objects::{Directory, Store},
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Instant,
};

/// Where it comes from.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// A backup; without it the copy in the bucket that S3_ENDPOINT and S3_BUCKET name
    #[arg(long)]
    from: Option<PathBuf>,
    /// The keys of persons, as `keys backup` wrote them, where the servers have none
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// The latest ledger of erasures, as a directory that has `erasures/`: a newer backup, or the
    /// old bucket's files. What the bucket and the backup have of it is repeated in any case
    #[arg(long, value_name = "DIRECTORY")]
    ledger: Option<PathBuf>,
    /// Of which log, as `archive` lists them [default: the latest]
    #[arg(long)]
    epoch: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    from: String,
    epoch: String,
    first: u64,
    last: u64,
    messages: u64,
    /// Sequences that the log had lost before they were copied; markers are in their places.
    lost: u64,
    /// When the lost log stored its last message that is here.
    last_at: Timestamp,
    objects: u64,
    /// Keys of persons that were brought back.
    keys: u64,
    /// Persons in the ledger of erasures: none of them comes back.
    erased: u64,
    signing_key: bool,
    took_ms: u64,
}

pub(super) async fn run(
    data_dir: &Path,
    connection: &Connection,
    options: Options,
    output: &mut Output<'_>,
) -> Result<Exit, Error> {
    let begun = Instant::now();
    demand_no_log(connection).await?;
    let bucket = archive::store(data_dir);
    let from = match &options.from {
        Some(directory) => Store::Directory(Directory::new(directory)),
        None => archive::store(data_dir)?,
    };
    let epoch = match options.epoch {
        Some(epoch) => epoch,
        None => latest(&from).await?,
    };
    let copy = Archive::named(from.clone(), epoch);
    let (mut objects, mut signing_key) = (0, data_dir.join(backup::SIGNING_KEY).exists());
    if let Some(directory) = &options.from {
        objects = backup::copy_others(&from, &bucket?).await?;
        let key = directory.join(backup::SIGNING_KEY);
        signing_key = backup::copy_key(&key, &data_dir.join(backup::SIGNING_KEY))?;
    }
    let keys = match &options.keys {
        Some(file) => keys::restore(connection, file).await?.restored,
        None => 0,
    };
    let prepared = jetstream::prepare_keys(&connection.client, &connection.nats).await;
    prepared.map_err(Error::failed("the stream of keys"))?;
    let mut ledgers = vec![from.clone()];
    ledgers.extend(archive::store(data_dir).ok());
    ledgers.extend(
        options
            .ledger
            .map(|place| Store::Directory(Directory::new(&place))),
    );
    let erasures = ledger(&ledgers).await?;
    // Before the log is there: nobody could have read it meanwhile.
    for erasure in &erasures {
        let destroyed = connection.keys.destroy(erasure.account).await;
        destroyed.map_err(Error::failed(format!("the erasure of {}", erasure.account)))?;
    }
    let restored = write(connection, &copy).await?;
    compare(connection, &copy).await?;
    for erasure in &erasures {
        ask_again(connection, erasure).await?;
    }
    let prepared = jetstream::prepare(&connection.client, &connection.nats).await;
    prepared.map_err(Error::failed("the other streams"))?;
    let report = Report {
        from: from.describe(),
        epoch: copy.epoch().to_owned(),
        first: restored.first,
        last: restored.last,
        messages: restored.messages,
        lost: restored.lost,
        last_at: Timestamp::from_millis(restored.last_at_nanos / 1_000_000),
        objects,
        keys,
        erased: erasures.len() as u64,
        signing_key,
        took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    output.report(&report);
    Ok(Exit::well_if(restored.lost == 0))
}

/// Everybody who is to stay erased, each once.
async fn ledger(places: &[Store]) -> Result<Vec<Erasure>, Error> {
    let mut all = BTreeMap::new();
    for place in places {
        let found = erasures::read(place).await;
        let found = found.map_err(Error::failed("the ledger of erasures"))?;
        all.extend(found.into_iter().map(|erasure| (erasure.account, erasure)));
    }
    Ok(all.into_values().collect())
}

/// Has the services finish an erasure that the log does not know of: the request is put behind what
/// the log has of the account, and a policy does the rest.
async fn ask_again(connection: &Connection, erasure: &Erasure) -> Result<(), Error> {
    let subject = erasure.subject();
    let known = direct_get::subject(&connection.client, subject::EVENTS, &subject, 1).await;
    let known = known.map_err(Error::failed("the account"))?;
    let types = |stored: &Stored| {
        let types = stored.headers.get(header::EVENT_TYPES);
        types.is_some_and(|types| types.as_str().contains("account.erasure_requested"))
    };
    let Some(last) = known.last().filter(|_| !known.iter().any(types)) else {
        return Ok(());
    };
    let id = erasure.account.uuid();
    let provenance = Provenance {
        command: CommandId::derived(&[&erasure.account.to_string(), "restore"]),
        actor: Actor::System,
        request_id: "amaima-admin-restore".to_owned(),
        causation: "amaima-admin-restore".to_owned(),
        traceparent: None,
        fingerprint: None,
        deadline: clock::now().plus_millis(10_000),
    };
    let store = EventStore::new(connection.client.clone(), connection.keys.clone());
    let loaded = store.load::<Account>(id).await;
    let loaded = loaded.map_err(Error::failed("the account"))?;
    let events = [erasure.event()];
    let part = store.pending(id, &loaded, &provenance, clock::now(), &events);
    let part = part.await.map_err(Error::failed("the erasure"))?;
    let (client, headers) = (&connection.client, part.headers);
    let appended = append::append(client, &subject, last.seq, headers, part.payload).await;
    appended.map_err(Error::failed("the erasure"))?;
    Ok(())
}

/// Two logs cannot become one, and services must not have begun another.
async fn demand_no_log(connection: &Connection) -> Result<(), Error> {
    match archive::log(connection).await?.state().await {
        Err(LogError::Absent) => Ok(()),
        Ok(state) => Err(Error::Unknown(format!(
            "there is a log already, which goes to {}: restore into servers on which no service \
             has run (`amaima up --servers-only`), or delete the stream {} first",
            state.last,
            subject::EVENTS
        ))),
        Err(error) => Err(Error::failed("the log")(error)),
    }
}

async fn latest(store: &Store) -> Result<String, Error> {
    let epochs = copies::epochs(store).await;
    let epochs = epochs.map_err(Error::failed("the copies"))?;
    let nothing = || Error::Unknown(format!("{} has no copy of a log", store.describe()));
    epochs.into_iter().next_back().ok_or_else(nothing)
}

async fn write(connection: &Connection, copy: &Archive) -> Result<Restored, Error> {
    let tail = copy.tail().await.map_err(Error::failed("the manifest"))?;
    let mut progress = Progress::new("restore", tail.map_or(0, |tail| tail.last));
    let restored = restore(copy, &connection.client, &connection.nats, |seq| {
        progress.at(seq);
    });
    let restored = restored.await.map_err(Error::failed("the log"))?;
    progress.end();
    Ok(restored)
}

/// What was written is read again, and all of it compared.
async fn compare(connection: &Connection, copy: &Archive) -> Result<(), Error> {
    let log = archive::log(connection).await?;
    let mut progress = Progress::new("compare", log.state().await.map_or(0, |state| state.last));
    let outcome = verify(copy, Against::Restored(&log), (1, u64::MAX), |seq| {
        progress.at(seq);
    });
    let outcome = outcome.await.map_err(Error::failed("the comparison"))?;
    progress.end();
    match outcome.difference {
        None => Ok(()),
        Some(difference) => Err(Error::Unknown(format!(
            "the restored log differs from the copy: {}",
            difference.detail
        ))),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (age, took) = (
            clock::now().millis_since(self.last_at) / 1000,
            self.took_ms as f64 / 1000.0,
        );
        writeln!(
            f,
            "{} messages, sequences {} to {}, from {} in {took:.1} s, and read again: the same",
            self.messages, self.first, self.last, self.from
        )?;
        writeln!(
            f,
            "the last one was stored {} ({age} s ago): what came later is lost",
            self.last_at
        )?;
        if self.lost > 0 {
            writeln!(
                f,
                "{} messages were lost before they were copied: their places are marked, and \
                 projections and policies park them",
                self.lost
            )?;
        }
        writeln!(
            f,
            "{} other objects, {} keys of persons",
            self.objects, self.keys
        )?;
        writeln!(
            f,
            "{} persons are in the ledger of erasures, and stay erased",
            self.erased
        )?;
        writeln!(
            f,
            "now start the services; read models are folded from the log again, so their database \
             has to be empty"
        )
    }
}
