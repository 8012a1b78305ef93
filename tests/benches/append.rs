//! Commits per second through command-svc beside the bare client with the same headers and payload.
//!
//! `cargo bench -p tests --bench append`. Both run on the same server, one after the other, several
//! times; the medians and their ratio are printed, for relaxed and for synced writes.

use amaima::stack::{self, SyncMode};
use domain::{
    Actor, Timestamp,
    commit::{self, header},
    id::{AccountId, CommandId, QueryId},
    query::{Event, Query, Submission},
    wire::command::{Body, Reply, Request, Via},
};
use futures_util::{StreamExt, stream};
use infra::{append, bus::Commands, clock, config, lifecycle::Lifecycle};
use std::time::{Duration, Instant};

const IN_FLIGHT: usize = 64;
const COMMITS: usize = 4_000;
const ROUNDS: usize = 5;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    say("mode | bare client /s | command-svc /s | ratio | p50 ms | p99 ms (medians of 5)");
    for (name, sync) in [("relaxed", SyncMode::Relaxed), ("synced", SyncMode::Always)] {
        let stack = stack::testing_with(|options| options.sync = sync).await?;
        let nats = config::Nats::at(&stack.endpoints().nats_url);
        let lifecycle = Lifecycle::new();
        let client = infra::nats::connect(&nats, "bench").await?;
        infra::jetstream::prepare(&client, &nats).await?;
        let service = command_svc::Config { nats };
        let life = lifecycle.clone();
        lifecycle.spawn("command-svc", async move {
            if let Err(error) = command_svc::run(service, life).await {
                say(&format!("command-svc: {error}"));
            }
        });
        let commands = Commands::new(client.clone());
        order(&commands).await?;
        let (mut bare, mut ours, mut p50, mut p99) = (vec![], vec![], vec![], vec![]);
        for _ in 0..ROUNDS {
            bare.push(rate(|| plain(&client)).await?.0);
            let (rate, mut times) = rate(|| order(&commands)).await?;
            ours.push(rate);
            times.sort_unstable();
            p50.push(times[times.len() / 2].as_secs_f64() * 1e3);
            p99.push(times[times.len() * 99 / 100].as_secs_f64() * 1e3);
        }
        let (bare, ours) = (median(bare), median(ours));
        say(&format!(
            "{name} | {bare:.0} | {ours:.0} | {:.2} | {:.2} | {:.2}",
            ours / bare,
            median(p50),
            median(p99)
        ));
        lifecycle.stop(Duration::from_secs(5)).await;
        stack.stop().await?;
    }
    Ok(())
}

/// Runs `COMMITS` calls, `IN_FLIGHT` at a time: calls per second, and how long each took.
async fn rate<F>(call: impl Fn() -> F) -> anyhow::Result<(f64, Vec<Duration>)>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let began = Instant::now();
    let mut calls = stream::iter(0..COMMITS)
        .map(|_| async {
            let began = Instant::now();
            call().await.map(|()| began.elapsed())
        })
        .buffer_unordered(IN_FLIGHT);
    let mut times = Vec::with_capacity(COMMITS);
    while let Some(took) = calls.next().await {
        times.push(took?);
    }
    Ok((COMMITS as f64 / began.elapsed().as_secs_f64(), times))
}

fn submission() -> Submission {
    Submission {
        text: "What is a projection here, and why is it kept apart from the log?".into(),
        operation: "general".into(),
        file_ids: vec![],
        context: None,
        reference: None,
    }
}

/// The ceiling: the very commit that command-svc would write, appended by the bare client.
async fn plain(client: &async_nats::Client) -> anyhow::Result<()> {
    let query = QueryId::new(clock::fresh_id());
    let owner = AccountId::new(clock::fresh_id());
    let command = CommandId::new(clock::fresh_id());
    let at = Timestamp::from_millis(1_741_079_700_000);
    let event = Event::Submitted {
        query,
        owner,
        submission: submission(),
        at,
    };
    let commit = commit::encode::<Query>(query.uuid(), command, at, &[event])?;
    let mut headers = async_nats::HeaderMap::new();
    for (name, value) in [
        (header::COMMAND_ID, command.to_string()),
        ("Nats-Msg-Id", command.to_string()),
        (header::EVENT_TYPES, commit.types),
        (header::ACTOR, serde_json::to_string(&Actor::User(owner))?),
        (header::CORRELATION_ID, "req_0123456789ab".into()),
        (header::CAUSATION_ID, "req_0123456789ab".into()),
        (header::REQUEST_ID, "req_0123456789ab".into()),
        (header::SCHEMA, commit::SCHEMA.into()),
    ] {
        headers.insert(name, value);
    }
    let subject = commit.aggregate.subject();
    append::append(client, &subject, 0, headers, commit.payload.into()).await?;
    Ok(())
}

/// Ours: the command over the bus, decided, appended and answered.
async fn order(commands: &Commands) -> anyhow::Result<()> {
    let request = Request {
        id: CommandId::new(clock::fresh_id()),
        actor: Actor::User(AccountId::new(clock::fresh_id())),
        request_id: "req_0123456789ab".into(),
        traceparent: None,
        deadline: clock::now().plus_millis(30_000),
        fingerprint: None,
        body: Body::SubmitQuery {
            query: QueryId::new(clock::fresh_id()),
            named: true,
            via: Via::Socket,
            submission: submission(),
        },
    };
    match commands.send(&request).await {
        Reply::Accepted { .. } => Ok(()),
        other => anyhow::bail!("not accepted: {other:?}"),
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn say(line: &str) {
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}").ok();
}
