//! A poisoned model directory is refused with the file, the tensor or field, and the value.

use std::collections::HashMap;
use std::path::Path;

use engine::model::Model;
use engine::{Engine, Options};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};

/// A copy of a golden model that a test may spoil.
fn copy(name: &str) -> tempfile::TempDir {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let dir = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(golden).expect("a golden model") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("a copy");
    }
    dir
}

/// What a refusal says, with its causes.
fn refusal(dir: &Path) -> String {
    let error = Model::load(dir).expect_err("a refusal");
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn assert_refused(dir: &Path, expected: &[&str]) {
    let text = refusal(dir);
    assert!(
        expected.iter().all(|part| text.contains(part)),
        "{expected:?} in {text}"
    );
}

/// Rewrites one tensor; `None` removes it.
fn change(
    dir: &Path,
    name: &str,
    tensor: impl Fn(&TensorView<'_>) -> Option<(Dtype, Vec<usize>, Vec<u8>)>,
) {
    let path = dir.join("model.safetensors");
    let bytes = std::fs::read(&path).expect("weights");
    let file = SafeTensors::deserialize(&bytes).expect("weights");
    let mut all: HashMap<String, (Dtype, Vec<usize>, Vec<u8>)> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            (
                name,
                (view.dtype(), view.shape().to_vec(), view.data().to_vec()),
            )
        })
        .collect();
    let old = all.remove(name).expect("the tensor");
    let view = TensorView::new(old.0, old.1.clone(), &old.2).expect("a view");
    all.extend(tensor(&view).map(|new| (name.to_owned(), new)));
    let views = all.iter().map(|(name, (dtype, shape, data))| {
        (
            name,
            TensorView::new(*dtype, shape.clone(), data).expect("a view"),
        )
    });
    let bytes = safetensors::serialize(views, None).expect("weights");
    std::fs::write(path, bytes).expect("weights");
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut json = serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON");
    edit(&mut json);
    std::fs::write(path, json.to_string()).expect("a file");
}

#[test]
fn missing_and_broken_files_are_named() {
    for file in ["config.json", "model.safetensors"] {
        let dir = copy("llama");
        std::fs::remove_file(dir.path().join(file)).expect("removal");
        assert_refused(dir.path(), &["cannot read", file]);
    }
    let dir = copy("llama");
    std::fs::write(dir.path().join("config.json"), "{\"hidden_size\": \"big\"").expect("a file");
    assert_refused(dir.path(), &["config.json", "JSON"]);

    let path = dir.path().join("absent");
    let error = Engine::load(&path, Options::default()).expect_err("a refusal");
    assert!(error.to_string().contains("absent"), "{error}");
}

#[test]
fn truncated_weights_are_refused_wherever_they_end() {
    let dir = copy("llama");
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).expect("weights");
    for length in [0, 4, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).expect("weights");
        assert_refused(
            dir.path(),
            &["model.safetensors", "not a valid safetensors file"],
        );
    }
}

#[test]
fn a_header_that_claims_too_much_is_refused() {
    let dir = copy("llama");
    let path = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).expect("weights");
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(&path, bytes).expect("weights");
    assert_refused(dir.path(), &["not a valid safetensors file"]);
}

#[test]
fn missing_surplus_and_misshapen_tensors_are_named() {
    let name = "model.layers.1.mlp.down_proj.weight";
    let dir = copy("llama");
    change(dir.path(), name, |_| None);
    assert_refused(dir.path(), &[name, "is missing"]);

    let dir = copy("llama");
    change(dir.path(), name, |view| {
        let turned = view.shape().iter().rev().copied().collect();
        Some((view.dtype(), turned, view.data().to_vec()))
    });
    assert_refused(dir.path(), &["model.safetensors", name, "has shape"]);

    // The norms of Qwen3's heads would be left over, and the result silently wrong.
    let dir = copy("qwen3");
    edit_json(&dir.path().join("config.json"), |config| {
        config["architectures"] = json!(["LlamaForCausalLM"]);
    });
    assert_refused(
        dir.path(),
        &[
            "self_attn.k_norm.weight",
            "LlamaForCausalLM has no use for it",
        ],
    );
}

#[test]
fn weights_that_are_not_finite_numbers_are_named_with_their_place() {
    let name = "model.norm.weight";
    for value in [f32::NAN, f32::INFINITY] {
        let dir = copy("llama");
        change(dir.path(), name, |view| {
            let mut data = view.data().to_vec();
            data[8..12].copy_from_slice(&value.to_le_bytes());
            Some((view.dtype(), view.shape().to_vec(), data))
        });
        assert_refused(dir.path(), &[name, &format!("holds {value} at element 2")]);
    }
}

#[test]
fn unsupported_types_and_fields_are_named_with_their_value() {
    let dir = copy("llama");
    change(dir.path(), "model.norm.weight", |view| {
        let data = view.data().iter().flat_map(|byte| [*byte; 2]).collect();
        Some((Dtype::F64, view.shape().to_vec(), data))
    });
    assert_refused(dir.path(), &["model.norm.weight", "has type F64"]);

    for (field, value) in [("hidden_act", json!("gelu")), ("hidden_size", json!(0))] {
        let dir = copy("llama");
        edit_json(&dir.path().join("config.json"), |config| {
            config[field] = value.clone()
        });
        let shown = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        assert_refused(dir.path(), &["config.json", field, &shown]);
    }
}

#[test]
fn binary16_weights_load_and_mix_with_others() {
    let dir = copy("llama");
    change(
        dir.path(),
        "model.layers.0.self_attn.q_proj.weight",
        |view| {
            let one = 0x3c00u16.to_le_bytes();
            Some((
                Dtype::F16,
                view.shape().to_vec(),
                one.repeat(view.data().len() / 4),
            ))
        },
    );
    Model::load(dir.path()).expect("a model");
}

#[test]
fn an_index_that_lies_is_refused() {
    let index = "model.safetensors.index.json";
    let dir = copy("qwen3-sharded");
    edit_json(&dir.path().join(index), |json| {
        json["weight_map"]["model.norm.weight"] = json!("../elsewhere.safetensors");
    });
    assert_refused(dir.path(), &[index, "../elsewhere.safetensors"]);

    let dir = copy("qwen3-sharded");
    edit_json(&dir.path().join(index), |json| {
        json["weight_map"]["model.extra.weight"] = json!("model-00001-of-00002.safetensors");
    });
    assert_refused(dir.path(), &["model.extra.weight", "the file lacks it"]);

    let dir = copy("qwen3-sharded");
    std::fs::remove_file(dir.path().join("model-00002-of-00002.safetensors")).expect("removal");
    assert_refused(
        dir.path(),
        &["cannot read", "model-00002-of-00002.safetensors"],
    );
}
