//! Twenty texts of a person, looked for in every file of every store.
//!
//! Where nothing is sealed they are found, which shows that the search finds what is there. Where
//! everything is sealed no byte of them is found at any time: before the erasure they are read
//! through the keys, and afterwards they are not, by whoever has the master keys.

use super::{PASSWORD, ask, delete, erased, id, person};
use domain::{
    id::QueryId,
    stores::{self, Kind},
    subject,
};
use infra::{
    direct_get,
    sealing::{Opened, sealed_for},
};
use reqwest::StatusCode;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};
use tests::{
    archive, bytes,
    client::Client,
    world::{Model, Options, Services, World},
};

const QUESTIONS: usize = 8;

/// What a person has said, and what was said to them.
struct Canaries {
    client: Client,
    texts: Vec<String>,
    queries: Vec<QueryId>,
}

/// Somebody registers, signs in, asks and is answered.
async fn canaries(world: &World) -> Canaries {
    let mut texts = vec![
        "Zephyrine Quandleby".to_owned(),
        "zephyrine.quandleby@canary.example".to_owned(),
        "Zephyrines Quantumphone".to_owned(),
    ];
    let client = person(world, &texts[0], &texts[1], &texts[2]).await;
    texts.push(format!("{}-id", texts[2]));
    let mut queries = Vec::new();
    for n in 0..QUESTIONS {
        let question = format!(
            "What does canary number {n} sing in xylophone key {}?",
            7 * n
        );
        let answer = ask(&client, &question).await;
        texts.push(question);
        // A piece of the answer that is the same in JSON; no two answers are.
        let said = answer["response_text"].as_str().expect("a text");
        let pieces = said.split(|c: char| c == '"' || c == '\\' || !(' '..='~').contains(&c));
        let piece = pieces.max_by_key(|piece| piece.len()).expect("a piece");
        assert!(piece.len() >= 12, "{said}");
        texts.push(piece.to_owned());
        queries.push(
            answer["query_id"]
                .as_str()
                .expect("an id")
                .parse()
                .expect("an id"),
        );
    }
    assert_eq!(texts.len(), 20);
    let distinct: BTreeSet<&String> = texts.iter().collect();
    assert_eq!(distinct.len(), texts.len(), "{texts:?}");
    Canaries {
        client,
        texts,
        queries,
    }
}

/// How many of the texts are in the files of each store, after the servers have written all that
/// they hold in memory.
async fn search(world: &World, texts: &[String]) -> BTreeMap<String, usize> {
    let pool = world.database().await;
    sqlx::query("CHECKPOINT")
        .execute(&pool)
        .await
        .expect("done");
    let database: String = sqlx::query_scalar("SHOW data_directory")
        .fetch_one(&pool)
        .await
        .expect("where its files are");
    let data = world.stack.data_dir();
    let streams = data.join("nats/jetstream/$G/streams");
    let mut places: BTreeMap<String, PathBuf> = BTreeMap::new();
    for store in stores::ALL {
        match store.kind {
            Kind::Stream => places.insert(store.name.to_owned(), streams.join(store.name)),
            Kind::Bucket => {
                let stream = format!("KV_{}", store.name);
                places.insert(store.name.to_owned(), streams.join(stream))
            }
            Kind::Table => places.insert("PostgreSQL".to_owned(), PathBuf::from(&database)),
            Kind::Objects => places.insert("objects".to_owned(), data.join("s3")),
            Kind::Log => places.insert("logs".to_owned(), world.logs().to_owned()),
        };
    }
    let count = |path: PathBuf| bytes::found(&path, texts).expect("readable").len();
    places
        .into_iter()
        .map(|(name, path)| (name, count(path)))
        .collect()
}

/// How many of the texts can be read through the keys in the log and the token streams.
async fn opened(world: &World, canaries: &Canaries) -> usize {
    let client = world.nats().await;
    let keys = world.keys(&client);
    let log = direct_get::subject(&client, subject::EVENTS, subject::ALL_EVENTS, 1).await;
    let mut said = String::new();
    for message in log.expect("the log") {
        let name = message.headers.get(async_nats::header::NATS_SUBJECT);
        let name = name.expect("a subject").as_str().to_owned();
        let opened = keys.open(&name, Some(&message.headers), &message.payload);
        match opened.await.expect("a key") {
            Opened::Text(text) => said.push_str(&String::from_utf8_lossy(&text)),
            Opened::Erased => {
                let person = sealed_for(Some(&message.headers)).expect("known");
                assert_eq!(person, Some(id(&canaries.client)));
            }
        }
    }
    let is_read = |text: &&String| said.contains(text.as_str());
    canaries.texts.iter().filter(is_read).count()
}

/// Messages that are left of the person's token streams.
async fn streams(world: &World, canaries: &Canaries) -> usize {
    let client = world.nats().await;
    let mut left = 0;
    for query in &canaries.queries {
        let subject = subject::tokens(*query);
        let messages = direct_get::subject(&client, subject::TOKENS, &subject, 1).await;
        left += messages.expect("readable").len();
    }
    left
}

fn world(unsealed: bool) -> Options {
    Options {
        services: Services::AsProcesses,
        model: Model::Quick,
        unsealed,
        ..Options::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_texts_of_a_person_are_found_nowhere() {
    let plain = World::with(world(true)).await;
    let there = canaries(&plain).await;
    copied(&plain).await;
    let unsealed = search(&plain, &there.texts).await;
    drop(plain);

    let world = World::with(world(false)).await;
    let them = canaries(&world).await;
    let other = Client::registered(world.http).await;
    ask(&other, "Who stays?").await;
    copied(&world).await;
    let sealed = search(&world, &them.texts).await;
    assert_eq!(opened(&world, &them).await, them.texts.len());
    assert!(streams(&world, &them).await > QUESTIONS);

    assert_eq!(
        delete(&them.client, "wrong").await.0,
        StatusCode::UNAUTHORIZED
    );
    let (status, answer) = delete(&them.client, PASSWORD).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    // At once, whatever is still to be done.
    let (status, answer) = them.client.get("/v1/queries").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{answer}");
    assert_eq!(answer["error"]["code"], "AUTH_USER_NOT_FOUND");
    erased(&world, &them.client).await;
    copied(&world).await;
    let after = search(&world, &them.texts).await;

    println!(
        "{:<18} {:>9} {:>7} {:>6}",
        "texts of 20 in", "unsealed", "sealed", "after"
    );
    for (store, count) in &unsealed {
        println!(
            "{store:<18} {count:>9} {:>7} {:>6}",
            sealed[store], after[store]
        );
    }
    for store in ["EVENTS", "TOKENS", "PostgreSQL"] {
        assert!(unsealed[store] > 0, "the search finds nothing in {store}");
    }
    assert_eq!(sealed.values().sum::<usize>(), 0, "{sealed:?}");
    assert_eq!(after.values().sum::<usize>(), 0, "{after:?}");
    assert_eq!(opened(&world, &them).await, 0);
    assert_eq!(streams(&world, &them).await, 0);
    // Others are as they were, and the address is free again.
    let (status, found) = other.get("/v1/queries").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    let again = person(&world, "Somebody Else", &them.texts[1], "phone").await;
    assert_ne!(again.user, them.client.user);
}

/// Waits until the copy has what the log has.
async fn copied(world: &World) {
    let client = world.nats().await;
    let context = async_nats::jetstream::new(client.clone());
    let log = context.get_stream(subject::EVENTS).await.expect("the log");
    let head = log.cached_info().state.last_sequence;
    let copy = archive::in_bucket(&world.stack, &client).await;
    archive::copied_to(&copy, head).await;
}
