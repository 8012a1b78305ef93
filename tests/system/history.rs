//! Clients, kills, and a checker that holds what they were told against the log and the read models.
//!
//! `AMAIMA_MINUTES`, `AMAIMA_KILLS` and `AMAIMA_SEED` make the run as long, as rough and as
//! repeatable as wanted:
//! `AMAIMA_MINUTES=10 AMAIMA_KILLS=110 cargo test -p tests --test system history -- --nocapture`

use std::time::Duration;
use tests::history::{
    Random,
    check::violations,
    mutant::Mutant,
    run::{Plan, run},
};

/// Without `AMAIMA_MINUTES`.
const SHORT: Duration = Duration::from_secs(20);
const SHORT_KILLS: u64 = 8;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_with_kills_keeps_every_promise_and_its_mutants_do_not() {
    let fresh = || uuid::Uuid::new_v4().as_u64_pair().0;
    let plan = Plan {
        time: number("AMAIMA_MINUTES").map_or(SHORT, |minutes| Duration::from_secs(minutes * 60)),
        kills: usize::try_from(number("AMAIMA_KILLS").unwrap_or(SHORT_KILLS)).unwrap(),
        seed: number("AMAIMA_SEED").unwrap_or_else(fresh),
    };
    println!("AMAIMA_SEED={}", plan.seed);
    let recorded = run(plan).await;
    println!("{}", recorded.tables());
    println!("{} messages in the log", recorded.history.log.len());
    let found = &recorded.violations;
    assert!(found.is_empty(), "{found:#?}\n{}", recorded.logs);

    // Another sequence than the run's own.
    let mut random = Random::new(!plan.seed);
    for mutant in Mutant::ALL {
        let spoilt = mutant.sow(&recorded.history, &mut random);
        let spoilt = spoilt.unwrap_or_else(|| panic!("{mutant:?}: nothing to spoil"));
        let found = violations(&spoilt);
        let caught = found.iter().any(|each| each.kind == mutant.caught_as());
        assert!(caught, "{mutant:?}: {found:#?}");
        println!("{mutant:?}: found as {:?}", mutant.caught_as());
    }
}
