//! Workers say what they can take, and leave without leaving anybody alone.

use amaima::stack::wait_for;
use async_nats::{Client as Nats, jetstream};
use domain::{
    id::QueryId,
    query::{Event, Options, Query},
    subject,
    wire::worker::Registration,
};
use infra::{lifecycle::Lifecycle, workers::Workers};
use std::time::Duration;
use tests::{
    asking::Asking,
    client::Client,
    world::{self, Model, PATIENCE, World},
};
use tokio::task::JoinHandle;

/// A world without a worker.
async fn empty() -> World {
    World::with(world::Options {
        no_worker: true,
        ..Default::default()
    })
    .await
}

/// A worker with a slow model whose answers have so many tokens, and its own life.
fn start(world: &World, name: &str, drain: Duration, tokens: usize) -> (Lifecycle, JoinHandle<()>) {
    let mut worker = world.worker();
    worker.model_dirs = vec![Model::Slow.dir().expect("a model")];
    worker.name = name.into();
    worker.drain = drain;
    worker.max_new_tokens = tokens;
    let life = world.lifecycle.child();
    let running = world.run_worker(worker, &life);
    (life, running)
}

/// What is known of the only worker, once it is as wanted.
async fn known(
    workers: &Workers,
    what: &str,
    is_right: impl Fn(&Registration) -> bool,
) -> Registration {
    let found = wait_for(what, PATIENCE, || async {
        let present = workers.present();
        match &present[..] {
            [only] if is_right(only) => Ok(only.clone()),
            other => Err(format!("{other:?}")),
        }
    });
    found.await.unwrap_or_else(|error| panic!("{error}"))
}

async fn begun(asking: &Asking, query: QueryId) {
    let begun = wait_for("the third chunk", PATIENCE, || async {
        let messages = asking.messages(query).await?;
        if messages.len() > 3 {
            Ok(())
        } else {
            Err(messages.len().to_string())
        }
    });
    begun.await.unwrap_or_else(|error| panic!("{error}"));
}

async fn listed(nats: &Nats) -> Vec<String> {
    let bucket = jetstream::new(nats.clone())
        .get_key_value(subject::WORKERS)
        .await;
    let keys = bucket.expect("the bucket").keys().await.expect("its keys");
    futures_util::TryStreamExt::try_collect(keys)
        .await
        .expect("all of them")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_on_the_list_with_what_it_can_take_until_it_leaves() {
    let world = empty().await;
    let nats = world.nats().await;
    let workers = Workers::watch(&nats, &world.lifecycle);
    let (life, running) = start(&world, "first worker", PATIENCE, 1_000);
    let idle = known(&workers, "a worker", |_| true).await;
    let model = &idle.models[0];
    assert_eq!((&*idle.worker, idle.draining), ("first worker", false));
    assert_eq!((&*model.id, &*model.provider), ("random-model", "engine"));
    assert_eq!(model.context, Some(2_048));
    assert_eq!((model.places, model.free_places), (8, 8));
    assert!(model.abilities.logprobs && model.abilities.format && model.abilities.resume);
    assert!(!model.abilities.demo);
    let all = model.free_tokens.expect("known");
    assert!(all >= 2_048, "{all}");

    let mia = Client::registered(world.http).await;
    let asking = Asking::of(&world, &mia).await;
    let greedy = Options {
        temperature: Some(0.0),
        ..Options::default()
    };
    let query = asking.submit("Go on and on", greedy).await;
    begun(&asking, query).await;
    let busy = known(&workers, "a place taken", |worker| {
        worker.models[0].free_places == 7
    })
    .await;
    assert!(busy.models[0].free_tokens < Some(all));

    // It says at once that it takes nothing more, finishes what it has, and goes.
    life.begin_stop();
    known(&workers, "that it leaves", |worker| worker.draining).await;
    assert_eq!(
        asking.told(query).await.answer().usage.completion_tokens,
        1_000
    );
    running.await.expect("it ends");
    assert_eq!(listed(&nats).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_goes_on_at_another_worker() {
    let world = empty().await;
    let mia = Client::registered(world.http).await;
    let asking = Asking::of(&world, &mia).await;
    let (life, first) = start(&world, "first", Duration::ZERO, 160);
    let wished = Options {
        // By chance it might end before.
        temperature: Some(0.0),
        logprobs: Some(1),
        ..Options::default()
    };
    let mut queries = vec![];
    for n in 0..3 {
        queries.push(
            asking
                .submit(&format!("Go on and on {n}"), wished.clone())
                .await,
        );
    }
    for query in &queries {
        begun(&asking, *query).await;
    }
    let (_second_life, _second) = start(&world, "second", PATIENCE, 160);
    life.begin_stop();
    first.await.expect("it ends");
    let mut before = vec![];
    for query in &queries {
        before.push(asking.messages(*query).await.expect("messages"));
    }
    for (query, before) in queries.into_iter().zip(before) {
        assert!(
            !before.last().expect("some").is_terminal(),
            "the model is too fast"
        );
        let told = asking.told(query).await;
        let answer = told.answer();
        assert_eq!(answer.usage.completion_tokens, 160);
        let ids: usize = told.chunks.iter().map(|chunk| chunk.ids.len()).sum();
        let tokens: usize = told.chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        assert_eq!(
            (ids, tokens),
            (160, 160),
            "no token twice, none left out, by whomever"
        );
        let names: Vec<&str> = told
            .chunks
            .iter()
            .filter_map(|chunk| chunk.model.as_deref())
            .collect();
        assert_eq!(names, ["random-model"; 2]);
        let commits = world.commits::<Query>(query.uuid()).await;
        let workers: Vec<String> = commits
            .into_iter()
            .flat_map(|(_, events)| events)
            .filter_map(|event| match event {
                Event::Started { worker, .. } => Some(worker),
                _ => None,
            })
            .collect();
        assert_eq!(workers, ["first", "second"]);
    }
}
