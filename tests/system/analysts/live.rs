use serde_json::json;
use sqlx::Row;
use tests::{client::Client, world::World};

#[tokio::test(flavor = "multi_thread")]
async fn the_query_view_answers_an_analysts_question() {
    let world = World::start().await;
    let mia = Client::registered(world.http).await;
    for question in ["What is a projection here?", "What is an aggregate?"] {
        mia.post("/v1/query", &json!({ "query": question })).await;
    }
    mia.get("/v1/queries").await;
    let database = world.database().await;
    let row = sqlx::query(
        "SELECT operation, model, status, count(*) AS queries,
                percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms) AS median_latency_ms,
                min(last_seq) AS first_seq
         FROM analytics.rm_queries
         WHERE created_at > now() - interval '1 day'
         GROUP BY operation, model, status",
    )
    .fetch_one(&database)
    .await
    .expect("one group");
    assert_eq!(row.get::<i64, _>("queries"), 2);
    assert_eq!(row.get::<String, _>("status"), "completed");
    assert_eq!(row.get::<String, _>("model"), "amaima-demo");
    assert!(row.get::<i64, _>("first_seq") > 0);
}
