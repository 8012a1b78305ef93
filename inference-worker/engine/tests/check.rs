//! What `check` says of good directories, and that no poisoned one gets past it or harms it.

use std::path::Path;

use engine::check::{Report, check};
use engine::{Engine, Error, Options};
use proptest::prelude::*;
use serde_json::{Value, json};

const FILES: [&str; 4] = [
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// A golden model with a tokenizer of single characters.
fn directory(golden: &str) -> tempfile::TempDir {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(golden);
    let dir = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(golden).expect("a golden model") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("a copy");
    }
    let vocab: serde_json::Map<String, Value> = (1..)
        .zip('!'..='~')
        .map(|(id, c)| (c.to_string(), json!(id)))
        .collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false,
        "trim_offsets": true, "use_regex": false});
    let tokenizer = json!({"version": "1.0", "truncation": null, "padding": null,
        "normalizer": null, "added_tokens": [], "pre_tokenizer": byte_level,
        "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []}});
    write(dir.path(), "tokenizer.json", tokenizer.to_string());
    let template = json!({"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"});
    write(dir.path(), "tokenizer_config.json", template.to_string());
    dir
}

fn write(dir: &Path, name: &str, content: impl AsRef<[u8]>) {
    std::fs::write(dir.join(name), content).expect("a file");
}

fn edit(dir: &Path, name: &str, change: impl FnOnce(&mut Value)) {
    let text = std::fs::read(dir.join(name)).expect("a file");
    let mut json = serde_json::from_slice(&text).expect("JSON");
    change(&mut json);
    write(dir, name, json.to_string());
}

fn report(dir: &Path) -> Report {
    check(dir, true).unwrap_or_else(|error| panic!("{}", chain(&error)))
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Both `check` and loading refuse it, for the same reason.
fn assert_refused(dir: &Path, expected: &[&str]) {
    let refusal = chain(&check(dir, true).expect_err("a refusal"));
    let loading = chain(&Engine::load(dir, Options::default()).expect_err("a refusal"));
    assert_eq!(refusal, loading);
    for part in expected {
        assert!(refusal.contains(part), "{part:?} in {refusal}");
    }
}

#[test]
fn every_golden_model_is_described_as_it_loads() {
    for (golden, tied, scaling) in [
        ("llama", false, "none"),
        ("llama-tied", true, "none"),
        ("llama-bf16", false, "none"),
        ("llama3-rope", false, "llama3, factor 8"),
        ("mistral", false, "none"),
        ("qwen2", false, "none"),
        ("qwen3", false, "none"),
        ("qwen3-sharded", false, "none"),
    ] {
        let dir = directory(golden);
        let report = report(dir.path());
        let engine = Engine::load(dir.path(), Options::default()).expect("an engine");
        let card = engine.model();
        assert_eq!(report.architecture, card.architecture, "{golden}");
        assert_eq!(report.parameters, card.parameters, "{golden}");
        assert_eq!(report.context, card.context_length, "{golden}");
        assert_eq!(report.vocabulary, card.vocabulary, "{golden}");
        assert_eq!(
            (report.tied, &*report.rope_scaling),
            (tied, scaling),
            "{golden}"
        );
        assert_eq!(report.types.values().sum::<u64>(), report.parameters);
        let four = 4 * report.parameters;
        let weights = report.weights_bytes;
        match golden {
            "llama-bf16" => assert!(weights < four && weights >= four / 2, "{weights}"),
            _ => assert_eq!(weights, four, "{golden}"),
        }
        assert_eq!(report.chat_template, Some("tokenizer_config.json"));
        assert!(report.system_message && report.weights_read);
    }
}

#[test]
fn queries_fit_beside_the_weights_in_whole_blocks() {
    let report = Report {
        weights_bytes: 1_000,
        kv_bytes_per_token: 10,
        ..report(directory("llama").path())
    };
    assert_eq!(report.queries(1_000 + 10 * 32 * 3, 17), 3);
    assert_eq!(report.queries(1_000 + 10 * 32 * 3 - 1, 17), 2);
    assert_eq!(report.queries(999, 17), 0);
    assert_eq!(report.queries(u64::MAX, u64::MAX), 0);
}

#[test]
fn without_reading_weights_only_their_numbers_are_believed() {
    let dir = directory("llama");
    let path = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).expect("weights");
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, &bytes).expect("weights");
    assert!(!check(dir.path(), false).expect("a report").weights_read);
    assert_refused(dir.path(), &["model.safetensors", "holds NaN at element"]);
    std::fs::write(&path, &bytes[..end - 1]).expect("weights");
    let error = check(dir.path(), false).expect_err("a refusal");
    assert!(matches!(error, Error::Safetensors { .. }), "{error}");
}

#[test]
fn claims_beyond_all_measure_cost_nothing() {
    let dir = directory("llama");
    edit(dir.path(), "config.json", |config| {
        config["num_hidden_layers"] = json!(1 << 24);
    });
    assert_refused(dir.path(), &["model.layers.2.", "is missing"]);

    let dir = directory("llama");
    edit(dir.path(), "config.json", |config| {
        config["vocab_size"] = json!(1 << 24);
        config["hidden_size"] = json!(1 << 24);
        config["head_dim"] = json!(1 << 24);
    });
    assert_refused(dir.path(), &["model.embed_tokens.weight", "has shape"]);

    let header = json!({"model.norm.weight": {"dtype": "F32",
        "shape": [u32::MAX, u32::MAX, u32::MAX], "data_offsets": [0, u64::MAX]}});
    let header = header.to_string();
    for size in [header.len() as u64, 1 << 20, 1 << 40, u64::MAX] {
        let dir = directory("llama");
        let file = [&size.to_le_bytes()[..], header.as_bytes()].concat();
        write(dir.path(), "model.safetensors", file);
        assert_refused(dir.path(), &["is not a valid safetensors file"]);
    }

    // A hole in the file takes no place on the disk, and would take all of the memory.
    let dir = directory("llama");
    let path = dir.path().join("tokenizer.json");
    let file = std::fs::File::create(&path).expect("a file");
    file.set_len(1 << 40).expect("a hole");
    assert_refused(dir.path(), &["tokenizer.json", "1099511627776 bytes"]);
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    for name in FILES {
        let dir = directory("llama");
        std::fs::remove_file(dir.path().join(name)).expect("removal");
        std::os::unix::fs::symlink("/dev/zero", dir.path().join(name)).expect("a link");
        assert_refused(dir.path(), &[name, "it is not a regular file"]);
    }
    for name in &FILES[..3] {
        let dir = directory("llama");
        std::fs::remove_file(dir.path().join(name)).expect("removal");
        assert_refused(dir.path(), &["cannot read", name]);
    }
}

#[test]
fn unknown_rotary_scalings_are_named() {
    for kind in ["dynamic", "longrope", "su"] {
        let dir = directory("llama");
        edit(dir.path(), "config.json", |config| {
            config["rope_scaling"] = json!({"rope_type": kind, "factor": 4.0});
            config["rope_parameters"] = Value::Null;
        });
        assert_refused(dir.path(), &["rope_scaling.rope_type", kind, "llama3"]);
    }
}

#[test]
fn templates_that_refuse_fail_or_never_end_are_refused() {
    for (template, reason) in [
        ("{% if %}", "chat template"),
        ("{{ raise_exception('only tools') }}", "only tools"),
        ("{% include 'chat' %}", "recursion"),
        ("{% extends 'chat' %}", "chat template"),
        ("{% import 'chat' as chat %}{{ chat.text }}", "recursion"),
        (
            "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
            "recursion",
        ),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "fuel",
        ),
        ("{{ 'x' * 9999999 }}", "it writes 9999999 bytes, at most"),
    ] {
        let dir = directory("llama");
        write(dir.path(), "chat_template.jinja", template);
        assert_refused(dir.path(), &[reason]);
    }
    let dir = directory("llama");
    let picky = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}x";
    write(dir.path(), "chat_template.jinja", picky);
    let report = report(dir.path());
    assert_eq!(report.chat_template, Some("chat_template.jinja"));
    assert!(!report.system_message);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Bytes are overwritten, cut off or repeated anywhere in any file: there is a report or a
    /// reason, never a panic. Headers are short, so most hits are where it hurts.
    #[test]
    fn no_damage_makes_it_crash(
        file in 0usize..4, at in any::<prop::sample::Index>(),
        with in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..4),
            "[0-9\\[\\]{}\",:]{1,3}".prop_map(String::into_bytes),
            Just(b"18446744073709551615".to_vec()), Just(b"-1".to_vec()), Just(b"null".to_vec()),
        ],
        removed in 0usize..6, in_header in any::<bool>(),
    ) {
        let dir = directory("llama");
        let path = dir.path().join(FILES[file]);
        let mut bytes = std::fs::read(&path).expect("a file");
        let reach = if in_header { bytes.len().min(2_000) } else { bytes.len() };
        let start = at.index(reach);
        let end = bytes.len().min(start + removed);
        bytes.splice(start..end, with);
        std::fs::write(&path, bytes).expect("a file");
        if let Err(error) = check(dir.path(), true) {
            prop_assert!(!chain(&error).is_empty());
        }
    }
}
