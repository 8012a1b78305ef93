//! Commits per second: from command-svc and through REST, beside the bare client with the same
//! headers and payload, for relaxed and for synced writes.
//!
//! `cargo bench -p tests --bench append`. All three run on the same server, one after the other,
//! several times; medians and their ratios are printed. Each submission has the policies make three
//! more writes and a timer. With the policies "held" their consumer is paused until the round is
//! over, which shows the way of the commands alone, as where other machines run the policies; "at
//! work" they share the processors with it. `-- ways` compares instead the ways in which the server
//! takes messages that are guarded by the expected sequence ([`ways`]). `AMAIMA_COMMITS` sets how
//! many commits a round has.

mod ways;

use amaima::stack::{self, Stack, SyncMode, wait_for};
use async_nats::{datetime, jetstream::stream::Stream};
use domain::{
    Actor,
    commit::{self, header},
    id::{AccountId, CommandId, QueryId},
    query::{Event, Query, Submission},
    subject,
    wire::command::{Body, Reply, Request, Via},
};
use futures_util::{StreamExt, stream};
use infra::sealing::Sealing;
use infra::{
    append::{self, Part},
    bus::Commands,
    clock, config,
    lifecycle::Lifecycle,
};
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::{
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};
use tests::client::Client;

const IN_FLIGHT: usize = 64;
const ROUNDS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(60);

/// Who makes the commits.
#[derive(Clone, Copy)]
enum Way {
    Bare,
    Service,
    Rest,
}

/// The rows of a table, the one that the others are compared with first: what it is called, who
/// makes the commits, and whether the policies are held.
const ROWS: [(&str, Way, bool); 5] = [
    ("bare client, policies held", Way::Bare, true),
    ("command-svc, policies held", Way::Service, true),
    ("REST, policies held", Way::Rest, true),
    ("command-svc, policies at work", Way::Service, false),
    ("REST, policies at work", Way::Rest, false),
];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let ways = std::env::args().any(|argument| argument == "ways");
    if !ways {
        say("mode | what | commits/s | of the bare client | p50 ms | p99 ms (medians of 5 rounds)");
    }
    let mut ours = Vec::new();
    for (name, sync) in [("relaxed", SyncMode::Relaxed), ("synced", SyncMode::Always)] {
        let stack = stack::testing_with(|options| options.sync = sync).await?;
        if ways {
            ways::compare(name, &stack.endpoints().nats()).await?;
        } else {
            ours.push(compare(name, &stack).await?);
        }
        stack.stop().await?;
    }
    if let [relaxed, synced] = ours[..] {
        say(&format!(
            "synced / relaxed from command-svc: {:.2}",
            synced / relaxed
        ));
    }
    Ok(())
}

/// Prints one table, and answers with the commits per second from command-svc.
async fn compare(mode: &str, stack: &Stack) -> anyhow::Result<f64> {
    let nats = stack.endpoints().nats();
    let lifecycle = Lifecycle::new();
    let client = infra::nats::connect(&nats, "bench").await?;
    infra::jetstream::prepare(&client, &nats).await?;
    let http = services(&nats, &lifecycle)?;
    let commands = Commands::new(client.clone());
    wait_for("command-svc", PATIENCE, || order(&commands))
        .await
        .map_err(anyhow::Error::msg)?;
    wait_for("the gateway", PATIENCE, || {
        reqwest::get(format!("http://{http}/health/live"))
    })
    .await?;
    let mia = Client::registered(http).await;
    let policies = Policies {
        events: async_nats::jetstream::new(client.clone())
            .get_stream_no_info(subject::EVENTS)
            .await?,
    };
    let mut rows = ROWS.map(|(what, way, held)| (what, way, held, Figures::new()));
    for _ in 0..ROUNDS {
        for (_, way, held, figures) in &mut rows {
            if *held {
                policies.hold().await?;
            }
            figures.add(match way {
                Way::Bare => rate(|| plain(&client)).await?,
                Way::Service => rate(|| order(&commands)).await?,
                Way::Rest => rate(|| post(&mia)).await?,
            });
            policies.settle().await?;
        }
    }
    let rates = rows
        .each_mut()
        .map(|(.., figures)| median(&mut figures.rates));
    for ((what, .., figures), rate) in rows.iter_mut().zip(rates) {
        say(&format!(
            "{mode} | {what} | {rate:.0} | {:.2} | {:.2} | {:.2}",
            rate / rates[0],
            median(&mut figures.p50),
            median(&mut figures.p99)
        ));
    }
    lifecycle.stop(Duration::from_secs(5)).await;
    Ok(rates[1])
}

/// The consumer that hands commits to the policies.
struct Policies {
    events: Stream<()>,
}

impl Policies {
    const NAME: &str = "policies";

    async fn hold(&self) -> anyhow::Result<()> {
        let until = datetime::add_std_duration(datetime::now(), PATIENCE)
            .map_err(|error| anyhow::anyhow!(error))?;
        self.events.pause_consumer(Self::NAME, until).await?;
        Ok(())
    }

    /// Lets them go on, and waits until they have done what follows from one round, so that it does
    /// not weigh on the next.
    async fn settle(&self) -> anyhow::Result<()> {
        self.events.resume_consumer(Self::NAME).await?;
        wait_for("the policies", PATIENCE, || async {
            let consumer = self.events.consumer_info(Self::NAME).await;
            let consumer = consumer.map_err(|error| error.to_string())?;
            match consumer.num_pending + consumer.num_ack_pending as u64 {
                0 => Ok(()),
                left => Err(format!("{left} commits are left")),
            }
        })
        .await
        .map_err(anyhow::Error::msg)
    }
}

/// command-svc and a gateway in this process; where the gateway listens.
fn services(nats: &config::Nats, lifecycle: &Lifecycle) -> anyhow::Result<SocketAddr> {
    let free = || TcpListener::bind("127.0.0.1:0").and_then(|bound| bound.local_addr());
    let key = config::Secret::new(gateway::keys::generate_pem()?);
    let mut gateway = gateway::Config::new(key, nats.clone());
    (gateway.http_addr, gateway.metrics_addr) = (free()?, free()?);
    let http = gateway.http_addr;
    let commands = command_svc::Config::at(nats.clone(), Sealing::Off);
    let life = lifecycle.clone();
    lifecycle.spawn("command-svc", async move {
        if let Err(error) = command_svc::run(commands, life).await {
            say(&format!("command-svc: {error}"));
        }
    });
    let life = lifecycle.clone();
    lifecycle.spawn("gateway", async move {
        if let Err(error) = gateway::run(gateway, life).await {
            say(&format!("gateway: {error}"));
        }
    });
    Ok(http)
}

/// What the rounds of one way have shown.
struct Figures {
    rates: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Figures {
    const fn new() -> Self {
        Self {
            rates: Vec::new(),
            p50: Vec::new(),
            p99: Vec::new(),
        }
    }

    fn add(&mut self, (rate, mut times): (f64, Vec<Duration>)) {
        times.sort_unstable();
        let millis = |at: usize| times[at].as_secs_f64() * 1e3;
        self.rates.push(rate);
        self.p50.push(millis(times.len() / 2));
        self.p99.push(millis(times.len() * 99 / 100));
    }
}

/// Commits of one round.
fn commits() -> usize {
    let text = std::env::var("AMAIMA_COMMITS").ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(10_000)
}

/// Runs one round, `IN_FLIGHT` calls at a time: calls per second, and how long each took.
async fn rate<F>(call: impl Fn() -> F) -> anyhow::Result<(f64, Vec<Duration>)>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let (count, began) = (commits(), Instant::now());
    let mut calls = stream::iter(0..count)
        .map(|_| async {
            let began = Instant::now();
            call().await.map(|()| began.elapsed())
        })
        .buffer_unordered(IN_FLIGHT);
    let mut times = Vec::with_capacity(count);
    while let Some(took) = calls.next().await {
        times.push(took?);
    }
    Ok((count as f64 / began.elapsed().as_secs_f64(), times))
}

fn submission() -> Submission {
    Submission {
        text: "What is a projection here, and why is it kept apart from the log?".into(),
        operation: "general".into(),
        file_ids: vec![],
        context: None,
        reference: None,
        options: None,
    }
}

/// The very commit that command-svc would write, to a fresh aggregate.
fn part() -> anyhow::Result<Part> {
    let query = QueryId::new(clock::fresh_id());
    let owner = AccountId::new(clock::fresh_id());
    let command = CommandId::new(clock::fresh_id());
    // An old one would have its timer fire at once, and the policies fail the query.
    let at = clock::now();
    let event = Event::Submitted {
        query,
        owner,
        submission: submission(),
        at,
        route: None,
    };
    let commit = commit::encode::<Query>(query.uuid(), command, at, &[event])?;
    let mut headers = async_nats::HeaderMap::new();
    for (name, value) in [
        (header::COMMAND_ID, command.to_string()),
        (header::EVENT_TYPES, commit.types),
        (header::ACTOR, serde_json::to_string(&Actor::User(owner))?),
        (header::CORRELATION_ID, "req_0123456789ab".into()),
        (header::CAUSATION_ID, "req_0123456789ab".into()),
        (header::REQUEST_ID, "req_0123456789ab".into()),
        (header::SCHEMA, commit::SCHEMA.into()),
    ] {
        headers.insert(name, value);
    }
    Ok(Part {
        subject: commit.aggregate.subject(),
        expected: 0,
        headers,
        payload: commit.payload.into(),
    })
}

/// The ceiling: the bare client.
async fn plain(client: &async_nats::Client) -> anyhow::Result<()> {
    let part = part()?;
    append::append(
        client,
        &part.subject,
        part.expected,
        part.headers,
        part.payload,
    )
    .await?;
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

/// The same as an app sends it.
async fn post(mia: &Client) -> anyhow::Result<()> {
    // Another text each time: the same one from one user is what the rules about duplicates are for.
    let id = clock::fresh_id();
    let body = json!({ "query": format!("{} {id}", submission().text), "query_id": id });
    let response = mia
        .request(Method::POST, "/v1/query")
        .header("Prefer", "respond-async")
        .json(&body)
        .send()
        .await?;
    let status = response.status();
    // Read to its end, so that the connection is used again.
    let body = response.text().await?;
    anyhow::ensure!(status == StatusCode::ACCEPTED, "{status}: {body}");
    Ok(())
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn say(line: &str) {
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}").ok();
}
