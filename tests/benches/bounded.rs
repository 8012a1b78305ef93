//! Memory of nats-server with a log of many live queries, and after all but some have left it.
//!
//! `cargo bench -p tests --bench bounded`. Writes one commit to each of `AMAIMA_QUERIES` subjects
//! (1,000,000), purges all but `AMAIMA_LEFT` of them (10,000) one by one, as projection-svc does, and
//! tells the resident memory of the server, the subjects of the log and its bytes: at once, a while
//! later (`AMAIMA_PAUSE_SECS`, 150), since the server's runtime gives memory back only by and by,
//! and after a restart. The disk is not waited for.

use amaima::stack::{self, ServerKind, Stack, wait_for};
use anyhow::{Context, ensure};
use async_nats::{Client, jetstream};
use domain::subject::EVENTS;
use futures_util::{TryStreamExt, stream};
use infra::config::{Nats, parsed};
use std::time::{Duration, Instant};
use tests::commits::{self, History};

/// Purges at a time.
const UNDER_WAY: usize = 16;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let queries: usize = parsed("AMAIMA_QUERIES", 1_000_000)?;
    let left: usize = parsed("AMAIMA_LEFT", 10_000)?;
    let pause = Duration::from_secs(parsed("AMAIMA_PAUSE_SECS", 150)?);
    ensure!(left <= queries, "AMAIMA_LEFT is at most AMAIMA_QUERIES");
    let stack = stack::testing_with(|options| {
        options.disposable = false;
        options.patience = Duration::from_secs(300);
    })
    .await?;
    let nats = Nats {
        bounded: true,
        ..stack.endpoints().nats()
    };
    let client = infra::nats::connect(&nats, "bench").await?;
    infra::jetstream::prepare(&client, &nats).await?;
    say("when | RSS MiB | subjects | messages | MiB of messages");
    tell("empty", &stack, &client).await?;

    let mut random = History::new(1);
    let commits = std::iter::repeat_with(|| random.submit_together(1)).flatten();
    let mut subjects = Vec::with_capacity(queries);
    let noted = commits
        .take(queries)
        .inspect(|part| subjects.push(part.subject.clone()));
    let began = Instant::now();
    commits::write(&client, noted).await?;
    say(&format!(
        "  {:.0} s for the writes",
        began.elapsed().as_secs_f64()
    ));
    settled(&format!("{queries} live"), &stack, &client, pause).await?;

    let alone = Nats {
        url: nats.purge_url.clone().context("an own server")?,
        ..nats.clone()
    };
    let alone = infra::nats::connect(&alone, "bench-purger").await?;
    let began = Instant::now();
    let leaving = &subjects[..queries - left];
    stream::iter(leaving.iter().map(anyhow::Ok))
        .try_for_each_concurrent(UNDER_WAY, |subject| purge(&alone, subject))
        .await?;
    let took = began.elapsed().as_secs_f64();
    let rate = leaving.len() as f64 / took;
    say(&format!("  {took:.0} s for the purges, {rate:.0} a second"));
    settled(&format!("{left} live"), &stack, &client, pause).await?;
    stack.stop().await?;
    Ok(())
}

async fn purge(client: &Client, subject: &str) -> anyhow::Result<()> {
    let ask = serde_json::json!({ "filter": subject }).to_string();
    let answer = client
        .request(format!("$JS.API.STREAM.PURGE.{EVENTS}"), ask.into())
        .await?;
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload)?;
    ensure!(answer["purged"] == 1, "{subject}: {answer}");
    Ok(())
}

/// At once, after a pause, and after a restart.
async fn settled(
    when: &str,
    stack: &Stack,
    client: &Client,
    pause: Duration,
) -> anyhow::Result<()> {
    tell(when, stack, client).await?;
    tokio::time::sleep(pause).await;
    tell(
        &format!("{when}, {} s later", pause.as_secs()),
        stack,
        client,
    )
    .await?;
    let began = Instant::now();
    stack.server(ServerKind::Nats).restart().await?;
    let took = began.elapsed().as_secs_f64();
    tell(&format!("{when}, restarted in {took:.1} s"), stack, client).await
}

async fn tell(when: &str, stack: &Stack, client: &Client) -> anyhow::Result<()> {
    let state = wait_for("the log", Duration::from_secs(60), || async {
        let context = jetstream::new(client.clone());
        let log = context.get_stream(EVENTS).await;
        let log = log.map_err(|error| error.to_string())?;
        Ok::<_, String>(log.cached_info().state.clone())
    })
    .await?;
    let pid = stack.nats().pid().context("a running server")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next())
        .context("no VmRSS")?;
    let rss: f64 = rss.parse()?;
    say(&format!(
        "{when} | {:.0} | {} | {} | {:.0}",
        rss / 1024.0,
        state.subjects_count,
        state.messages,
        state.bytes as f64 / 1024.0 / 1024.0
    ));
    Ok(())
}

fn say(line: &str) {
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}").ok();
}
