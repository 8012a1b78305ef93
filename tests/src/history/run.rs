//! A recorded run: clients, kills, rest, and everything that there is to know afterwards.

use super::{
    History, Random, Violation,
    check::{self, violations},
    client::Client,
    killer::{self, Hits},
    log, report, rows,
};
use crate::world::{Options, Services, World};
use amaima::stack::wait_for;
use futures_util::future::join_all;
use std::time::Duration;
use tokio::time::Instant;

const CLIENTS: usize = 5;
/// How long everything may take to come to rest: answers to all questions, and the projection.
const REST: Duration = Duration::from_secs(180);

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How long clients go on.
    pub time: Duration,
    /// How many processes are killed meanwhile.
    pub kills: usize,
    /// Decides about everything that is random on our side.
    pub seed: u64,
}

/// What came out.
#[derive(Debug)]
pub struct Recorded {
    /// All that is known.
    pub history: History,
    /// What was hit.
    pub hits: Hits,
    /// What the checker found.
    pub violations: Vec<Violation>,
    /// The end of the logs of the services.
    pub logs: String,
}

impl Recorded {
    /// Tables for people.
    pub fn tables(&self) -> String {
        report::tables(&self.history.calls, &self.hits, &self.violations)
    }
}

/// Runs it.
///
/// # Panics
/// When the servers do not come back after a kill.
pub async fn run(plan: Plan) -> Recorded {
    let options = Options {
        services: Services::AsProcesses,
        ..Options::default()
    };
    let mut world = World::with(options).await;
    let mut random = Random::new(plan.seed);
    let started = Instant::now();
    let until = started + plan.time;
    let gateway = world.http;
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|index| Client::new(index, gateway, random.next(), started))
        .collect();
    let running = join_all(clients.iter_mut().map(|client| client.run(until)));
    let (hits, _) = tokio::join!(
        killer::strike(&mut world, &mut random, plan.kills, until),
        running
    );
    world.ready().await;
    // What does not come to rest in time is told by the checker.
    let rest = wait_for("rest", REST, || at_rest(&world)).await;
    join_all(clients.iter_mut().map(Client::look_back)).await;
    let mut history = snapshot(&world)
        .await
        .expect("the log and the read models can be read");
    for client in clients {
        history.calls.extend(client.calls);
    }
    let mut logs = world.tail_of_logs();
    if let Err(error) = rest {
        logs = format!("{error}\n{logs}");
    }
    let violations = violations(&history);
    Recorded {
        history,
        hits,
        violations,
        logs,
    }
}

/// The log and the read models as they are now.
async fn snapshot(world: &World) -> anyhow::Result<History> {
    let client = world.nats().await;
    let keys = world.keys(&client);
    let log = log::read(&client, &keys).await?;
    let pool = world.database().await;
    let rows = rows::read(&pool, &keys).await?;
    pool.close().await;
    Ok(History {
        calls: Vec::new(),
        log,
        rows,
    })
}

/// Every query has ended, and the read models have all of it.
async fn at_rest(world: &World) -> Result<(), String> {
    let history = snapshot(world).await.map_err(|error| error.to_string())?;
    match check::unfinished(&history) {
        0 => Ok(()),
        open => Err(format!("{open} of {} commits or rows", history.log.len())),
    }
}
