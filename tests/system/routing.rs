//! Queries are given to models by rules and by what workers have registered, and their owners see
//! why.

use amaima::stack::wait_for;
use domain::{
    Timestamp,
    id::QueryId,
    query::Options as Wishes,
    subject,
    wire::{
        error::Code,
        worker::{Abilities, HEARTBEAT_MILLIS, Model, Registration},
    },
};
use infra::{clock, direct_get, lifecycle::Lifecycle, workers};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tests::{
    asking::Asking,
    client::{self, Client},
    random_model::{self, Words},
    world::{Options, PATIENCE, World},
};

const RULES: &str = r#"
[[rule]]
name = "analysis"
operations = ["analysis"]
models = ["big"]
only = true

[[rule]]
name = "rest"
models = ["*"]
choose = "freest"
"#;

const TWO_MODELS: &str = r#"
[[rule]]
name = "analysis"
operations = ["analysis"]
models = ["half-*"]
only = true

[[rule]]
name = "general"
models = ["amaima-demo"]
"#;

fn worker(model: &str, free_places: u32) -> Registration {
    let model = Model {
        id: model.into(),
        provider: "engine".into(),
        loaded_at: Timestamp::from_millis(0),
        context: Some(4_096),
        abilities: Abilities::default(),
        places: 64,
        free_places,
        free_tokens: None,
    };
    Registration {
        worker: format!("worker-of-{}", model.id),
        models: vec![model],
        draining: false,
        at: clock::now(),
    }
}

async fn world() -> World {
    World::with(Options {
        no_worker: true,
        routing_rules: Some(RULES),
        ..Options::default()
    })
    .await
}

/// Does this while workers say again and again that they are there.
async fn while_there<T>(world: &World, there: &[Registration], work: impl Future<Output = T>) -> T {
    let nats = world.nats().await;
    let mut beats = tokio::time::interval(Duration::from_millis(HEARTBEAT_MILLIS));
    let beating = async {
        loop {
            beats.tick().await;
            for registration in there {
                workers::register(&nats, registration).await.expect("told");
            }
        }
    };
    tokio::select! {
        done = work => done,
        () = beating => unreachable!("it goes on"),
    }
}

/// Asks without waiting for an answer; what the read model says about the query.
async fn ask(client: &Client, body: &Value) -> Result<Value, (StatusCode, Value)> {
    let request = client.request(Method::POST, "/v1/query");
    let request = request.header("Prefer", "respond-async").json(body);
    let (status, answer) = client::read(request.send().await.expect("an answer")).await;
    if status != StatusCode::ACCEPTED {
        return Err((status, answer));
    }
    let id = answer["query_id"].as_str().expect("an id");
    let (status, item) = client.get(&format!("/v1/queries/{id}")).await;
    assert_eq!(status, StatusCode::OK, "{item}");
    Ok(item)
}

/// Asks until the query is given to this model: command-svc hears of workers a little later.
async fn routed_to(client: &Client, operation: &str, model: &str) -> Value {
    let routed = wait_for("the route", PATIENCE, || async {
        let question = format!("Why {}?", clock::fresh_id());
        let body = json!({ "query": question, "operation": operation });
        match ask(client, &body).await {
            Ok(item) if item["route"]["model"] == model => Ok(item),
            other => Err(format!("{other:?}")),
        }
    });
    routed.await.expect("routed")
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_and_free_places_decide_and_the_owner_sees_why() {
    let world = world().await;
    let nats = world.nats().await;
    let mia = Client::registered(world.http).await;

    // Nobody is there: an analysis waits for the model that its rule names, the rest for anybody.
    let item = ask(&mia, &json!({ "query": "Why?" }))
        .await
        .expect("accepted");
    assert_eq!(item["route"]["model"], "any");
    assert_eq!(item["route"]["rule"], "rest");
    assert_eq!(item["route"]["complexity"], "simple");
    let item = ask(&mia, &json!({ "query": "Why?", "operation": "analysis" })).await;
    assert_eq!(item.expect("accepted")["route"]["model"], "big");

    let there = [worker("big", 8), worker("small", 20)];
    let item = while_there(&world, &there, routed_to(&mia, "general", "small")).await;
    let id = item["query_id"].as_str().expect("an id");
    let reason = item["route"]["reason"].as_str().expect("a reason");
    assert!(reason.contains("`small` by rule `rest`"), "{reason}");
    assert!(reason.contains("of 64 places free, behind it"), "{reason}");
    assert!(reason.contains("`analysis`: operation general"), "{reason}");

    // The job waits for that model, and the list shows the same.
    let jobs = wait_for("the job", PATIENCE, || async {
        let jobs = direct_get::subject(&nats, subject::JOBS, "job.small.interactive", 1).await;
        let jobs = jobs.map_err(|error| error.to_string())?;
        (!jobs.is_empty()).then_some(jobs).ok_or("none".to_owned())
    });
    jobs.await.expect("a job for the model");
    let (_, list) = mia.get("/v1/queries?limit=1").await;
    assert_eq!(list[0]["route"], item["route"]);

    // Nobody else sees it.
    let stranger = Client::registered(world.http).await;
    let (status, _) = stranger.get(&format!("/v1/queries/{id}")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);

    // Capacity moves the choice.
    let there = [worker("big", 8), worker("small", 0)];
    let item = while_there(&world, &there, routed_to(&mia, "general", "big")).await;
    let reason = item["route"]["reason"].as_str().expect("a reason");
    assert!(reason.contains("`small`: no free place"), "{reason}");
    let item = while_there(&world, &there, routed_to(&mia, "analysis", "big")).await;
    assert_eq!(item["route"]["rule"], "analysis");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_model_accepts_is_refused_and_a_repeat_keeps_the_first_decision() {
    let world = world().await;
    let nats = world.nats().await;
    let mia = Client::registered(world.http).await;
    let body = |id: &str| json!({ "query": "Why?", "operation": "analysis", "query_id": id });
    let asked = body("11111111-2222-4333-8444-555555555555");
    let there = [worker("big", 8)];
    let first = while_there(&world, &there, ask(&mia, &asked)).await;
    let first = first.expect("accepted");
    assert_eq!(first["route"]["model"], "big");

    workers::leave(&nats, "worker-of-big").await.expect("gone");
    let there = [worker("small", 8)];
    while_there(&world, &there, async {
        routed_to(&mia, "general", "small").await;
        let again = ask(&mia, &asked).await.expect("a repeat");
        assert_eq!(again["route"], first["route"]);
        nobody_has_it(&mia, &body("11111111-2222-4333-8444-666666666666")).await;
        by_name(Asking::of(&world, &mia).await).await;
    })
    .await;
}

async fn nobody_has_it(mia: &Client, body: &Value) {
    let (status, refused) = ask(mia, body).await.expect_err("nobody has it");
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused["error"]["code"], "QUERY_ROUTING_ERROR");
    let message = refused["error"]["message"].as_str().expect("a message");
    let expected = "no worker has a model of rule `analysis`";
    assert!(message.contains(expected), "{message}");
    let mut socket = mia.socket().await;
    // Another question: a socket would claim the one that was asked by REST.
    let submit = json!({ "type": "submit_query", "query": "How?", "operation": "analysis" });
    socket.send(&submit).await;
    let error = socket.frame_of("error").await;
    assert_eq!(error["data"]["code"], "QUERY_ROUTING_ERROR", "{error}");
}

/// A model that was asked for by name is taken or refused.
async fn by_name(asking: Asking) {
    let named = async |model: &str| {
        let options = Wishes {
            model: Some(model.into()),
            ..Wishes::default()
        };
        let query = QueryId::new(clock::fresh_id());
        asking.try_submit(query, "Why?", options).await
    };
    assert_eq!(named("small").await, Ok(()));
    let failure = named("medium").await.expect_err("nobody has it");
    assert_eq!(failure.code, Code::QueryRoutingError);
    assert!(
        failure.message.contains("no worker has `medium`"),
        "{failure:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_of_rules_stops_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("rules.toml");
    std::fs::write(&file, "[[rule]]\nname = \"a\"\nmodels = []\n").expect("a file");
    let mut config = command_svc::Config::at(
        infra::config::Nats::at("nats://127.0.0.1:1"),
        infra::sealing::Sealing::Off,
    );
    config.routing_rules = Some(file);
    let refused = command_svc::run(config, Lifecycle::new()).await;
    let refused = refused.expect_err("bad rules").to_string();
    assert!(
        refused.contains("line 1: models: 1 to 64 of them"),
        "{refused}"
    );
}

/// A model that is right half of the time, as its directory says, and a worker that has it.
fn half_sure(world: &World, dir: &Path) {
    let model = random_model::make(dir, random_model::QUICK, Words::Plain).expect("a model");
    let config = model.join("config.json");
    let text = std::fs::read_to_string(&config).expect("a config");
    let text = text.replace("\"random-model\"", "\"half-sure\"");
    std::fs::write(&config, text).expect("a config");
    let calibration = r#"{ "slope": 0.0, "offset": 0.0 }"#;
    std::fs::write(model.join("calibration.json"), calibration).expect("a file");
    run_worker(world, dir, vec![model]);
}

fn run_worker(world: &World, cache: &Path, model_dirs: Vec<PathBuf>) {
    let mut config = world.worker();
    config.cache_dir = cache.to_owned();
    config.model_dirs = model_dirs;
    config.max_new_tokens = 32;
    world.run_worker(config, &world.lifecycle);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_answer_what_the_rules_give_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = World::with(Options {
        no_worker: true,
        routing_rules: Some(TWO_MODELS),
        ..Options::default()
    })
    .await;
    let mia = Client::registered(world.http).await;
    run_worker(&world, dir.path(), vec![]);
    half_sure(&world, dir.path());
    for (operation, model) in [("general", "amaima-demo"), ("analysis", "half-sure")] {
        // Both have registered when the reason of either tells of free places.
        let there = wait_for("both workers", PATIENCE, || async {
            let item = routed_to(&mia, operation, model).await;
            let reason = item["route"]["reason"].to_string();
            let both = reason.contains("Not taken:") && reason.contains("places free");
            both.then_some(()).ok_or(reason)
        });
        there.await.expect("both are there");
        let body = json!({ "query": "What is a projection here?", "operation": operation });
        let (status, answer) = mia.post("/v1/query", &body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer["model_used"], model);
        let confidence = answer["confidence"].as_f64().expect("a number");
        match model {
            "half-sure" => assert!((confidence - 0.5).abs() < 1e-12, "{confidence}"),
            _ => assert!(confidence > 0.9, "{confidence}"),
        }
        let id = answer["query_id"].as_str().expect("an id");
        let (_, item) = mia.get(&format!("/v1/queries/{id}")).await;
        assert_eq!(item["route"]["model"], model);
        assert_eq!(item["route"]["rule"], operation);
    }
}
