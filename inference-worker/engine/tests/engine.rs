//! The whole engine on a golden model with a tokenizer of single bytes.

use std::path::Path;

use engine::{
    Engine, Error, Finish, Generation, Item, Message, Options, Request, Sampling, TopLogprob, Usage,
};
use serde_json::{Value, json};

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

fn nonzero(value: usize) -> std::num::NonZeroUsize {
    std::num::NonZeroUsize::new(value).expect("above zero")
}

fn request(prompt: Vec<u32>, seed: u64) -> Request {
    Request {
        sampling: Sampling {
            temperature: 1.2,
            top_p: 0.95,
            top_k: 60,
            seed,
            ..Sampling::GREEDY
        },
        stop: vec!["no such text".into()],
        ..Request::new(prompt, 40)
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Answer {
    tokens: Vec<(u32, String, f32, Vec<TopLogprob>)>,
    finish: Finish,
    rest: String,
    usage: Usage,
}

async fn collect(mut generation: Generation) -> Answer {
    let mut tokens = Vec::new();
    loop {
        match generation.next().await.expect("an end") {
            Item::Token {
                id,
                text,
                logprob,
                top_logprobs,
            } => tokens.push((id, text, logprob, top_logprobs)),
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
    let plain = request(prompt.clone(), 5);
    let penalised = Request {
        sampling: Sampling {
            min_p: 0.01,
            repetition_penalty: 1.3,
            presence_penalty: 0.4,
            frequency_penalty: 0.7,
            ..plain.sampling
        },
        logit_bias: vec![(40, 2.0), (50, -100.0)],
        top_logprobs: 3,
        ..plain.clone()
    };
    let mut answers = Vec::new();
    for request in [plain, penalised] {
        let whole = collect(engine.submit(request.clone()).expect("a place")).await;
        assert!(whole.tokens.len() > 5, "{whole:?}");
        for cut in 0..=whole.tokens.len() {
            let (before, after) = whole.tokens.split_at(cut);
            let resumed = Request {
                generated: before.iter().map(|token| token.0).collect(),
                ..request.clone()
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
        answers.push(whole);
    }
    assert_ne!(answers[0], answers[1], "penalties change the answer");
    assert!(answers[0].tokens.iter().all(|token| token.3.is_empty()));
    assert!(answers[1].tokens.iter().all(|token| token.3.len() == 3));
}

#[tokio::test]
async fn generations_side_by_side_equal_the_same_alone() {
    // One id of each, or chunks of one prompt.
    let options = Options {
        max_active: nonzero(4),
        step_tokens: nonzero(4),
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
async fn a_known_beginning_changes_no_answer() {
    let (warm, cold) = (engine(Options::default()), engine(Options::default()));
    let beginning = "The same long beginning of several questions, ";
    for (seed, end) in (0..).zip(["one", "two", "one", "", "two"]) {
        let prompt = warm.encode(&format!("{beginning}{end}")).expect("ids");
        let again = collect(warm.submit(request(prompt.clone(), seed)).expect("a place")).await;
        let fresh = Request {
            cache_salt: u128::from(seed) + 1,
            ..request(prompt, seed)
        };
        assert_eq!(again, collect(cold.submit(fresh).expect("a place")).await);
    }
}

/// 64 at once in memory for four of the longest, a fifth of them cancelled midway.
#[tokio::test]
async fn a_crowd_in_little_memory_ends_and_leaves_no_block_behind() {
    let roomy = engine(Options::default());
    let bytes_of_a_position = {
        let config = engine::model::Config::load(directory().path()).expect("a config");
        engine::backend::cpu::block_bytes(&config) / engine::kv::BLOCK
    };
    let crowded = engine(Options {
        kv_bytes: nonzero(4 * 256 * bytes_of_a_position),
        max_active: nonzero(16),
        step_tokens: nonzero(32),
        ..Options::default()
    });
    assert_eq!(crowded.model().context_length, 256);
    let asked = |number: usize| Request {
        owner: number as u128 % 5,
        cache_salt: number as u128 % 5,
        max_new_tokens: 1 + number * 7 % 60,
        ..request(
            vec![5 + number as u32 % 3; 1 + number * 37 % 190],
            number as u64,
        )
    };
    let mut running = Vec::new();
    for number in 0..64 {
        let request = asked(number);
        let cancel = request.cancel.clone();
        running.push((number, cancel, crowded.submit(request).expect("a place")));
    }
    for (number, cancel, mut generation) in running {
        if number % 5 == 3 {
            let first = generation.next().await;
            assert!(first.is_some());
            cancel.cancel();
            drop(generation);
            continue;
        }
        let alone = collect(roomy.submit(asked(number)).expect("a place")).await;
        assert_eq!(collect(generation).await, alone, "{number}");
    }
    // Four that fill all the memory run side by side, each paused by its full stream: were a block
    // lost, the last one would never begin.
    let mut full: Vec<Generation> = (0..4)
        .map(|seed| Request {
            cache_salt: 100 + u128::from(seed),
            sampling: Sampling::GREEDY,
            max_new_tokens: 66,
            ..request(vec![6; 190], seed)
        })
        .map(|request| crowded.submit(request).expect("a place"))
        .collect();
    for generation in &mut full {
        let first = tokio::time::timeout(std::time::Duration::from_secs(60), generation.next());
        let first = first.await.expect("room for all four");
        assert!(matches!(first, Some(Item::Token { .. })), "{first:?}");
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
            seed,
            ..Sampling::GREEDY
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
        stream_capacity: nonzero(1),
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

#[test]
fn memory_for_less_than_the_context_shortens_it_and_for_no_block_is_refused() {
    let limited = |bytes| Options {
        kv_bytes: nonzero(bytes),
        ..Options::default()
    };
    let config = engine::model::Config::load(directory().path()).expect("a config");
    let block = engine::backend::cpu::block_bytes(&config);
    let engine = engine(limited(3 * block + 1));
    assert_eq!(engine.model().context_length, 48);
    let refused = engine
        .submit(request(vec![5; 9], 0))
        .expect_err("a refusal");
    assert_eq!(
        refused.to_string(),
        "9 prompt tokens and 40 new ones do not fit into 48 positions"
    );
    let refused = Engine::load(directory().path(), limited(block - 1)).expect_err("a refusal");
    assert!(
        matches!(
            refused,
            Error::Request {
                field: "kv_bytes",
                ..
            }
        ),
        "{refused}"
    );
}
