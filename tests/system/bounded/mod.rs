//! A bounded log: queries that ended long ago leave it, and nobody who asks for them notices.

mod crash;
mod leaving;
mod looking;
mod permissions;
mod staying;

use amaima::stack::wait_for;
use async_nats::jetstream;
use domain::{Aggregate, query::Query, subject::EVENTS};
use infra::{archive::Archive, direct_get, lifecycle::Lifecycle};
use projection_svc::purger;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;
use tests::{
    archive,
    client::{self, Answer, Client},
    projections::hash,
    service::Role,
    world::{Options, PATIENCE, Services, World},
};
use uuid::{NoContext, Timestamp, Uuid};

const GRACE: Duration = Duration::from_secs(10);
const SETTLE: Duration = Duration::from_millis(50);

/// Command-svc and gateway as processes, and no worker: what is asked waits until it is cancelled.
/// projection-svc is started by the test.
async fn world() -> World {
    let mut world = World::with(Options {
        services: Services::AsProcesses,
        no_worker: true,
        bounded: true,
        ..Options::default()
    })
    .await;
    world.kill(Role::Projection);
    world
}

/// Runs projection-svc in this process, which copies the log and, `settle` after that was written
/// down, lets everything leave that has ended.
fn project(world: &World, settle: Option<Duration>) -> Lifecycle {
    let endpoints = world.stack.endpoints();
    let nats = infra::config::Nats {
        bounded: true,
        ..endpoints.nats()
    };
    let postgres = infra::config::Postgres::at(&endpoints.database_url);
    let sealing = endpoints.sealing().expect("master keys");
    let mut config = projection_svc::Config::at(nats, sealing, postgres);
    config.archive = Some(archive::config(&world.stack));
    config.purge = settle.map(|settle| purger::Config {
        keep: Duration::from_millis(1),
        every: Duration::from_millis(100),
        settle,
    });
    let lifecycle = Lifecycle::new();
    let each = lifecycle.clone();
    lifecycle.spawn("projection-svc", async move {
        projection_svc::run(config, each)
            .await
            .expect("projection-svc runs");
    });
    lifecycle
}

/// An id that a device made a month ago.
fn old_id() -> Uuid {
    let month_ago = infra::clock::now().plus_millis(-30 * 86_400_000);
    let since = u64::try_from(month_ago.as_millis()).expect("after 1970");
    Uuid::new_v7(Timestamp::from_unix(NoContext, since / 1000, 0))
}

async fn submit(client: &Client, key: Option<&str>, body: &Value) -> Answer {
    let mut request = client
        .request(Method::POST, "/v1/query")
        .header("Prefer", "respond-async")
        .json(body);
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    client::read(request.send().await.expect("an answer")).await
}

async fn cancel(client: &Client, query: &str) -> Answer {
    let request = client.request(Method::POST, &format!("/v1/queries/{query}/cancel"));
    client::read(request.send().await.expect("an answer")).await
}

/// Asks under an old id, and gives the question up.
async fn ended(client: &Client) -> String {
    let id = old_id().to_string();
    let body = json!({ "query": "What is a projection here?", "query_id": id });
    let (status, answer) = submit(client, None, &body).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    let (status, answer) = cancel(client, &id).await;
    assert!(status.is_success(), "{answer}");
    id
}

fn subject(query: &str) -> String {
    Query::named(query.parse().expect("an id")).subject()
}

/// How many of its commits the log has.
async fn in_log(world: &World, query: &str) -> usize {
    let found = direct_get::subject(&world.nats().await, EVENTS, &subject(query), 1).await;
    found.expect("the log answers").len()
}

/// Waits until the log has nothing of it.
async fn gone(world: &World, query: &str) {
    let gone = wait_for("a query to leave", PATIENCE, || async {
        match in_log(world, query).await {
            0 => Ok(()),
            left => Err(format!("{left} commits are there")),
        }
    });
    gone.await.expect("it leaves");
}

/// The last sequence of the log.
async fn head(world: &World) -> u64 {
    let context = jetstream::new(world.nats().await);
    let stream = context.get_stream(EVENTS).await.expect("the log");
    stream.cached_info().state.last_sequence
}

async fn copy(world: &World) -> Archive {
    archive::in_bucket(&world.stack, &world.nats().await).await
}

/// The rows of the live generation, once they have all of the log.
async fn rows(world: &World) -> Vec<(String, i64, String)> {
    let head = head(world).await;
    reached(world, "rm", head).await;
    hash(&world.database().await, "rm").await
}

async fn reached(world: &World, schema: &str, seq: u64) {
    let pool = world.database().await;
    let ask = format!("SELECT min(seq) FROM {schema}.checkpoint");
    wait_for("the rows", PATIENCE, || async {
        let reached: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(ask.as_str()))
            .fetch_one(&pool)
            .await
            .map_err(|error| error.to_string())?;
        let reached = u64::try_from(reached).unwrap_or(0);
        (reached >= seq)
            .then_some(())
            .ok_or(format!("{reached} of {seq}"))
    })
    .await
    .expect("the projection goes on");
}

/// A command-svc that knows nothing of what was before.
async fn forgetful(world: &mut World) {
    world.kill(Role::Command);
    world.spawn(Role::Command);
    world.ready().await;
}
