//! The demo model answers what it was taught, and says what it is otherwise.

use engine::{Engine, Item, Message, Options, Request};
use serde_json::Value;
use std::path::Path;

fn lines(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../inference-worker/demo")
        .join(name);
    let text = std::fs::read_to_string(path).expect("the file is in the repository");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

fn answer(engine: &Engine, question: &str) -> String {
    let message = Message {
        role: "user".into(),
        content: question.into(),
    };
    let prompt = engine.chat_prompt(&[message]).expect("a prompt");
    let request = Request::new(prompt, 400);
    let mut items = engine.submit(request).expect("room");
    let mut text = String::new();
    while let Some(item) = items.blocking_next() {
        match item {
            Item::Token { text: piece, .. } | Item::End { text: piece, .. } => {
                text.push_str(&piece)
            }
        }
    }
    text
}

#[test]
fn answers_what_it_was_taught() {
    let cache = tempfile::tempdir().expect("a directory");
    let dir = inference_worker::demo::unpack(cache.path()).expect("the model is unpacked");
    assert_eq!(
        inference_worker::demo::unpack(cache.path()).expect("again"),
        dir
    );
    let engine = Engine::load(&dir, Options::default()).expect("the model loads");
    assert!(engine.model().demo);
    let taught = lines("held-in.jsonl");
    let right = taught
        .iter()
        .filter(|pair| answer(&engine, pair["question"].as_str().unwrap()) == pair["answer"])
        .count();
    println!(
        "{right} of {} taught questions are answered right",
        taught.len()
    );
    assert!(right >= 60, "{right} of {}", taught.len());
    let foreign = lines("out-of-scope.jsonl");
    let labelled = foreign
        .iter()
        .filter(|line| answer(&engine, line["question"].as_str().unwrap()).contains("demo model"))
        .count();
    println!(
        "{labelled} of {} foreign questions get the label",
        foreign.len()
    );
    assert!(
        labelled * 10 >= foreign.len() * 9,
        "{labelled} of {}",
        foreign.len()
    );
}
