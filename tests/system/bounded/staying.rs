//! What somebody may still need stays in the log, however long ago it ended.

use super::{GRACE, SETTLE, copy, ended, gone, head, in_log, project, rows, subject, world};
use async_nats::jetstream;
use domain::{
    subject::{EVENTS, PARKED_POLICIES},
    wire::parked::Parked,
};
use infra::direct_get;
use tests::{archive, client::Client};

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_has_to_decide_about_stays() {
    let world = world().await;
    let keeping = project(&world, None);
    let mia = Client::registered(world.http).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(ended(&mia).await);
    }
    rows(&world).await;
    archive::copied_to(&copy(&world).await, head(&world).await).await;
    keeping.stop(GRACE).await;
    let (rows_wait, reaction_waits, free) = (&ids[0], &ids[1], &ids[2]);
    let pool = world.database().await;
    let parked = "INSERT INTO rm.parked (seq, subject, reason) VALUES (1, $1, 'unreadable')";
    let parked = sqlx::query(parked).bind(subject(rows_wait)).execute(&pool);
    parked.await.expect("parked");
    let nats = world.nats().await;
    let first = direct_get::subject(&nats, EVENTS, &subject(reaction_waits), 1).await;
    let seq = first.expect("commits")[0].seq;
    let context = jetstream::new(nats.clone());
    let bucket = context.get_key_value(PARKED_POLICIES).await;
    let bucket = bucket.expect("the bucket");
    let set_aside = Parked {
        seq,
        subject: subject(reaction_waits),
        reason: "unreadable".into(),
        at: infra::clock::now(),
        tries: 1,
    };
    let value = serde_json::to_vec(&set_aside).expect("JSON");
    let put = bucket.put(seq.to_string(), value.into()).await;
    put.expect("set aside");

    let life = project(&world, Some(SETTLE));
    gone(&world, free).await;
    // All of them were looked at together.
    for id in [rows_wait, reaction_waits] {
        assert_eq!(in_log(&world, id).await, 2);
    }
    let done = sqlx::query("DELETE FROM rm.parked").execute(&pool).await;
    done.expect("decided");
    bucket.purge(seq.to_string()).await.expect("decided");
    gone(&world, rows_wait).await;
    gone(&world, reaction_waits).await;
    life.stop(GRACE).await;
}
