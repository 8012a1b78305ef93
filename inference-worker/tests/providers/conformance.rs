//! Each dialect keeps the promises that all providers make, towards a server that speaks it well.

use super::{ask, frames, provider, server::Act, server::Server, service};
use engine::{Finish, Usage, conformance::Kit};
use inference_worker::providers::Dialect;
use std::time::Duration;

/// Repeats the question word by word; one question for ever.
async fn echo(dialect: Dialect) -> Server {
    Server::start(move |_, asked| {
        let question = frames::question(dialect, asked);
        let words: Vec<String> = question.split(' ').map(|word| format!("{word} ")).collect();
        let is_endless = question == "on and on";
        let times = if is_endless { 1_000 } else { 1 };
        let (begin, end) = frames::around(dialect, words.len() * times);
        let mut acts = frames::send(&format!("{}{begin}", frames::HEAD));
        for word in words.iter().cycle().take(words.len() * times) {
            acts.push(Act::Send(frames::word(dialect, word).into_bytes()));
            if is_endless {
                acts.push(Act::Pause(Duration::from_millis(10)));
            }
        }
        acts.push(Act::Send(end.into_bytes()));
        acts
    })
    .await
}

async fn conforms(dialect: Dialect, logprobs: bool) {
    let server = echo(dialect).await;
    let mut service = service(&server, dialect);
    service.logprobs = logprobs;
    let provider = provider(vec![service]);
    let kit = Kit {
        questions: &["one two three", "größer ☀ four", "six"],
        endless: "on and on",
        max_new_tokens: 10_000,
    };
    kit.check(&*provider).await;
    let heard = ask(&*provider, "one two three").await;
    assert_eq!(heard.text, "one two three ");
    let counted = Usage {
        prompt_tokens: 9,
        completion_tokens: 3,
    };
    assert_eq!(heard.end.finish, Finish::Stop);
    assert_eq!(heard.end.usage, Some(counted), "as the provider says");
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_conforms() {
    conforms(Dialect::OpenAi, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_with_log_probabilities_conforms() {
    conforms(Dialect::OpenAi, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropic_conforms() {
    conforms(Dialect::Anthropic, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gemini_conforms() {
    conforms(Dialect::Gemini, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_stops_listening_frees_the_service_too() {
    let server = echo(Dialect::OpenAi).await;
    let provider = provider(vec![service(&server, Dialect::OpenAi)]);
    let mut dropped = provider
        .answer(super::question("on and on"))
        .expect("taken");
    dropped.next().await.expect("a word");
    drop(dropped);
    server.left(1).await;

    let request = super::question("on and on");
    let cancel = request.cancel.clone();
    let mut cancelled = provider.answer(request).expect("taken");
    cancelled.next().await.expect("a word");
    cancel.cancel();
    while cancelled.next().await.is_some() {}
    server.left(2).await;
}
