//! The list of stores is all that there is.

use domain::stores::{self, Kind};
use futures_util::TryStreamExt;
use std::collections::BTreeSet;
use tests::world::{Options, World};

fn listed(kind: Kind) -> BTreeSet<String> {
    let of_kind = stores::ALL.iter().filter(|store| store.kind == kind);
    of_kind.map(|store| store.name.to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stream_bucket_and_table_says_what_an_erasure_does_to_it() {
    let world = World::with(Options {
        no_worker: true,
        ..Options::default()
    })
    .await;
    let context = async_nats::jetstream::new(world.nats().await);
    let streams: Vec<String> = context.stream_names().try_collect().await.expect("names");
    let (buckets, streams): (BTreeSet<_>, BTreeSet<_>) = streams
        .into_iter()
        .partition(|name| name.starts_with("KV_"));
    assert_eq!(streams, listed(Kind::Stream));
    let buckets = buckets.iter().filter_map(|name| name.strip_prefix("KV_"));
    assert_eq!(
        buckets.map(str::to_owned).collect::<BTreeSet<_>>(),
        listed(Kind::Bucket)
    );
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT tablename::text FROM pg_tables
             WHERE schemaname NOT IN ('pg_catalog', 'information_schema')",
    )
    .fetch_all(&world.database().await)
    .await
    .expect("tables");
    assert_eq!(
        tables.into_iter().collect::<BTreeSet<_>>(),
        listed(Kind::Table)
    );
}
