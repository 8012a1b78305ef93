//! From `submit_query` on a socket to the first chunk on it, beside a bare round trip over NATS.
//!
//! `cargo bench -p tests --bench stream`. The demo model answers; the time that the model itself
//! needs to its first token is measured alone, on the same machine, and taken off.

use domain::limits::SOCKET_MESSAGES_PER_SECOND;
use engine::{Engine, Item, Message, Options, Request};
use futures_util::StreamExt;
use serde_json::json;
use std::time::{Duration, Instant};
use tests::{client::Client, world::World};

const ROUNDS: usize = 300;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let round_trip = {
        let world = World::start().await;
        bare_round_trips(&world.nats().await).await?
    };
    let model = first_tokens().await?;
    let world = World::start().await;
    let mia = Client::registered(world.http).await;
    let mut socket = mia.socket().await;
    let (mut accepted, mut first) = (vec![], vec![]);
    for n in 0..ROUNDS {
        // No socket takes more than so many messages at once, and none of them waits here.
        if n > 0 && n % SOCKET_MESSAGES_PER_SECOND as usize == 0 {
            socket = mia.socket().await;
        }
        let began = Instant::now();
        let query = uuid::Uuid::new_v4().to_string();
        let frame = json!({ "type": "submit_query", "query": question(n), "queryId": query });
        socket.send(&frame).await;
        let mut stream = tests::client::Stream::default();
        let (mut heard, mut chunk) = (None, None);
        loop {
            let frame = socket.frame_of("query_update").await;
            heard.get_or_insert_with(|| began.elapsed());
            let ended = stream.add(&frame, &query);
            if stream.chunks > 0 {
                chunk.get_or_insert_with(|| began.elapsed());
            }
            if ended {
                break;
            }
        }
        accepted.extend(heard);
        first.extend(chunk);
    }
    let model_p50 = percentile(&model, 50);
    say("what | p50 ms | p99 ms");
    row("bare NATS round trip", &round_trip);
    row("submit -> queued on the socket", &accepted);
    row("submit -> first chunk on the socket", &first);
    row("the model alone, prompt to first token", &model);
    let bus: Vec<Duration> = first
        .iter()
        .map(|took| took.saturating_sub(model_p50))
        .collect();
    row("submit -> first chunk, less the model's median", &bus);
    let ratio = percentile(&bus, 50).as_secs_f64() / percentile(&round_trip, 50).as_secs_f64();
    say(&format!("our path takes {ratio:.1} bare round trips"));
    Ok(())
}

fn question(n: usize) -> String {
    [
        "What is a projection here?",
        "What is an aggregate?",
        "Who are you?",
    ][n % 3]
        .to_owned()
}

async fn bare_round_trips(client: &async_nats::Client) -> anyhow::Result<Vec<Duration>> {
    let mut echo = client.subscribe("bench.echo").await?;
    let answering = client.clone();
    let answer = async move {
        while let Some(message) = echo.next().await {
            if let Some(reply) = message.reply {
                answering.publish(reply, message.payload).await.ok();
            }
        }
    };
    let ask = async {
        let mut times = vec![];
        for _ in 0..ROUNDS {
            let began = Instant::now();
            client.request("bench.echo", "x".repeat(400).into()).await?;
            times.push(began.elapsed());
        }
        anyhow::Ok(times)
    };
    tokio::select! {
        times = ask => times,
        () = answer => anyhow::bail!("the echo ended"),
    }
}

async fn first_tokens() -> anyhow::Result<Vec<Duration>> {
    let cache = tempfile::tempdir()?;
    let engine = Engine::load(
        &inference_worker::demo::unpack(cache.path())?,
        Options::default(),
    )?;
    let mut times = vec![];
    for n in 0..ROUNDS {
        let message = Message {
            role: "user".into(),
            content: question(n),
        };
        let request = Request::new(engine.chat_prompt(&[message])?, 16);
        let began = Instant::now();
        let mut items = engine.submit(request)?;
        while let Some(item) = items.next().await {
            if matches!(&item, Item::Token { text, .. } if !text.is_empty()) {
                times.push(began.elapsed());
                break;
            }
        }
    }
    Ok(times)
}

fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times
        .get((times.len() * percent / 100).min(times.len() - 1))
        .copied()
        .unwrap_or_default()
}

fn row(what: &str, times: &[Duration]) {
    let ms = |percent| percentile(times, percent).as_secs_f64() * 1e3;
    say(&format!("{what} | {:.2} | {:.2}", ms(50), ms(99)));
}

fn say(line: &str) {
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}").ok();
}
