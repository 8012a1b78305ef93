//! The same append-and-project work by Amaima and by two peers, `cqrs-es` with `postgres-es` and
//! `disintegrate` with `disintegrate-postgres`, side by side in one table.
//!
//! `cargo run --release --manifest-path tests/peers/Cargo.toml`, with [`settings::Settings`] from
//! the environment. Each round brings up fresh servers, durable ones: PostgreSQL as it comes
//! (`fsync` and `synchronous_commit` on), nats-server with `sync_interval: always`. The contestants
//! run one after the other, each in databases of its own, in an order that turns with the rounds.
//! [`work`] says what is done, [`contest`] how it is measured and audited.
//!
//! To add a peer: a module with a type that is a [`contest::Contestant`], and its lines in
//! [`CONTESTANTS`], [`name`] and [`once`].

mod contest;
mod database;
mod ours;
mod report;
mod settings;
mod with_cqrs_es;
mod with_disintegrate;
mod work;

use amaima::stack::{self, Stack, SyncMode};
use anyhow::Context;
use contest::Figures;
use ours::Ours;
use report::{Entry, version};
use settings::Settings;
use with_cqrs_es::WithCqrsEs;
use with_disintegrate::WithDisintegrate;

#[derive(Clone, Copy)]
enum Who {
    Ours,
    CqrsEs,
    Disintegrate,
}

/// Ours first: the table compares the others with it.
const CONTESTANTS: [Who; 3] = [Who::Ours, Who::CqrsEs, Who::Disintegrate];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::from_env()?;
    let mut entries = CONTESTANTS.map(|who| Entry {
        name: name(who),
        runs: Vec::new(),
    });
    for round in 0..settings.rounds {
        let stack = stack::testing_with(|options| {
            options.sync = SyncMode::Always;
            options.disposable = false;
        })
        .await?;
        if round == 0 {
            say(&conditions(&stack, &settings).await?);
        }
        for turn in 0..CONTESTANTS.len() {
            let place = (round + turn) % CONTESTANTS.len();
            let entry = &mut entries[place];
            let figures = once(CONTESTANTS[place], &stack, &settings)
                .await
                .with_context(|| entry.name.clone())?;
            say(&format!(
                "round {}: {}: {:.0} commands/s, {:.0} events/s projected, {:.0} replayed",
                round + 1,
                entry.name,
                figures.commands,
                figures.projected.unwrap_or(f64::NAN),
                figures.replayed.unwrap_or(f64::NAN),
            ));
            entry.runs.push(figures);
        }
        stack.stop().await?;
    }
    say(&format!("\n{}", report::table(&entries)));
    say(NOTES);
    anyhow::ensure!(report::faults(&entries[0]).is_empty(), "ours is not exact");
    Ok(())
}

const NOTES: &str = "\
Rates: more is better; milliseconds: less is better. Medians over the rounds.
A conflict is a decision that had to be taken again; ours are settled inside the service.
cqrs-es updates its view before a command returns; the others project beside the commands.
Ours also passes each command over the bus, authorises it, recognises repeats, and has policies
write the query's token stream and job; the peers do nothing of that.";

fn name(who: Who) -> String {
    let both = |one, other| format!("{one} {} + {other} {}", version(one), version(other));
    match who {
        Who::Ours => format!("amaima {}", version("amaima")),
        Who::CqrsEs => both("cqrs-es", "postgres-es"),
        Who::Disintegrate => both("disintegrate", "disintegrate-postgres"),
    }
}

/// Runs one contestant in fresh databases, which are gone afterwards, so that no contestant has to
/// share the disk with what another one left to be written.
async fn once(who: Who, stack: &Stack, settings: &Settings) -> anyhow::Result<Figures> {
    let admin = database::pool(&stack.endpoints().database_url, 1).await?;
    let (one, another) = ("peers_one", "peers_another");
    let url = stack.database(one).await?;
    let another_url = stack.database(another).await?;
    database::execute(&admin, "CHECKPOINT").await?;
    let figures = match who {
        Who::Ours => {
            let ours = Ours::start(stack, &url, &another_url).await?;
            contest::run(ours, settings).await?
        }
        Who::CqrsEs => {
            let peer = WithCqrsEs::start(&url, settings.connections).await?;
            contest::run(peer, settings).await?
        }
        Who::Disintegrate => {
            let peer = WithDisintegrate::start(&url, settings.connections).await?;
            contest::run(peer, settings).await?
        }
    };
    for database in [one, another] {
        database::execute(&admin, &format!("DROP DATABASE {database} WITH (FORCE)")).await?;
    }
    admin.close().await;
    Ok(figures)
}

/// What the figures depend on, as the servers themselves tell it.
async fn conditions(stack: &Stack, settings: &Settings) -> anyhow::Result<String> {
    const SHOWN: [&str; 7] = [
        "server_version",
        "fsync",
        "synchronous_commit",
        "full_page_writes",
        "wal_sync_method",
        "shared_buffers",
        "max_connections",
    ];
    let pool = database::pool(&stack.endpoints().database_url, 1).await?;
    let mut postgres = Vec::new();
    for setting in SHOWN {
        let value: String = sqlx::query_scalar("SELECT current_setting($1)")
            .bind(setting)
            .fetch_one(&pool)
            .await?;
        postgres.push(format!("{setting} {value}"));
    }
    pool.close().await;
    let client = async_nats::connect(&stack.endpoints().nats_url).await?;
    let configuration = std::fs::read_to_string(stack.data_dir().join("nats/nats.conf"))?;
    let sync = configuration
        .lines()
        .map(str::trim)
        .find(|line| line.starts_with("sync_interval"))
        .context("nats-server's configuration has no sync_interval")?;
    Ok(format!(
        "{} aggregates, {} commands each, {} in flight, {} rounds, {} processors\n\
         PostgreSQL: {}; {} connections for a peer's commands\n\
         nats-server: version {}, {sync}\n",
        settings.aggregates,
        work::EVENTS,
        settings.in_flight,
        settings.rounds,
        std::thread::available_parallelism()?,
        postgres.join(", "),
        settings.connections,
        client.server_info().version,
    ))
}

/// A line for the person who runs this.
fn say(line: &str) {
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}").ok();
}
