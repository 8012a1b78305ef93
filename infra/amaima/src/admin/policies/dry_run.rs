use super::super::{Connection, Error, Exit, Output, Progress, Table};
use async_nats::jetstream::{
    Message,
    consumer::{DeliverPolicy, pull::OrderedConfig},
};
use clap::{Args, builder::PossibleValuesParser};
use domain::{
    policy::{self, Reaction, Settings},
    subject,
};
use futures_util::StreamExt;
use infra::sealing::Opened;
use serde::Serialize;
use std::{collections::BTreeMap, fmt, time::Duration};

/// Longest wait for the next commit.
const SILENCE: Duration = Duration::from_secs(30);

/// Which part of the log, and what is shown of it.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// First sequence
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Last sequence [default: the log's last one]
    #[arg(long)]
    to: Option<u64>,
    /// This kind of reaction alone
    #[arg(long, value_parser = PossibleValuesParser::new(Reaction::NAMES))]
    kind: Option<String>,
    /// Each reaction with the sequence that causes it; with --json a document a line, the
    /// summary last
    #[arg(long)]
    list: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    from: u64,
    to: u64,
    commits: u64,
    /// Commits of persons who were erased: nothing follows from them.
    erased: u64,
    /// Commits that this version cannot read: they would be parked.
    unreadable: u64,
    first_unreadable: Option<String>,
    /// How many of each kind.
    reactions: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
struct Would<'a> {
    seq: u64,
    subject: &'a str,
    reaction: &'static str,
    detail: String,
}

pub(super) async fn run(
    connection: &Connection,
    options: Options,
    output: &mut Output<'_>,
) -> Result<Exit, Error> {
    let stream = connection
        .context
        .get_stream(subject::EVENTS)
        .await
        .map_err(Error::failed("stream EVENTS"))?;
    let head = stream.cached_info().state.last_sequence;
    let to = options.to.unwrap_or(head).min(head);
    let mut report = Report {
        from: options.from.max(1),
        to,
        commits: 0,
        erased: 0,
        unreadable: 0,
        first_unreadable: None,
        reactions: Reaction::NAMES
            .into_iter()
            .filter(|name| options.kind.as_deref().is_none_or(|kind| kind == *name))
            .map(|name| (name, 0))
            .collect(),
    };
    if report.from <= to {
        let mut progress = Progress::new("dry run", to - report.from + 1);
        let config = OrderedConfig {
            description: Some("amaima admin policies dry-run".into()),
            filter_subject: subject::ALL_EVENTS.into(),
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: report.from,
            },
            ..OrderedConfig::default()
        };
        let consumer = stream
            .create_consumer(config)
            .await
            .map_err(Error::failed("a reader of the log"))?;
        let mut messages = consumer
            .messages()
            .await
            .map_err(Error::failed("the log"))?;
        loop {
            let next = tokio::time::timeout(SILENCE, messages.next())
                .await
                .map_err(Error::failed("the next commit"))?;
            let Some(message) = next else { break };
            let message = message.map_err(Error::failed("the log"))?;
            let info = message.info().map_err(Error::failed("a sequence"))?;
            let (seq, pending) = (info.stream_sequence, info.pending);
            if seq > to {
                break;
            }
            let opened = connection
                .keys
                .open(&message.subject, message.headers.as_ref(), &message.payload)
                .await
                .map_err(Error::failed(format!("the commit {seq}")))?;
            report.take(&message, &opened, seq, options.list, output);
            progress.at(seq - report.from + 1);
            if seq == to || pending == 0 {
                break;
            }
        }
        progress.end();
    }
    output.summary(&report, options.list);
    Ok(Exit::well_if(report.unreadable == 0))
}

impl Report {
    fn take(
        &mut self,
        message: &Message,
        opened: &Opened,
        seq: u64,
        list: bool,
        output: &mut Output<'_>,
    ) {
        self.commits += 1;
        let Opened::Text(payload) = opened else {
            self.erased += 1;
            return;
        };
        // What timers would be set to is told with the usual life of a query.
        let settings = Settings::default();
        let reactions = match policy::react(&message.subject, payload, &settings) {
            Ok(reactions) => reactions,
            Err(error) => {
                self.unreadable += 1;
                let reason = infra::telemetry::chain(&error);
                self.first_unreadable
                    .get_or_insert_with(|| format!("sequence {seq}: {reason}"));
                return;
            }
        };
        for reaction in &reactions {
            let Some(count) = self.reactions.get_mut(reaction.name()) else {
                continue;
            };
            *count += 1;
            if list {
                output.line(&Would {
                    seq,
                    subject: &message.subject,
                    reaction: reaction.name(),
                    detail: detail(reaction),
                });
            }
        }
    }
}

/// What is worth knowing of a reaction, without anybody's words.
fn detail(reaction: &Reaction) -> String {
    match reaction {
        Reaction::OpenStream { query, .. } => format!("of {query}"),
        Reaction::EnqueueJob { model, job, .. } => format!("{} for {model}", job.query),
        Reaction::CloseStream {
            query, terminal, ..
        } => {
            let status = match **terminal {
                domain::wire::token::Terminal::Completed { .. } => "completed",
                domain::wire::token::Terminal::Failed { .. } => "failed",
                domain::wire::token::Terminal::Cancelled => "cancelled",
            };
            format!("of {query}, {status}")
        }
        Reaction::Revoke { key, ttl_secs } => format!("{key} for {ttl_secs} s"),
        Reaction::SetTimer { timer, at } => format!("{} at {at}", timer.set_subject()),
        Reaction::ClearTimer { timer } => timer.set_subject(),
        Reaction::Erase { account } => format!("everything about {account}"),
        Reaction::Command { body, .. } => body.name().to_owned(),
    }
}

impl fmt::Display for Would<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>10}  {:<13}  {}",
            self.seq, self.reaction, self.detail
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} commits, sequences {} to {}; nothing was done\n",
            self.commits, self.from, self.to
        )?;
        let mut table = Table::new(&["reaction", "times"]);
        for (name, count) in &self.reactions {
            table.row([(*name).to_owned(), count.to_string()]);
        }
        write!(f, "{table}")?;
        if self.erased > 0 {
            writeln!(f, "\n{} are of persons who were erased", self.erased)?;
        }
        if let Some(first) = &self.first_unreadable {
            writeln!(
                f,
                "\n{} cannot be read; the first: {first}",
                self.unreadable
            )?;
        }
        Ok(())
    }
}
