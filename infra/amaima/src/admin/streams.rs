//! `amaima admin streams`

use super::{Connection, Error, Exit, Output, Table};
use async_nats::jetstream::{consumer, stream};
use domain::Timestamp;
use futures_util::TryStreamExt;
use infra::jetstream;
use serde::Serialize;
use std::fmt;

/// All streams, ours and others.
#[derive(Debug, Serialize)]
struct Report {
    streams: Vec<Stream>,
    /// Streams that the system needs and that are not there.
    missing: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct Stream {
    name: String,
    subjects: Vec<String>,
    messages: u64,
    bytes: u64,
    first_seq: u64,
    first_at: Option<Timestamp>,
    last_seq: u64,
    last_at: Option<Timestamp>,
    distinct_subjects: u64,
    /// Messages that were stored once and are not there any more.
    gone: u64,
    replicas: usize,
    leader: Option<String>,
    /// Copies that lag or are offline.
    stale_replicas: Vec<String>,
    /// Settings that promises rest on; none for a stream that is not one of ours.
    promises: Vec<Promise>,
    consumers: Vec<Consumer>,
}

#[derive(Debug, Serialize)]
struct Promise {
    setting: &'static str,
    kept: bool,
}

#[derive(Debug, Serialize)]
struct Consumer {
    name: String,
    durable: bool,
    delivered_seq: u64,
    pending: u64,
    ack_pending: usize,
    redelivered: usize,
    waiting_pulls: usize,
}

pub(super) async fn run(connection: &Connection, output: &mut Output<'_>) -> Result<Exit, Error> {
    let wanted = jetstream::streams(&connection.nats);
    let infos: Vec<stream::Info> = connection
        .context
        .streams()
        .try_collect()
        .await
        .map_err(Error::failed("the list of streams"))?;
    let mut streams = Vec::with_capacity(infos.len());
    for info in infos {
        let consumers: Vec<consumer::Info> = connection
            .context
            .get_stream_no_info(&info.config.name)
            .await
            .map_err(Error::failed(&info.config.name))?
            .consumers()
            .try_collect()
            .await
            .map_err(Error::failed(format!("consumers of {}", info.config.name)))?;
        let ours = wanted.iter().find(|(name, _)| *name == info.config.name);
        streams.push(stream(&info, ours.map(|(_, config)| config), &consumers));
    }
    streams.sort_by(|a, b| a.name.cmp(&b.name));
    let missing: Vec<_> = wanted
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !streams.iter().any(|stream| stream.name == *name))
        .collect();
    let report = Report { streams, missing };
    output.report(&report);
    Ok(report.exit())
}

impl Report {
    fn exit(&self) -> Exit {
        let broken = |stream: &Stream| stream.promises.iter().any(|promise| !promise.kept);
        if !self.missing.is_empty() || self.streams.iter().any(broken) {
            return Exit::Ill;
        }
        Exit::well_if(
            self.streams
                .iter()
                .all(|stream| stream.stale_replicas.is_empty()),
        )
    }
}

fn stream(
    info: &stream::Info,
    wanted: Option<&stream::Config>,
    consumers: &[consumer::Info],
) -> Stream {
    let (config, state) = (&info.config, &info.state);
    let at = |time: async_nats::datetime::DateTime| (state.messages > 0).then(|| timestamp(time));
    let promises = wanted.map(|wanted| jetstream::promises(wanted, config).to_vec());
    let replicas = info.cluster.iter().flat_map(|cluster| &cluster.replicas);
    Stream {
        name: config.name.clone(),
        subjects: config.subjects.clone(),
        messages: state.messages,
        bytes: state.bytes,
        first_seq: state.first_sequence,
        first_at: at(state.first_timestamp),
        last_seq: state.last_sequence,
        last_at: at(state.last_timestamp),
        distinct_subjects: state.subjects_count,
        gone: state.last_sequence.saturating_sub(state.messages),
        replicas: config.num_replicas,
        leader: info
            .cluster
            .as_ref()
            .and_then(|cluster| cluster.leader.clone()),
        stale_replicas: replicas
            .filter(|replica| !replica.current || replica.offline)
            .map(|replica| replica.name.clone())
            .collect(),
        promises: promises
            .unwrap_or_default()
            .into_iter()
            .map(|(setting, kept)| Promise { setting, kept })
            .collect(),
        consumers: consumers
            .iter()
            .map(|consumer| Consumer {
                name: consumer.name.clone(),
                durable: consumer.config.durable_name.is_some(),
                delivered_seq: consumer.delivered.stream_sequence,
                pending: consumer.num_pending,
                ack_pending: consumer.num_ack_pending,
                redelivered: consumer.num_redelivered,
                waiting_pulls: consumer.num_waiting,
            })
            .collect(),
    }
}

/// The server's time as ours.
pub(super) fn timestamp(time: async_nats::datetime::DateTime) -> Timestamp {
    Timestamp::from_millis((time.unix_timestamp_nanos() / 1_000_000) as i64)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut streams = Table::new(&[
            "stream", "messages", "bytes", "first", "last", "last at", "subjects", "gone",
            "replicas", "leader", "promises",
        ]);
        let mut consumers = Table::new(&[
            "consumer",
            "stream",
            "at",
            "pending",
            "unacked",
            "redelivered",
            "pulls",
        ]);
        for stream in &self.streams {
            let broken: Vec<_> = stream
                .promises
                .iter()
                .filter(|promise| !promise.kept)
                .map(|promise| promise.setting)
                .collect();
            let promises = match (stream.promises.is_empty(), broken.is_empty()) {
                (true, _) => "-".to_owned(),
                (false, true) => "kept".to_owned(),
                (false, false) => format!("BROKEN: {}", broken.join(", ")),
            };
            streams.row([
                stream.name.clone(),
                stream.messages.to_string(),
                stream.bytes.to_string(),
                stream.first_seq.to_string(),
                stream.last_seq.to_string(),
                stream.last_at.map_or("-".into(), |at| at.to_string()),
                stream.distinct_subjects.to_string(),
                stream.gone.to_string(),
                stream.replicas.to_string(),
                stream.leader.clone().unwrap_or_else(|| "-".into()),
                promises,
            ]);
            for consumer in &stream.consumers {
                consumers.row([
                    consumer.name.clone(),
                    stream.name.clone(),
                    consumer.delivered_seq.to_string(),
                    consumer.pending.to_string(),
                    consumer.ack_pending.to_string(),
                    consumer.redelivered.to_string(),
                    consumer.waiting_pulls.to_string(),
                ]);
            }
        }
        write!(f, "{streams}\n{consumers}")?;
        for stream in &self.streams {
            if !stream.stale_replicas.is_empty() {
                let replicas = stream.stale_replicas.join(", ");
                writeln!(f, "\n{}: copies behind or offline: {replicas}", stream.name)?;
            }
        }
        for name in &self.missing {
            writeln!(
                f,
                "\n{name} is missing: the services make it when they start"
            )?;
        }
        Ok(())
    }
}
