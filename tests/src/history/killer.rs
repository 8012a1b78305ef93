//! Kills and freezes processes at random.

use super::Random;
use crate::{service::Role, world::World};
use amaima::stack::ServerKind;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::{Instant, sleep, sleep_until};

/// What can be hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Server(ServerKind),
    Service(Role),
}

const VICTIMS: [Victim; 6] = [
    Victim::Server(ServerKind::Nats),
    Victim::Server(ServerKind::Postgres),
    Victim::Service(Role::Command),
    Victim::Service(Role::Projection),
    Victim::Service(Role::Worker),
    Victim::Service(Role::Gateway),
];

impl Victim {
    fn name(self) -> String {
        match self {
            Self::Server(kind) => kind.to_string(),
            Self::Service(role) => role.name().to_owned(),
        }
    }
}

/// How often each process was hit.
#[derive(Clone, Debug, Default)]
pub struct Hits {
    /// Killed.
    pub kills: BTreeMap<String, usize>,
    /// Frozen for a moment.
    pub pauses: BTreeMap<String, usize>,
}

/// Spreads this many kills over the time until then, with a few freezes between them. Everything
/// runs again when it comes back.
pub(super) async fn strike(
    world: &mut World,
    random: &mut Random,
    kills: usize,
    until: Instant,
) -> Hits {
    let mut hits = Hits::default();
    let begun = Instant::now();
    let whole = until.saturating_duration_since(begun);
    let mut done = 0;
    while done < kills {
        // Somewhere in the part of the time that belongs to this kill.
        let part = (done as f64 + 0.2 + 0.6 * random.below(100) as f64 / 100.0) / kills as f64;
        sleep_until(begun + whole.mul_f64(part)).await;
        if random.one_in(5) {
            let victim = *random.pick(&VICTIMS).expect("a victim");
            freeze(world, victim, millis(random, 1_200)).await;
            *hits.pauses.entry(victim.name()).or_default() += 1;
        }
        let first = random.below(VICTIMS.len());
        let mut victims = vec![VICTIMS[first]];
        // Now and then two at once.
        if random.one_in(4) && done + 1 < kills {
            let second = (first + 1 + random.below(VICTIMS.len() - 1)) % VICTIMS.len();
            victims.push(VICTIMS[second]);
        }
        for victim in &victims {
            kill(world, *victim).await;
            *hits.kills.entry(victim.name()).or_default() += 1;
            done += 1;
        }
        if random.one_in(2) {
            sleep(millis(random, 1_000)).await;
        }
        // A service that finds no server at its start ends, and nobody supervises it here.
        victims.sort_by_key(|victim| matches!(victim, Victim::Service(_)));
        for victim in victims {
            start(world, victim).await;
        }
    }
    hits
}

fn millis(random: &mut Random, most: usize) -> Duration {
    Duration::from_millis(random.below(most) as u64)
}

async fn kill(world: &mut World, victim: Victim) {
    match victim {
        Victim::Server(kind) => world.stack.server(kind).kill().await.expect("killed"),
        Victim::Service(role) => world.kill(role),
    }
}

async fn start(world: &mut World, victim: Victim) {
    match victim {
        Victim::Server(kind) => {
            let started = world.stack.server(kind).restart().await;
            started.expect("it comes back with its data");
        }
        Victim::Service(role) => world.spawn(role),
    }
}

async fn freeze(world: &World, victim: Victim, time: Duration) {
    match victim {
        Victim::Server(kind) => {
            let server = world.stack.server(kind);
            server.pause().expect("frozen");
            sleep(time).await;
            server.resume().expect("awake");
        }
        Victim::Service(role) => {
            // One that ended by itself is found by the check that follows, as what is missing.
            world.process(role).pause().ok();
            sleep(time).await;
            world.process(role).resume().ok();
        }
    }
}
