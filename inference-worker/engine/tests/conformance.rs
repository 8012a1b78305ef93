//! The providers of this crate keep the promises that all providers make.

use std::path::Path;
use std::time::Duration;

use engine::conformance::Kit;
use engine::provider::{Local, Sim, SimSettings};
use engine::{Engine, Options};
use serde_json::{Value, json};

/// Golden weights and a token for each printable ASCII character; no id ends an answer, so that
/// its length does.
fn endless_model() -> tempfile::TempDir {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llama");
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, json: Value| {
        std::fs::write(dir.path().join(name), json.to_string()).expect("a file");
    };
    let weights = "model.safetensors";
    std::fs::copy(golden.join(weights), dir.path().join(weights)).expect("weights");
    let config = std::fs::read(golden.join("config.json")).expect("a config");
    let mut config: Value = serde_json::from_slice(&config).expect("a config");
    config["eos_token_id"] = Value::Null;
    write("config.json", config.clone());
    let size = config["vocab_size"].as_u64().expect("a size");
    let vocab: serde_json::Map<String, Value> = ('!'..='~')
        .chain(['Ġ', 'Ċ'])
        .chain('¡'..='¬')
        .zip(0..size)
        .map(|(c, id)| (c.to_string(), json!(id)))
        .collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false,
        "trim_offsets": true, "use_regex": false});
    let tokenizer = json!({"version": "1.0", "truncation": null, "padding": null,
        "normalizer": null, "added_tokens": [], "pre_tokenizer": byte_level,
        "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []}});
    write("tokenizer.json", tokenizer);
    dir
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_on_the_cpu_conforms() {
    let dir = endless_model();
    let options = Options {
        // An answer that nobody reads does not go on.
        stream_capacity: std::num::NonZeroUsize::new(4).expect("above zero"),
        ..Options::default()
    };
    let provider = Local::new(Engine::load(dir.path(), options).expect("an engine"));
    let kit = Kit {
        questions: &["abc", "why", "Sun"],
        endless: "on and on",
        max_new_tokens: 24,
    };
    kit.check(&provider).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simulation_conforms() {
    let provider = Sim::new(SimSettings {
        tokens: 200,
        first: Duration::from_millis(5),
        between: Duration::from_millis(5),
    });
    let kit = Kit {
        questions: &["one two three", "four five", "six"],
        endless: "on and on",
        max_new_tokens: 1_000,
    };
    kit.check(&provider).await;
}
