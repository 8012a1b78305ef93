//! The read side's promises: the same rows whatever happens, never half of a command, rebuilt and
//! rolled back under queries, one owner at a time, ill when it stands still.

use amaima::stack::{Process, wait_for};
use domain::{
    commit::header,
    id::CommandId,
    subject,
    wire::{
        admin::{Generation, Health, Projections, Reply, State, Status},
        view,
    },
};
use infra::append::{self, Part};
use projection_svc::Config;
use serde_json::Value;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tests::{
    commits::{self, History},
    projections::Bench,
    world::PATIENCE,
};

const GRACE: Duration = Duration::from_secs(10);

fn commands(history: &mut History, count: usize) -> Vec<Part> {
    (0..count).flat_map(|_| history.command()).collect()
}

fn generation(status: &Status, state: State) -> Option<&Generation> {
    status.generations.iter().find(|each| each.state == state)
}

/// A configuration on a database of its own.
async fn fresh(bench: &Bench, name: &str, lanes: usize) -> (Config, sqlx::PgPool) {
    let url = bench.stack.database(name).await.expect("a database");
    let pool = sqlx::PgPool::connect(&url).await.expect("a connection");
    let config = Config {
        postgres: infra::config::Postgres::at(&url),
        lanes,
        ..bench.config()
    };
    (config, pool)
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_lanes_and_any_kill_give_the_same_rows() {
    let mut bench = Bench::start().await;
    let mut random = History::new(1);
    let mut last = 0;
    for (round, lanes) in [4, 4, 3, 1, 4].into_iter().enumerate() {
        let instance = bench.spawn(lanes);
        last = commits::write(&bench.client, commands(&mut random, 3000))
            .await
            .expect("written");
        // Each time somewhere else, mostly in the middle of a chunk.
        let some = last.saturating_sub(2800 - 500 * round as u64);
        bench.reached(some).await;
        instance.kill().expect("killed");
    }
    let instance = bench.spawn(4);
    bench.reached(last).await;
    let status = bench
        .status_when("four lanes", |status| {
            generation(status, State::Live).is_some_and(|live| live.lanes.len() == 4)
        })
        .await;
    assert_eq!(status.health, Health::Healthy, "{status:?}");
    let rows = bench.hash("rm").await;
    instance.kill().expect("killed");

    let (config, pool) = fresh(&bench, "one_lane", 1).await;
    bench.pool = pool;
    let life = bench.run(config);
    bench.reached(last).await;
    assert_eq!(bench.hash("rm").await, rows);
    assert!(rows.iter().all(|(_, count, _)| *count > 0), "{rows:?}");
    println!("{last} commits, five kills, 4, 3 and 1 lanes: {rows:?}");
    life.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_a_command_is_never_seen() {
    let bench = Bench::start().await;
    let mut random = History::new(2);
    let mut last = 0;
    for n in 0..400 {
        let parts = if n % 4 == 0 {
            random.register()
        } else {
            random.submit_together(3)
        };
        let stored = append::append_batch(&bench.client, &format!("batch-{n}"), parts.iter()).await;
        last = stored.expect("stored").seq;
    }
    let caught_up = Arc::new(AtomicBool::new(false));
    let (pool, done) = (bench.pool.clone(), caught_up.clone());
    #[expect(clippy::disallowed_methods, reason = "joined below")]
    let reader = tokio::spawn(async move {
        let mut looks = 0u32;
        while !done.load(Ordering::Relaxed) {
            let halves = sqlx::query_as::<_, (i64, i64, i64)>(
                "SELECT (SELECT count(*) FROM rm.accounts FULL JOIN rm.sessions USING (account_id)
                         WHERE email IS NULL OR session_id IS NULL),
                        (SELECT count(*) FROM (SELECT FROM rm.queries
                         GROUP BY created_at HAVING count(*) <> 3) AS halves),
                        (SELECT count(*) FROM rm.queries)",
            )
            .fetch_one(&pool)
            .await;
            // Before the tables are made there is nothing to be seen.
            let Ok((accounts, commands, queries)) = halves else {
                continue;
            };
            assert_eq!((accounts, commands), (0, 0), "at {queries} queries");
            looks += u32::from(queries > 0 && queries < 900);
        }
        looks
    });
    let config = Config {
        lanes: 4,
        ..bench.config()
    };
    let life = bench.run(config);
    bench.reached(last).await;
    caught_up.store(true, Ordering::Relaxed);
    let looks = reader.await.expect("never half");
    println!("{last} commits; seen {looks} times on the way");
    life.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_commits_are_retried_in_order_and_skipped_by_name() {
    let bench = Bench::start().await;
    let life = bench.run(bench.config());
    let mut random = History::new(3);
    let last = commits::write(&bench.client, commands(&mut random, 1000))
        .await
        .expect("written");
    bench.reached(last).await;
    // A rule that the rows of finished queries break, until it is "fixed" below.
    sqlx::query(
        "ALTER TABLE rm.queries ADD CONSTRAINT poison CHECK (status <> 'failed') NOT VALID",
    )
    .execute(&bench.pool)
    .await
    .expect("a rule");
    let last = commits::write(&bench.client, commands(&mut random, 1000))
        .await
        .expect("written");
    bench.reached(last).await;
    let status = bench
        .status_when("degraded", |s| s.health == Health::Degraded)
        .await;
    assert!(generation(&status, State::Live).is_some_and(|live| live.parked > 0));
    let Reply::Retried {
        projected,
        left,
        failed,
    } = bench.ordered(&Projections::Retry { subject: None }).await
    else {
        panic!("no retry")
    };
    assert_eq!(projected, 0);
    assert!(
        left > 0 && failed[0].reason.contains("poison"),
        "{failed:?}"
    );
    sqlx::query("ALTER TABLE rm.queries DROP CONSTRAINT poison")
        .execute(&bench.pool)
        .await
        .expect("fixed");
    let one = Some(failed[0].subject.clone());
    let reply = bench.ordered(&Projections::Retry { subject: one }).await;
    assert!(
        matches!(reply, Reply::Retried { projected: 1, .. }),
        "{reply:?}"
    );
    let reply = bench.ordered(&Projections::Retry { subject: None }).await;
    assert!(matches!(reply, Reply::Retried { left: 0, .. }), "{reply:?}");
    bench
        .status_when("healthy", |s| s.health == Health::Healthy)
        .await;

    // What nobody can read: parked with the rest of its command and what comes after it.
    let together = random.submit_together(3);
    let (good, torn) = (together[0].subject.clone(), together[1].subject.clone());
    let mut parts = together;
    parts[1].payload = br#"[{"type":"query.invented.v9","data":{}}]"#.as_slice().into();
    let stored = append::append_batch(&bench.client, "torn", parts.iter()).await;
    let seq = stored.expect("stored").seq - 1;
    let mut later = parts.remove(0);
    let other_command = CommandId::new(uuid::Uuid::new_v4()).to_string();
    later.headers.insert(header::COMMAND_ID, other_command);
    later.payload =
        br#"[{"type":"query.cancelled.v1","data":{"query":"ID","at":"2025-03-04T09:15:00.000Z"}}]"#
            .as_slice()
            .into();
    let id = good.rsplit('.').next().expect("an id");
    later.payload = String::from_utf8_lossy(&later.payload)
        .replace("ID", id)
        .into();
    let last = commits::write(
        &bench.client,
        [later].into_iter().chain(commands(&mut random, 50)),
    )
    .await
    .expect("written");
    bench.reached(last).await;
    let Reply::Parked { commits, total: 4 } = bench
        .ordered(&Projections::Parked {
            after: 0,
            limit: 100,
        })
        .await
    else {
        panic!("four are parked")
    };
    let reasons: Vec<&str> = commits.iter().map(|each| each.reason.as_str()).collect();
    assert!(reasons[1].contains("query.invented.v9") || reasons[1].contains("cannot be read"));
    assert_eq!(reasons[0], "another commit of the same command is parked");
    assert_eq!(reasons[3], "an earlier commit of this aggregate is parked");
    let skip = |why: &str| Projections::Skip {
        seq,
        who: "mia".into(),
        why: why.into(),
    };
    assert!(matches!(
        bench.ordered(&skip(" ")).await,
        Reply::Refused { .. }
    ));
    let reply = bench.ordered(&skip("written by a test")).await;
    assert!(
        matches!(
            reply,
            Reply::Retried {
                projected: 3,
                left: 0,
                ..
            }
        ),
        "{reply:?}"
    );
    let (who, subject): (String, String) = sqlx::query_as("SELECT who, subject FROM rm.skipped")
        .fetch_one(&bench.pool)
        .await
        .expect("recorded");
    assert_eq!((who.as_str(), subject.as_str()), ("mia", torn.as_str()));
    let status: String =
        sqlx::query_scalar("SELECT status FROM rm.queries WHERE query_id::text = $1")
            .bind(id)
            .fetch_one(&bench.pool)
            .await
            .expect("a row");
    assert_eq!(status, "cancelled");

    // A rebuild comes to the same rows, and keeps what was decided.
    let rows = bench.hash("rm").await;
    assert!(matches!(
        bench.ordered(&Projections::Rebuild { flip: true }).await,
        Reply::Begun
    ));
    let status = bench
        .status_when("a second generation", |status| {
            generation(status, State::Live).is_some_and(|live| live.number == 2)
        })
        .await;
    bench.reached(last).await;
    assert_eq!(bench.hash("rm").await, rows);
    let live = generation(&status, State::Live).expect("one");
    assert_eq!((live.parked, live.skipped), (0, 1));
    life.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_flips_and_rolls_back_under_queries() {
    let bench = Bench::start().await;
    let life = bench.run(bench.config());
    let mut random = History::new(4);
    let last = commits::write(&bench.client, commands(&mut random, 4000))
        .await
        .expect("written");
    bench.reached(last).await;
    let owner = random.person();
    let stop = Arc::new(AtomicBool::new(false));
    wait_for("the first answer", PATIENCE, || async {
        match bench.queries(owner, last).await {
            view::Reply::Found { .. } => Ok(()),
            view::Reply::Unavailable => Err("unavailable"),
        }
    })
    .await
    .expect("questions are answered");
    let bench = Arc::new(bench);
    let asking: Vec<_> = (0..4)
        .map(|_| {
            let (bench, stop) = (bench.clone(), stop.clone());
            #[expect(clippy::disallowed_methods, reason = "joined below")]
            tokio::spawn(async move {
                let (mut answers, mut before) = (0u32, last);
                while !stop.load(Ordering::Relaxed) {
                    match bench.queries(owner, before).await {
                        view::Reply::Found { as_of, .. } => {
                            assert!(as_of >= before, "reads go back");
                            before = as_of;
                        }
                        view::Reply::Unavailable => panic!("no answer after {answers}"),
                    }
                    answers += 1;
                }
                answers
            })
        })
        .collect();
    // A prepared statement of a session that lives through it all.
    let (pool, done) = (bench.pool.clone(), stop.clone());
    #[expect(clippy::disallowed_methods, reason = "joined below")]
    let prepared = tokio::spawn(async move {
        let mut connection = pool.acquire().await.expect("a connection");
        sqlx::query("SET search_path = rm")
            .execute(&mut *connection)
            .await
            .expect("set");
        let (mut looks, mut before) = (0u32, 0);
        while !done.load(Ordering::Relaxed) {
            let count: i64 = sqlx::query_scalar("SELECT count(*) FROM queries")
                .fetch_one(&mut *connection)
                .await
                .expect("a count");
            assert!(count >= before, "rows are missing: {count} after {before}");
            before = count;
            looks += 1;
        }
        looks
    });

    assert_eq!(
        bench.ordered(&Projections::Rebuild { flip: false }).await,
        Reply::Begun
    );
    let again = bench.ordered(&Projections::Rebuild { flip: false }).await;
    assert!(matches!(again, Reply::Refused { .. }), "{again:?}");
    bench
        .status_when("a built generation", |status| {
            generation(status, State::Next).is_some_and(|next| next.lag == 0 && next.seq >= last)
        })
        .await;
    let live_number = |status: &Status| generation(status, State::Live).map(|live| live.number);
    assert_eq!(
        live_number(&bench.status().await.expect("a status")),
        Some(1)
    );
    for (order, number) in [
        (Projections::Flip, 2),
        (Projections::Rollback, 1),
        (Projections::Rollback, 2),
    ] {
        let more = commits::write(&bench.client, commands(&mut random, 500))
            .await
            .expect("written");
        assert_eq!(bench.ordered(&order).await, Reply::Begun);
        bench
            .status_when("the flip", |status| live_number(status) == Some(number))
            .await;
        bench.reached(more).await;
        println!("{order:?}: generation {number} is live at {more}");
    }
    stop.store(true, Ordering::Relaxed);
    let mut answers = 0;
    for each in asking {
        answers += each.await.expect("every question is answered");
    }
    let looks = prepared.await.expect("every statement runs");
    println!("{answers} answers and {looks} prepared statements meanwhile, none failed");

    // The analysts' view shows the generation that is live.
    let (live, seen): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM rm.queries), (SELECT count(*) FROM analytics.rm_queries)",
    )
    .fetch_one(&bench.pool)
    .await
    .expect("counts");
    assert_eq!(live, seen);
    // One that is given up is gone.
    assert_eq!(
        bench.ordered(&Projections::Rebuild { flip: false }).await,
        Reply::Begun
    );
    assert_eq!(bench.ordered(&Projections::Abandon).await, Reply::Begun);
    bench
        .status_when("no other generation", |s| {
            generation(s, State::Next).is_none()
        })
        .await;
    life.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_rebuild_is_gone_on_with_where_it_was() {
    let bench = Bench::start().await;
    let mut random = History::new(9);
    // Several chunks, so that there is a middle.
    let last = commits::write(&bench.client, commands(&mut random, 30_000))
        .await
        .expect("written");
    let first = bench.spawn(2);
    bench.reached(last).await;
    let rows = bench.hash("rm").await;
    let begun = bench.ordered(&Projections::Rebuild { flip: true }).await;
    assert_eq!(begun, Reply::Begun);
    let end = i64::try_from(last).expect("small");
    let built = wait_for("the middle of the rebuild", PATIENCE, || async {
        let seq = "SELECT min(seq) FROM rm_next.checkpoint";
        let seq = sqlx::query_scalar(seq).fetch_one(&bench.pool).await;
        match seq.map_err(|error| error.to_string())? {
            0 => Err("nothing is built yet".to_owned()),
            seq => Ok::<i64, _>(seq),
        }
    });
    let built = built.await.expect("a rebuild");
    first.kill().expect("killed");
    assert!(
        built < end,
        "the rebuild is too fast to be killed in the middle"
    );
    let second = bench.spawn(2);
    let status = bench.status_when("the flip", |status| {
        generation(status, State::Next).is_none()
            && generation(status, State::Live).is_some_and(|live| live.number == 2)
    });
    let status = status.await;
    assert!(status.owner.ends_with(&format!("/{}", second.id())));
    let begun: Vec<i64> = bench
        .logs()
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["message"] == "building")
        .filter_map(|line| line["seq"].as_i64())
        .collect();
    assert!(
        matches!(begun[..], [0, second] if second >= built),
        "builds began at {begun:?}, the first had {built}"
    );
    assert_eq!(bench.hash("rm").await, rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_is_built_beside_the_live_one_and_takes_its_place() {
    let bench = Bench::start().await;
    let mut random = History::new(5);
    let life = bench.run(bench.config());
    let last = commits::write(&bench.client, commands(&mut random, 500))
        .await
        .expect("written");
    bench.reached(last).await;
    life.stop(GRACE).await;
    sqlx::query("UPDATE rm.meta SET version = 0")
        .execute(&bench.pool)
        .await
        .expect("of an older version");
    let rows = bench.hash("rm").await;
    let life = bench.run(bench.config());
    let status = bench
        .status_when("the new version", |status| {
            generation(status, State::Live).is_some_and(|live| live.version == status.version)
        })
        .await;
    assert_eq!(
        generation(&status, State::Previous).map(|each| each.version),
        Some(0)
    );
    assert_eq!(bench.hash("rm").await, rows);
    let reply = bench.ordered(&Projections::Rollback).await;
    assert!(matches!(reply, Reply::Refused { .. }), "{reply:?}");
    life.stop(GRACE).await;
}

/// The instance that owns, and the other.
async fn owner_and_standby(bench: &Bench, one: Process, other: Process) -> (Process, Process) {
    let status = bench
        .status_when("an owner", |status| status.health == Health::Healthy)
        .await;
    if status.owner.ends_with(&format!("/{}", one.id())) {
        (one, other)
    } else {
        (other, one)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_from_a_killed_owner() {
    let bench = Bench::start().await;
    let mut random = History::new(6);
    let (mut one, mut other) = (bench.spawn(2), bench.spawn(2));
    let mut took = Vec::new();
    for _ in 0..3 {
        let last = commits::write(&bench.client, commands(&mut random, 200))
            .await
            .expect("written");
        bench.reached(last).await;
        let (owner, standby) = owner_and_standby(&bench, one, other).await;
        wait_for("a standby", PATIENCE, || async {
            if bench.logs().matches("standing by").count() > took.len() {
                Ok(())
            } else {
                Err("nobody stands by")
            }
        })
        .await
        .expect("a standby");
        owner.kill().expect("killed");
        let killed = Instant::now();
        let last = commits::write(&bench.client, commands(&mut random, 10))
            .await
            .expect("written");
        bench.reached(last).await;
        took.push(killed.elapsed());
        (one, other) = (standby, bench.spawn(2));
    }
    println!("rows go on after {took:?}");
    // A machine that is busy with other tests may be slow once.
    assert!(
        took.iter().min() < Some(&Duration::from_secs(2)),
        "{took:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_hung_has_lost_the_means_to_write() {
    let mut bench = Bench::start().await;
    let mut random = History::new(7);
    let (one, other) = (bench.spawn(2), bench.spawn(2));
    let last = commits::write(&bench.client, commands(&mut random, 500))
        .await
        .expect("written");
    bench.reached(last).await;
    let (zombie, _standby) = owner_and_standby(&bench, one, other).await;
    wait_for("a standby", PATIENCE, || async {
        bench
            .logs()
            .contains("standing by")
            .then_some(())
            .ok_or("nobody stands by")
    })
    .await
    .expect("a standby");
    zombie.pause().expect("paused");
    let paused = Instant::now();
    let last = commits::write(&bench.client, commands(&mut random, 500))
        .await
        .expect("written");
    bench.reached(last).await;
    println!("a hung owner is replaced after {:?}", paused.elapsed());
    zombie.resume().expect("resumed");
    let last = commits::write(&bench.client, commands(&mut random, 500))
        .await
        .expect("written");
    bench.reached(last).await;
    wait_for("the end of the zombie's ownership", PATIENCE, || async {
        let logs = bench.logs();
        if logs.matches("standing by").count() > 1 {
            Ok(())
        } else {
            Err("it does not stand by")
        }
    })
    .await
    .expect("the zombie stands by");
    let owners: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted
             AND classid::bigint = 1634558313 AND objid = 0",
    )
    .fetch_one(&bench.pool)
    .await
    .expect("a count");
    assert_eq!(owners, 1);
    let rows = bench.hash("rm").await;
    let (config, pool) = fresh(&bench, "clean", 2).await;
    bench.pool = pool;
    let life = bench.run(config);
    bench.reached(last).await;
    assert_eq!(bench.hash("rm").await, rows);
    life.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projection_that_stands_still_is_ill() {
    let bench = Bench::start().await;
    let config = Config {
        stalled_after: Duration::from_secs(1),
        ..bench.config()
    };
    let life = bench.run(config);
    let mut random = History::new(8);
    let last = commits::write(&bench.client, commands(&mut random, 500))
        .await
        .expect("written");
    bench.reached(last).await;
    bench
        .status_when("healthy", |s| s.health == Health::Healthy)
        .await;
    let mut blocking = bench.pool.begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE rm.queries IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *blocking)
        .await
        .expect("locked");
    commits::write(&bench.client, commands(&mut random, 100))
        .await
        .expect("written");
    let status = bench.status_when("ill", |s| s.health == Health::Ill).await;
    assert!(
        status
            .reasons
            .iter()
            .any(|reason| reason.contains("stands still")),
        "{status:?}"
    );
    blocking.rollback().await.expect("given back");
    // It is well as soon as it moves, which is before it has caught up.
    let status = bench
        .status_when("healthy again, and level with the log", |s| {
            let live = generation(s, State::Live);
            s.health == Health::Healthy && live.is_some_and(|live| live.lag == 0)
        })
        .await;
    assert_eq!(
        generation(&status, State::Live).map(|live| live.lag),
        Some(0)
    );
    assert_eq!(subject::ADMIN_PROJECTIONS, "adm.projections");
    life.stop(GRACE).await;
}
