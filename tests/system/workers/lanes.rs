//! Which jobs a worker takes, and in which order.

use amaima::stack::wait_for;
use async_nats::jetstream::{self, stream::Info};
use domain::{
    Timestamp,
    id::{AccountId, QueryId},
    query::Options,
    subject::{self, ANY_MODEL, Kind, Priority},
    wire::{
        command::{Body, Request},
        job::Job,
    },
};
use futures_util::StreamExt;
use infra::{clock, jobs};
use std::num::NonZeroUsize;
use tests::{
    asking::Asking,
    client::Client,
    world::{self, Model, PATIENCE, World},
};

const FOREIGN: &str = "somebody/else";

/// A job for a query that nobody has asked: whoever takes it says that it starts, hears that there
/// is nothing to do, and is done.
async fn enqueue(context: &jetstream::Context, model: &str, priority: Priority) -> QueryId {
    let job = Job {
        query: QueryId::new(clock::fresh_id()),
        owner: AccountId::new(clock::fresh_id()),
        text: "Why?".into(),
        operation: "general".into(),
        options: None,
        submitted_at: Timestamp::from_millis(0),
    };
    let subject = subject::job(model, priority);
    let (headers, payload) = jobs::message(&subject, &job, None).expect("a job");
    let stored = context
        .publish_with_headers(subject, headers, payload)
        .await;
    stored.expect("published").await.expect("stored");
    job.query
}

async fn waiting(context: &jetstream::Context) -> Info {
    let stream = context.get_stream(subject::JOBS).await.expect("the stream");
    stream.get_info().await.expect("its state")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_urgent_come_first_and_what_is_for_others_waits_for_them() {
    let world = World::with(world::Options {
        no_worker: true,
        ..Default::default()
    })
    .await;
    let nats = world.nats().await;
    let context = jetstream::new(nats.clone());
    let mut commands = nats
        .subscribe(subject::command(Kind::Query))
        .await
        .expect("heard");
    enqueue(&context, FOREIGN, Priority::Crisis).await;
    let mut expected = vec![];
    for priority in Priority::ALL.into_iter().rev() {
        let mut together = vec![];
        for model in [ANY_MODEL, "random-model"] {
            together.push(enqueue(&context, model, priority).await);
        }
        expected.push((priority, together));
    }
    expected.reverse();

    let mut worker = world.worker();
    worker.model_dirs = vec![Model::Quick.dir().expect("a model")];
    worker.concurrency = NonZeroUsize::MIN;
    world.run_worker(worker, &world.lifecycle);
    let taken = async {
        let mut taken = vec![];
        while taken.len() < 8 {
            let command = commands.next().await.expect("a command");
            let request: Request = serde_json::from_slice(&command.payload).expect("ours");
            if let Body::StartQuery { query, .. } = request.body {
                taken.push(query);
            }
        }
        taken
    };
    let taken = tokio::time::timeout(PATIENCE, taken)
        .await
        .expect("all are taken");
    for ((priority, mut together), mut found) in expected
        .into_iter()
        .zip(taken.chunks(2).map(<[QueryId]>::to_vec))
    {
        together.sort();
        found.sort();
        assert_eq!(found, together, "{priority:?}");
    }
    let left = wait_for("one job left", PATIENCE, || async {
        let info = waiting(&context).await;
        match info.state.messages {
            1 => Ok(info.state),
            more => Err(more),
        }
    });
    let left = left.await.expect("the others are done");
    let job = context.get_stream(subject::JOBS).await.expect("the stream");
    let job = job.direct_get(left.first_sequence).await.expect("the job");
    assert_eq!(
        job.subject.as_str(),
        subject::job(FOREIGN, Priority::Crisis)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_two_models_answers_with_the_one_that_is_named() {
    let world = World::with(world::Options {
        no_worker: true,
        ..Default::default()
    })
    .await;
    let mia = Client::registered(world.http).await;
    let asking = Asking::of(&world, &mia).await;
    let cache = tempfile::tempdir().expect("a directory");
    let demo = inference_worker::demo::unpack(cache.path()).expect("the demo model");
    let mut worker = world.worker();
    worker.model_dirs = vec![demo, Model::Quick.dir().expect("a model")];
    world.run_worker(worker, &world.lifecycle);
    let asked = |model: Option<&str>| Options {
        model: model.map(ToOwned::to_owned),
        max_tokens: Some(8),
        ..Options::default()
    };
    let first = asking
        .ask("Who are you?", asked(None))
        .await
        .answer()
        .model_used
        .clone();
    assert_ne!(
        first, "random-model",
        "the first one answers what names none"
    );
    for model in ["random-model", &first] {
        let query = QueryId::new(clock::fresh_id());
        // command-svc hears of the worker a moment later than its first job.
        let submitted = wait_for("a known model", PATIENCE, || async {
            let submitted = asking.try_submit(query, "Who are you?", asked(Some(model)));
            submitted.await.map_err(|failure| failure.message)
        });
        submitted.await.expect("it is known");
        let told = asking.told(query).await;
        assert_eq!(told.answer().model_used, model);
    }
}
