//! The whole engine on a golden model with a tokenizer of single bytes.

use std::path::Path;

use engine::{Engine, Error, Finish, Generation, Item, Message, Options, Request, Sampling, Usage};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// A model directory: golden weights and a token for each printable ASCII character.
fn directory() -> tempfile::TempDir {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/qwen3");
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, json: Value| {
        std::fs::write(dir.path().join(name), json.to_string()).expect("a file");
    };
    let weights = "model.safetensors";
    std::fs::copy(golden.join(weights), dir.path().join(weights)).expect("weights");
    let config = std::fs::read(golden.join("config.json")).expect("a config");
    let mut config: Value = serde_json::from_slice(&config).expect("a config");
    config["amaima_demo"] = json!(true);
    config["_name_or_path"] = json!("tiny");
    config["eos_token_id"] = json!([1]);
    write("config.json", config);
    // "Ġ" is the space and "Ċ" the line feed in the alphabet of bytes.
    let characters = ('!'..='~').chain(['Ġ', 'Ċ']);
    let mut vocab: serde_json::Map<String, Value> = (1..)
        .zip(characters)
        .map(|(id, c)| (c.to_string(), json!(id)))
        .collect();
    vocab.insert("<|end|>".into(), json!(0));
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false,
        "trim_offsets": true, "use_regex": false});
    write(
        "tokenizer.json",
        json!({"version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "added_tokens": [{"id": 0, "content": "<|end|>", "special": true, "lstrip": false,
                "single_word": false, "rstrip": false, "normalized": false}],
            "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
            "model": {"type": "BPE", "vocab": vocab, "merges": []}}),
    );
    write(
        "tokenizer_config.json",
        json!({"eos_token": "<|end|>", "chat_template":
            "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}"}),
    );
    dir
}

fn engine(options: Options) -> Engine {
    Engine::load(directory().path(), options).expect("an engine")
}

fn request(prompt: Vec<u32>, seed: u64) -> Request {
    Request {
        prompt,
        generated: Vec::new(),
        sampling: Sampling {
            temperature: 1.2,
            top_p: 0.95,
            top_k: 60,
            seed,
        },
        max_new_tokens: 40,
        stop: vec!["no such text".into()],
        deadline: None,
        cancel: CancellationToken::new(),
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Answer {
    tokens: Vec<(u32, String, f32)>,
    finish: Finish,
    rest: String,
    usage: Usage,
}

async fn collect(mut generation: Generation) -> Answer {
    let mut tokens = Vec::new();
    loop {
        match generation.next().await.expect("an end") {
            Item::Token { id, text, logprob } => tokens.push((id, text, logprob)),
            Item::End {
                finish,
                text,
                usage,
                ..
            } => {
                assert_eq!(generation.next().await, None);
                return Answer {
                    tokens,
                    finish,
                    rest: text,
                    usage,
                };
            }
        }
    }
}

#[test]
fn the_card_says_what_was_loaded() {
    let engine = engine(Options::default());
    let card = engine.model();
    assert_eq!(
        (card.id.as_str(), card.architecture.as_str()),
        ("tiny", "Qwen3ForCausalLM")
    );
    assert!(card.demo && card.parameters > 10_000 && card.vocabulary == 97);
    assert_eq!(card.context_length, 256);
}

#[test]
fn a_conversation_becomes_ids_without_smuggled_special_tokens() {
    let engine = engine(Options::default());
    let message = |content: &str| Message {
        role: "user".into(),
        content: content.into(),
    };
    let ids = engine.chat_prompt(&[message("Hi<|end|>!")]).expect("ids");
    assert_eq!(ids, engine.encode("user: Hi!<|end|>\n").expect("ids"));
    assert_eq!(ids.iter().filter(|id| **id == 0).count(), 1);
    assert_eq!(engine.decode(&ids), "user: Hi!\n");
}

#[tokio::test]
async fn a_resumed_generation_equals_the_uninterrupted_one_at_every_cut() {
    let engine = engine(Options::default());
    let prompt = engine.encode("Once upon a time").expect("ids");
    let whole = collect(engine.submit(request(prompt.clone(), 5)).expect("a place")).await;
    assert!(whole.tokens.len() > 5, "{whole:?}");
    for cut in 0..=whole.tokens.len() {
        let (before, after) = whole.tokens.split_at(cut);
        let generated = before.iter().map(|token| token.0).collect();
        let resumed = Request {
            generated,
            ..request(prompt.clone(), 5)
        };
        let resumed = collect(engine.submit(resumed).expect("a place")).await;
        assert_eq!(
            resumed,
            Answer {
                tokens: after.to_vec(),
                ..whole.clone()
            }
        );
    }
}

#[tokio::test]
async fn generations_side_by_side_equal_the_same_alone() {
    let options = Options {
        prefill_chunk: std::num::NonZeroUsize::new(3).expect("above zero"),
        ..Options::default()
    };
    let (together, alone) = (engine(options), engine(Options::default()));
    let prompts = ["a", "A longer prompt than that", "xyz", "2 + 2 ="];
    let requests = || {
        (0..)
            .zip(prompts)
            .map(|(seed, text)| request(alone.encode(text).expect("ids"), seed))
    };
    let running: Vec<Generation> = requests()
        .map(|request| together.submit(request).expect("a place"))
        .collect();
    for (generation, request) in running.into_iter().zip(requests()) {
        let single = collect(alone.submit(request).expect("a place")).await;
        assert_eq!(collect(generation).await, single);
    }
}

#[tokio::test]
async fn an_end_of_sequence_id_stops_without_a_token() {
    let engine = engine(Options::default());
    let prompt = engine.encode("!").expect("ids");
    // Among many seeds some draw the end early.
    let mut stopped = 0;
    for seed in 0..60 {
        let hot = Sampling {
            temperature: 100.0,
            top_p: 1.0,
            top_k: 0,
            seed,
        };
        let request = Request {
            sampling: hot,
            ..request(prompt.clone(), 0)
        };
        let answer = collect(engine.submit(request).expect("a place")).await;
        stopped += usize::from(answer.finish == Finish::Stop);
        assert!(answer.tokens.iter().all(|token| token.0 != 1));
        assert_eq!(answer.usage.completion_tokens, answer.tokens.len());
    }
    assert!(stopped > 0);
}

#[tokio::test]
async fn dropping_the_last_handle_cancels() {
    // Nobody reads before the handle is gone, so that the answer cannot be finished by then.
    let engine = engine(Options {
        stream_capacity: std::num::NonZeroUsize::MIN,
        ..Options::default()
    });
    let generation = engine.submit(request(vec![5; 200], 0)).expect("a place");
    drop(engine);
    assert_eq!(collect(generation).await.finish, Finish::Cancelled);
}

#[test]
fn what_does_not_fit_is_refused() {
    let options = Options {
        max_context: std::num::NonZeroUsize::new(41),
        ..Options::default()
    };
    let engine = engine(options);
    let refused = engine.submit(request(vec![5, 6], 0));
    let expected = Error::TooLong {
        prompt: 2,
        max_new: 40,
        context: 41,
    };
    assert_eq!(
        refused.expect_err("a refusal").to_string(),
        expected.to_string()
    );
}
