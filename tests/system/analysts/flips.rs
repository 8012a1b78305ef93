use super::{GRACE, analyst, folded};
use amaima::stack::wait_for;
use domain::wire::admin::{Projections, Reply};
use sqlx::{Connection, PgConnection, PgExecutor};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};
use tests::world::PATIENCE;

async fn count(connection: &mut PgConnection) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM analytics.rm_queries")
        .fetch_one(connection)
        .await
        .expect("an analyst gets an answer")
}

async fn generation(connection: impl PgExecutor<'_>) -> i64 {
    sqlx::query_scalar("SELECT generation FROM analytics.rm_checkpoint")
        .fetch_one(connection)
        .await
        .expect("an analyst gets an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_query_holds_no_flip_up_and_ends_on_what_it_began_with() {
    let (bench, life, _) = folded(4000).await;
    let mut mia = analyst(&bench, "mia").await;
    let before = count(&mut mia).await;
    assert_eq!(generation(&mut mia).await, 1);

    // A query that runs through everything that follows: it has read one row.
    let mut slow = analyst(&bench, "slow").await;
    let mut reading = slow.begin().await.expect("a transaction");
    sqlx::raw_sql("DECLARE rows CURSOR FOR SELECT * FROM analytics.rm_queries; FETCH 1 FROM rows")
        .execute(&mut *reading)
        .await
        .expect("begun");
    // And one after the other, all the time.
    let mut busy = analyst(&bench, "busy").await;
    let stop = Arc::new(AtomicBool::new(false));
    let done = stop.clone();
    #[expect(clippy::disallowed_methods, reason = "joined below")]
    let asking = tokio::spawn(async move {
        let mut asked = 0;
        while !done.load(Ordering::Relaxed) {
            assert_eq!(count(&mut busy).await, before);
            asked += 1;
        }
        asked
    });

    let mut took = vec![];
    let orders = [
        (Projections::Rebuild { flip: true }, 2),
        (Projections::Rebuild { flip: true }, 3),
        (Projections::Rollback, 2),
        (Projections::Rebuild { flip: true }, 4),
    ];
    for (order, number) in orders {
        assert_eq!(bench.ordered(&order).await, Reply::Begun);
        let began = Instant::now();
        let flipped = wait_for("the flip", PATIENCE, || async {
            let live = generation(&bench.pool).await;
            (live == number).then_some(()).ok_or(live)
        });
        flipped.await.expect("live");
        took.push(began.elapsed());
        assert_eq!(generation(&mut mia).await, number);
        assert_eq!(count(&mut mia).await, before);
    }
    stop.store(true, Ordering::Relaxed);
    let asked = asking.await.expect("every query is answered");
    println!("flips under a running query after {took:?}; {asked} queries meanwhile");

    let rest = sqlx::raw_sql("FETCH ALL FROM rows")
        .fetch_all(&mut *reading)
        .await;
    let rest = rest.expect("the query ends");
    assert_eq!(i64::try_from(rest.len()), Ok(before - 1));
    let retired = || async {
        sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM pg_namespace WHERE nspname ~ '_retired_'",
        )
        .fetch_one(&bench.pool)
        .await
        .map_err(|error| error.to_string())
    };
    let left = async |schemas: i64| {
        let left = wait_for("the end of what nobody holds", PATIENCE, || async {
            let left = retired().await?;
            (left == schemas)
                .then_some(())
                .ok_or(format!("{left} are left"))
        });
        left.await.expect("swept");
    };
    // The rows of the generation that the query reads, and its views.
    left(2).await;
    reading.commit().await.expect("ended");
    left(0).await;
    life.stop(GRACE).await;
}
