//! `amaima admin keys`: the keys of persons, and the master keys that wrap them.

use super::{Connection, Error, Exit, Output, Table};
use clap::{Args, Subcommand};
use domain::id::AccountId;
use infra::{
    jetstream,
    sealing::{MasterKeys, keyring::Rewrapped},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// What is done with keys.
#[derive(Debug, Subcommand)]
pub(super) enum Options {
    /// How many keys each master key wraps, and how many persons are erased
    #[command(after_help = super::EXIT_CODES)]
    Status,
    /// Print a new master key, as a line for the file with master keys
    #[command(after_help = super::EXIT_CODES)]
    New {
        /// Its name, such as the year
        name: String,
    },
    /// Wrap every key with the first master key; afterwards the others are not needed any more
    #[command(after_help = super::EXIT_CODES)]
    Rotate,
    /// Write all keys, wrapped as they are, into a file: keep it apart from backups of the log
    #[command(after_help = super::EXIT_CODES)]
    Backup(Place),
    /// Bring keys back that are not there; who is erased stays erased
    #[command(after_help = super::EXIT_CODES)]
    Restore(Place),
}

/// A file with keys.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The file
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

/// One line of such a file: what the stream holds for a person.
#[derive(Deserialize, Serialize)]
struct Line {
    person: AccountId,
    entry: Box<RawValue>,
}

/// What an entry tells without being unwrapped.
#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    master: Option<String>,
}

/// A new master key needs no system to look into.
pub(super) fn new(name: &str, output: &mut Output<'_>) -> Result<Exit, Error> {
    let line = MasterKeys::fresh_line(name).map_err(Error::failed("randomness"))?;
    let read = MasterKeys::read(&line, None);
    read.map_err(|_| {
        Error::Unknown(format!(
            "{name:?} is no name for a master key: letters, digits, `-` and `_`, at most 64"
        ))
    })?;
    output.report(&New { line });
    Ok(Exit::Well)
}

pub(super) async fn run(
    connection: &Connection,
    options: Options,
    output: &mut Output<'_>,
) -> Result<Exit, Error> {
    match options {
        Options::New { name } => new(&name, output),
        Options::Status => status(connection, output).await,
        Options::Rotate => {
            let done = connection.keys.rewrap().await;
            let done = done.map_err(Error::failed("the rotation"))?;
            output.report(&Rotated(done));
            Ok(Exit::Well)
        }
        Options::Backup(place) => backup(connection, &place.file, output).await,
        Options::Restore(place) => {
            let report = restore(connection, &place.file).await?;
            output.report(&report);
            Ok(Exit::Well)
        }
    }
}

/// Gives every entry to `take`, the later ones of a person after the earlier ones.
async fn each(
    connection: &Connection,
    mut take: impl FnMut(AccountId, &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut next = 1;
    loop {
        let page = connection.keys.page(next).await;
        let page = page.map_err(Error::failed("the keys"))?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        next = last.sequence + 1;
        for message in &page {
            let person = message.subject.rsplit('.').next().map(str::parse);
            if let Some(Ok(person)) = person {
                take(person, &message.payload)?;
            }
        }
    }
}

async fn status(connection: &Connection, output: &mut Output<'_>) -> Result<Exit, Error> {
    let mut last: BTreeMap<AccountId, Option<String>> = BTreeMap::new();
    each(connection, |person, entry| {
        let told: Told = serde_json::from_slice(entry).map_err(Error::failed("an entry"))?;
        last.insert(person, told.master);
        Ok(())
    })
    .await?;
    let mut report = Status {
        current: connection.keys.master().map(str::to_owned),
        erased: 0,
        wrapped_with: BTreeMap::new(),
    };
    for master in last.into_values() {
        match master {
            Some(master) => *report.wrapped_with.entry(master).or_default() += 1,
            None => report.erased += 1,
        }
    }
    let others = report
        .wrapped_with
        .keys()
        .any(|master| Some(master) != report.current.as_ref());
    output.report(&report);
    Ok(Exit::well_if(!others))
}

async fn backup(
    connection: &Connection,
    file: &Path,
    output: &mut Output<'_>,
) -> Result<Exit, Error> {
    let cannot = || Error::failed(format!("{}", file.display()));
    let mut open = OpenOptions::new();
    let opened = open.write(true).create_new(true).mode(0o600).open(file);
    let mut to = BufWriter::new(opened.map_err(cannot())?);
    let mut entries = 0;
    each(connection, |person, entry| {
        let entry = serde_json::from_slice(entry).map_err(Error::failed("an entry"))?;
        let line = serde_json::to_string(&Line { person, entry });
        let line = line.map_err(Error::failed("an entry"))?;
        entries += 1;
        writeln!(to, "{line}").map_err(cannot())
    })
    .await?;
    let written = to.into_inner().map_err(|error| error.into_error());
    let synced = written.and_then(|file| file.sync_all());
    synced.map_err(cannot())?;
    output.report(&BackedUp {
        file: file.to_owned(),
        entries,
    });
    Ok(Exit::Well)
}

/// Brings the keys of a file back.
pub(super) async fn restore(connection: &Connection, file: &Path) -> Result<Restored, Error> {
    let cannot = || Error::failed(format!("{}", file.display()));
    let prepared = jetstream::prepare_keys(&connection.client, &connection.nats).await;
    prepared.map_err(Error::failed("the stream of keys"))?;
    let lines = BufReader::new(fs::File::open(file).map_err(cannot())?).lines();
    let mut last: BTreeMap<AccountId, Box<RawValue>> = BTreeMap::new();
    for line in lines {
        let line: Result<Line, _> = serde_json::from_str(&line.map_err(cannot())?);
        let line = line.map_err(Error::failed(format!("a line of {}", file.display())))?;
        last.insert(line.person, line.entry);
    }
    let mut report = Restored::default();
    for (person, entry) in last {
        let restored = connection.keys.restore(person, entry.get().as_bytes());
        match restored
            .await
            .map_err(Error::failed(format!("the key of {person}")))?
        {
            true => report.restored += 1,
            false => report.there += 1,
        }
    }
    Ok(report)
}

#[derive(Serialize)]
struct New {
    line: String,
}

impl fmt::Display for New {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

#[derive(Serialize)]
struct Status {
    /// The master key that wraps new keys; none where nothing is sealed.
    current: Option<String>,
    /// Persons whose keys are destroyed.
    erased: u64,
    /// Keys by the master key that wraps them.
    wrapped_with: BTreeMap<String, u64>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&["master key", "keys"]);
        for (master, count) in &self.wrapped_with {
            let current = Some(master) == self.current.as_ref();
            let mark = if current { " (wraps new ones)" } else { "" };
            table.row([format!("{master}{mark}"), count.to_string()]);
        }
        write!(f, "{table}")?;
        writeln!(f, "\n{} persons are erased", self.erased)
    }
}

#[derive(Serialize)]
struct Rotated(Rewrapped);

impl fmt::Display for Rotated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rewrapped {
            rewrapped,
            current,
            erased,
        } = self.0;
        writeln!(
            f,
            "{rewrapped} keys are wrapped anew, {current} were already; {erased} persons are erased"
        )
    }
}

#[derive(Serialize)]
struct BackedUp {
    file: PathBuf,
    entries: u64,
}

impl fmt::Display for BackedUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} entries, wrapped; keep it apart from the log, its backups and the master keys",
            self.file.display(),
            self.entries
        )
    }
}

/// What came of bringing keys back.
#[derive(Debug, Default, Serialize)]
pub(super) struct Restored {
    /// Persons who had none.
    pub(super) restored: u64,
    /// Persons who had one, or are erased.
    pub(super) there: u64,
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} entries are back; {} persons had one",
            self.restored, self.there
        )
    }
}
