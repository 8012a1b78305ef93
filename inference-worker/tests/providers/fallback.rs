//! Several services in order, and those that keep failing.

use super::{
    ask,
    frames::{HEAD, send, status, whole, word},
    provider, question,
    server::Server,
    service,
};
use engine::{
    Error, Finish,
    provider::{ChatRequest, Item, Wishes},
};
use inference_worker::providers::{Dialect, Service};
use std::time::{Duration, Instant};

async fn failing(headers: &'static str) -> Server {
    Server::start(move |_, _| status("503 Service Unavailable", headers, "")).await
}

async fn well() -> Server {
    Server::start(|_, _| whole(Dialect::Anthropic, &["well"])).await
}

fn in_order(first: &Server, second: &Server) -> Vec<Service> {
    let first = service(first, Dialect::OpenAi);
    let second = Service {
        model: "the-other-model".to_owned(),
        ..service(second, Dialect::Anthropic)
    };
    vec![first, second]
}

#[tokio::test]
async fn the_next_one_answers_for_one_that_fails() {
    let (first, second) = (failing("").await, well().await);
    let provider = provider(in_order(&first, &second));
    assert_eq!(provider.card().model, "the-model");
    let heard = ask(&*provider, "?").await;
    assert_eq!(heard.text, "well");
    assert_eq!(
        heard.end.model, "the-other-model",
        "whoever answered is named"
    );
    assert_eq!((first.asked().len(), second.asked().len()), (3, 1));
}

#[tokio::test]
async fn nobody_waits_for_one_while_another_may_be_asked() {
    let (first, second) = (failing("retry-after: 10\r\n").await, well().await);
    let provider = provider(in_order(&first, &second));
    let begun = Instant::now();
    assert_eq!(ask(&*provider, "?").await.text, "well");
    assert!(begun.elapsed() < Duration::from_secs(5), "{begun:?}");
    assert_eq!((first.asked().len(), second.asked().len()), (1, 1));
}

#[tokio::test]
async fn one_that_keeps_failing_is_not_asked() {
    let (first, second) = (failing("").await, well().await);
    let both = provider(in_order(&first, &second));
    for _ in 0..4 {
        assert_eq!(ask(&*both, "?").await.text, "well");
    }
    assert_eq!((first.asked().len(), second.asked().len()), (5, 4));

    let alone = provider(vec![service(&first, Dialect::OpenAi)]);
    for _ in 0..4 {
        assert_eq!(
            ask(&*alone, "?").await.end.finish,
            match first.asked().len() {
                10 => Finish::Error("openai: not asked, since it kept failing".to_owned()),
                _ => Finish::Error("openai: status 503".to_owned()),
            }
        );
    }
    assert_eq!(
        first.asked().len(),
        10,
        "its health is known to each provider apart"
    );
}

#[tokio::test]
async fn nobody_else_goes_on_with_what_was_begun() {
    let cut = || send(&format!("{HEAD}{}", word(Dialect::OpenAi, "begun")));
    let (first, second) = (Server::start(move |_, _| cut()).await, well().await);
    let heard = ask(&*provider(in_order(&first, &second)), "?").await;
    assert_eq!(heard.text, "begun");
    assert_eq!(heard.reason(), "openai: the stream was cut before its end");
    assert!(second.asked().is_empty());
}

#[tokio::test]
async fn whoever_cannot_keep_a_wish_is_passed_over() {
    let (first, second) = (well().await, failing("").await);
    let services = vec![
        service(&first, Dialect::Anthropic),
        service(&second, Dialect::OpenAi),
    ];
    let seeded = || ChatRequest {
        wishes: Wishes {
            seed: Some(7),
            ..Wishes::default()
        },
        ..question("?")
    };
    let alone = provider(services[..1].to_vec());
    match alone.answer(seeded()) {
        Err(Error::Request { field, .. }) => assert_eq!(field, "seed"),
        other => panic!("{other:?}"),
    }
    let mut answer = provider(services)
        .answer(seeded())
        .expect("one of them can");
    let Some(Item::End(end)) = answer.next().await else {
        panic!("the one that can fails");
    };
    assert!(
        matches!(&end.finish, Finish::Error(reason) if reason == "openai: status 503"),
        "{end:?}"
    );
    assert!(first.asked().is_empty());
}
