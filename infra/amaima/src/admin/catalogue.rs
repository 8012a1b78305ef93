//! The types of events, and with `--count` how many of each the log holds.

use super::{Connection, Error, Exit, Output, Progress, Table};
use async_nats::jetstream::consumer::{DeliverPolicy, pull::OrderedConfig};
use clap::Args;
use domain::{
    catalogue::{ENTRIES, Entry},
    commit::header,
    subject,
};
use futures_util::StreamExt;
use serde::Serialize;
use std::{collections::BTreeMap, fmt, time::Duration};

/// Longest wait for the next commit.
const SILENCE: Duration = Duration::from_secs(30);

/// What is told beside the list.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// How many events of each type the log holds: reads the headers of all of it
    #[arg(long)]
    count: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    types: Vec<EventType>,
    /// Types in the log that this version does not know, with their numbers; absent if not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<BTreeMap<String, u64>>,
}

#[derive(Debug, Serialize)]
struct EventType {
    r#type: &'static str,
    aggregate: &'static str,
    version: u32,
    superseded_by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<u64>,
}

pub(super) async fn run(
    connection: &Connection,
    options: Options,
    output: &mut Output<'_>,
) -> Result<Exit, Error> {
    let mut counts = match options.count {
        true => Some(count(connection).await?),
        false => None,
    };
    let each = |entry: &Entry| EventType {
        r#type: entry.name,
        aggregate: entry.aggregate.as_str(),
        version: entry.version(),
        superseded_by: entry.superseded_by(),
        events: counts
            .as_mut()
            .map(|counts| counts.remove(entry.name).unwrap_or(0)),
    };
    let report = Report {
        types: ENTRIES.iter().map(each).collect(),
        unknown: counts,
    };
    output.report(&report);
    Ok(Exit::well_if(
        report.unknown.as_ref().is_none_or(BTreeMap::is_empty),
    ))
}

/// Counts by the headers of commits, up to the end that the log has when it begins.
async fn count(connection: &Connection) -> Result<BTreeMap<String, u64>, Error> {
    let stream = connection
        .context
        .get_stream(subject::EVENTS)
        .await
        .map_err(Error::failed("stream EVENTS"))?;
    let state = &stream.cached_info().state;
    let (messages, head) = (state.messages, state.last_sequence);
    let mut counts = BTreeMap::new();
    if messages == 0 {
        return Ok(counts);
    }
    let config = OrderedConfig {
        description: Some("amaima admin catalogue".into()),
        filter_subject: subject::ALL_EVENTS.into(),
        deliver_policy: DeliverPolicy::All,
        headers_only: true,
        ..OrderedConfig::default()
    };
    let consumer = stream
        .create_consumer(config)
        .await
        .map_err(Error::failed("a reader of the log"))?;
    let mut commits = consumer
        .messages()
        .await
        .map_err(Error::failed("the log"))?;
    let (mut progress, mut read) = (Progress::new("catalogue", messages), 0);
    loop {
        let next = tokio::time::timeout(SILENCE, commits.next())
            .await
            .map_err(Error::failed("the next commit"))?;
        let Some(commit) = next else { break };
        let commit = commit.map_err(Error::failed("the log"))?;
        let types = commit.headers.as_ref();
        let types = types.and_then(|headers| headers.get(header::EVENT_TYPES));
        for name in types
            .map_or("(not told)", |types| types.as_str())
            .split(',')
        {
            *counts.entry(name.to_owned()).or_default() += 1;
        }
        read += 1;
        progress.at(read);
        let info = commit.info().map_err(Error::failed("a sequence"))?;
        if info.stream_sequence >= head || info.pending == 0 {
            break;
        }
    }
    progress.end();
    Ok(counts)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut head = vec!["type", "aggregate", "version", "read as"];
        if self.unknown.is_some() {
            head.push("events");
        }
        let mut table = Table::new(&head);
        for each in &self.types {
            let mut row = vec![
                each.r#type.to_owned(),
                each.aggregate.to_owned(),
                each.version.to_string(),
                each.superseded_by.unwrap_or_default().to_owned(),
            ];
            row.extend(each.events.map(|events| events.to_string()));
            table.row(row);
        }
        write!(f, "{table}")?;
        for (name, events) in self.unknown.iter().flatten() {
            writeln!(f, "\nUNKNOWN to this version: {name}, {events} events")?;
        }
        Ok(())
    }
}
