//! The ways in which the server takes messages that are guarded by the expected sequence, beside
//! each other, on streams like the log. What [`infra::group_commit`] does follows from this table.

use super::{IN_FLIGHT, ROUNDS, median, part, say};
use async_nats::{
    Client,
    jetstream::{
        self,
        stream::{Config, StorageType},
    },
};
use futures_util::{StreamExt, stream};
use infra::{
    append::{self, Part},
    clock, config,
    group_commit::{GroupCommit, Unit},
    lifecycle::Lifecycle,
};
use std::time::{Duration, Instant};

/// Batches are whole only if their sizes divide the number of messages.
fn messages() -> usize {
    super::commits().next_multiple_of(256)
}

/// One way to get messages into a stream.
#[derive(Clone, Copy)]
enum Way {
    /// A plain append each, as many under way as there are callers.
    Plain,
    /// The same, spread over this many streams.
    Streams(usize),
    /// Atomic batches of `size`, `under_way` at once.
    Batches { size: usize, under_way: usize },
    /// "Fast ingest" (nats-server 2.14): stored one by one, acknowledged now and then.
    Fast { size: usize },
    /// What command-svc does, with as many callers.
    GroupCommit,
}

const WAYS: [(&str, Way); 9] = [
    ("plain appends, 64 under way", Way::Plain),
    ("plain appends to four streams", Way::Streams(4)),
    ("batches of 8, one under way", batches(8, 1)),
    ("batches of 32, one under way", batches(32, 1)),
    ("batches of 32, two under way", batches(32, 2)),
    ("batches of 64, one under way", batches(64, 1)),
    ("batches of 256, one under way", batches(256, 1)),
    ("fast ingest of 64", Way::Fast { size: 64 }),
    ("group commit, 64 callers", Way::GroupCommit),
];

const fn batches(size: usize, under_way: usize) -> Way {
    Way::Batches { size, under_way }
}

/// Prints the table for this server.
pub(super) async fn compare(mode: &str, nats: &config::Nats) -> anyhow::Result<()> {
    let client = infra::nats::connect(nats, "bench").await?;
    infra::jetstream::prepare(&client, nats).await?;
    let context = jetstream::new(client.clone());
    for name in 0..4 {
        let config = Config {
            name: format!("WAYS{name}"),
            subjects: vec![format!("ways.{name}.>")],
            storage: StorageType::File,
            allow_direct: true,
            allow_atomic_publish: true,
            allow_batch_publish: true,
            ..Config::default()
        };
        context.create_stream(config).await?;
    }
    let lifecycle = Lifecycle::new();
    let commits = GroupCommit::start(client.clone(), nats.sync, &lifecycle);
    let mut rates = vec![Vec::new(); WAYS.len()];
    for _ in 0..ROUNDS {
        for ((_, way), rates) in WAYS.iter().zip(&mut rates) {
            let began = Instant::now();
            run(*way, &client, &commits).await?;
            rates.push(messages() as f64 / began.elapsed().as_secs_f64());
        }
    }
    say(&format!(
        "{mode}: commits/s, and beside plain appends (medians of {ROUNDS})"
    ));
    let plain = median(&mut rates[0]);
    for ((name, _), rates) in WAYS.iter().zip(&mut rates) {
        let rate = median(rates);
        say(&format!("  {name} | {rate:.0} | {:.2}", rate / plain));
    }
    drop(commits);
    lifecycle.stop(Duration::from_secs(5)).await;
    Ok(())
}

async fn run(way: Way, client: &Client, commits: &GroupCommit) -> anyhow::Result<()> {
    match way {
        Way::Plain => spread(client, 1).await,
        Way::Streams(count) => spread(client, count).await,
        Way::Batches { size, under_way } => {
            each(messages() / size, under_way, |_| async move {
                let parts: Vec<Part> = (0..size).map(|_| on(0)).collect::<anyhow::Result<_>>()?;
                let id = clock::fresh_id().simple().to_string();
                append::append_batch(client, &id, parts.iter()).await?;
                Ok(())
            })
            .await
        }
        Way::Fast { size } => each(messages() / size, 1, |_| fast(client, size)).await,
        Way::GroupCommit => {
            each(messages(), IN_FLIGHT, |_| async move {
                let unit = Unit {
                    parts: vec![part()?],
                    deadline: clock::now().plus_millis(30_000),
                };
                commits.commit(unit).await?;
                Ok(())
            })
            .await
        }
    }
}

async fn spread(client: &Client, streams: usize) -> anyhow::Result<()> {
    each(messages(), IN_FLIGHT, |index| async move {
        let part = on(index % streams)?;
        append::append(client, &part.subject, 0, part.headers, part.payload).await?;
        Ok(())
    })
    .await
}

/// A batch by the reply subjects of ADR-50: `<inbox>.<batch>.<acks>.<gaps>.<sequence>.<what>.$FI`,
/// where 0 begins, 1 adds and 2 ends it. A message that is refused is told by itself.
async fn fast(client: &Client, size: usize) -> anyhow::Result<()> {
    let inbox = client.new_inbox();
    let batch = clock::fresh_id().simple().to_string();
    let mut answers = client.subscribe(format!("{inbox}.>")).await?;
    for index in 0..size {
        let mut part = on(0)?;
        part.headers.insert(
            async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
            part.expected.to_string(),
        );
        let what = match index {
            0 => 0,
            _ if index + 1 == size => 2,
            _ => 1,
        };
        let reply = format!("{inbox}.{batch}.{size}.ok.{}.{what}.$FI", index + 1);
        client
            .publish_with_reply_and_headers(part.subject, reply, part.headers, part.payload)
            .await?;
    }
    loop {
        let answer = tokio::time::timeout(Duration::from_secs(10), answers.next()).await?;
        let answer = answer.ok_or_else(|| anyhow::anyhow!("no answer"))?;
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload)?;
        anyhow::ensure!(answer["error"].is_null(), "{answer}");
        if answer["batch"].is_string() {
            return Ok(());
        }
    }
}

/// A commit in one of the streams of this bench.
fn on(stream: usize) -> anyhow::Result<Part> {
    let part = part()?;
    let subject = format!("ways.{stream}.{}", part.subject);
    Ok(Part { subject, ..part })
}

async fn each<F>(count: usize, under_way: usize, call: impl Fn(usize) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let mut calls = stream::iter(0..count).map(call).buffer_unordered(under_way);
    while let Some(done) = calls.next().await {
        done?;
    }
    Ok(())
}
