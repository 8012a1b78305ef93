//! What left is answered for as before, and cannot be made once more.

use super::{GRACE, SETTLE, cancel, ended, forgetful, gone, head, in_log, project, submit, world};
use amaima::{admin::Exit, stack::wait_for};
use reqwest::StatusCode;
use serde_json::json;
use tests::{
    admin,
    client::{Answer, Client},
    world::{PATIENCE, World},
};

/// What different people are told about a query, however they ask.
async fn answers(world: &World, mia: &Client, eve: &Client, id: &str, keyed: &str) -> Vec<Answer> {
    let body = json!({ "query": "What is a projection here?", "query_id": id });
    let other = json!({ "query": "And what is not?", "query_id": id });
    let first = json!({ "query": "Who are you?" });
    vec![
        mia.get(&format!("/v1/queries/{id}")).await,
        eve.get(&format!("/v1/queries/{id}")).await,
        submit(mia, None, &body).await,
        submit(mia, None, &other).await,
        submit(eve, None, &body).await,
        cancel(mia, id).await,
        cancel(eve, id).await,
        submit(mia, Some("key"), &first).await,
        submit(mia, Some("key"), &other).await,
        cancel(mia, keyed).await,
        history(world, id).await,
    ]
    .into_iter()
    .map(|(status, mut body)| {
        // Each refusal has an id and a time of its own.
        if let Some(body) = body.as_object_mut() {
            body.remove("meta");
        }
        (status, body)
    })
    .collect()
}

/// As operators see it.
async fn history(world: &World, id: &str) -> Answer {
    let (exit, history) =
        admin::json(world, &["aggregate", "history", "query", id, "--events"]).await;
    assert_eq!(exit, Exit::Well, "{history}");
    let (exit, state) = admin::json(world, &["aggregate", "state", "query", id]).await;
    assert_eq!(exit, Exit::Well, "{state}");
    (StatusCode::OK, json!([history, state]))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_left_is_answered_for_as_before() {
    let mut world = world().await;
    let keeping = project(&world, None);
    let (mia, eve) = (
        Client::registered(world.http).await,
        Client::registered(world.http).await,
    );
    let id = ended(&mia).await;
    let (status, keyed) = submit(&mia, Some("key"), &json!({ "query": "Who are you?" })).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{keyed}");
    let keyed = keyed["query_id"].as_str().expect("an id").to_owned();
    let (status, _) = cancel(&mia, &keyed).await;
    assert!(status.is_success());
    // One that is young, by its own id, and one that is under way.
    let (_, young) = submit(&mia, None, &json!({ "query": "How are you?" })).await;
    let young = young["query_id"].as_str().expect("an id").to_owned();
    cancel(&mia, &young).await;
    forgetful(&mut world).await;
    let before = answers(&world, &mia, &eve, &id, &keyed).await;
    assert_eq!(before[0].1["status"], "cancelled", "{:?}", before[0]);
    assert_eq!(before[4].0, StatusCode::UNPROCESSABLE_ENTITY);
    keeping.stop(GRACE).await;

    let life = project(&world, Some(SETTLE));
    gone(&world, &id).await;
    gone(&world, &keyed).await;
    assert_eq!(in_log(&world, &young).await, 2);
    let end = head(&world).await;
    forgetful(&mut world).await;
    assert_eq!(answers(&world, &mia, &eve, &id, &keyed).await, before);
    assert_eq!(head(&world).await, end, "nothing was made once more");
    assert_eq!(in_log(&world, &id).await + in_log(&world, &keyed).await, 0);
    // What is new is made as ever, under an old id as well.
    ended(&mia).await;

    // Where nobody can tell whether an id is an old one, nothing is made under it.
    life.stop(GRACE).await;
    let body = json!({ "query": "Why?", "query_id": super::old_id().to_string() });
    let (status, answer) = submit(&mia, None, &body).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    let (status, answer) = submit(&mia, None, &json!({ "query": "Why?" })).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    let life = project(&world, Some(SETTLE));
    wait_for("an answer", PATIENCE, || async {
        let (status, answer) = submit(&mia, None, &body).await;
        (status == StatusCode::ACCEPTED)
            .then_some(())
            .ok_or_else(|| answer.to_string())
    })
    .await
    .expect("it is made");
    life.stop(GRACE).await;
}
