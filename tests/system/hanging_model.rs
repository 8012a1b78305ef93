//! A model that hangs: its queries end with an error, and then its worker does, for another one to
//! take its place.

use serde_json::json;
use std::time::Duration;
use tests::{
    client::Client,
    world::{Model, Options, PATIENCE, World},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_model_hangs_ends_its_queries_and_itself() {
    let options = Options {
        no_worker: true,
        ..Options::default()
    };
    let world = World::with(options).await;
    let mut worker = world.worker();
    worker.model_dirs = vec![Model::Slow.dir().expect("a model")];
    // Each step of so long a question takes longer, so that the model looks like one that hangs.
    worker.step_limit = Duration::from_millis(30);
    let question = "Does it hang? ".repeat(100);
    let mia = Client::registered(world.http).await;
    let mut socket = mia.socket().await;
    let asking = async {
        socket
            .send(&json!({ "type": "submit_query", "query": question.trim() }))
            .await;
        let (id, mut stream) = socket.begun().await;
        let told = socket.failed(&mut stream, &id).await;
        (stream, told)
    };
    let working = inference_worker::run(worker, world.lifecycle.child());
    let both = async { tokio::join!(asking, working) };
    let ((stream, told), worked) = tokio::time::timeout(PATIENCE, both)
        .await
        .expect("both end");
    assert_eq!(stream.end["status"], "failed");
    assert_eq!(told, "QUERY_MODEL_ERROR");
    let error = worked.expect_err("it cannot go on");
    assert!(
        matches!(error, inference_worker::Error::Stuck { .. }),
        "{error:?}"
    );
}
