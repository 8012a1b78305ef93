//! A Llama of random weights, for answers that the demo model does not give: long ones, which can be
//! interrupted, and such with what few models say. It takes the demo model's tokenizer, and exactly
//! the path of a real model.

use anyhow::Context;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Sizes of a model.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Number of layers.
    pub layers: usize,
    /// Width inside the MLP.
    pub intermediate: usize,
}

/// A shape that answers with tens of tokens per second on two cores.
pub const SLOW: Shape = Shape {
    hidden: 768,
    layers: 12,
    intermediate: 2048,
};

/// A shape that gives several queries at once long answers in seconds.
pub const STEADY: Shape = Shape {
    hidden: 512,
    layers: 6,
    intermediate: 1024,
};

/// A shape that answers at once.
pub const QUICK: Shape = Shape {
    hidden: 64,
    layers: 1,
    intermediate: 64,
};

const HEADS: usize = 8;

/// What its tokens stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// What they stand for in the demo model.
    Plain,
    /// The same, and all longer ones end with the character U+0000.
    WithNul,
}

/// Makes the model's directory under `into`.
///
/// # Errors
/// When it cannot be written.
pub fn make(into: &Path, shape: Shape, words: Words) -> anyhow::Result<PathBuf> {
    let demo = inference_worker::demo::unpack(into)?;
    let dir = into.join("random-model");
    fs::create_dir_all(&dir)?;
    fs::copy(demo.join("tokenizer.json"), dir.join("tokenizer.json"))?;
    without_end(
        &demo.join("tokenizer_config.json"),
        &dir.join("tokenizer_config.json"),
    )?;
    if words == Words::WithNul {
        add_nul(&dir.join("tokenizer.json"))?;
    }
    let config: Value = serde_json::from_slice(&fs::read(demo.join("config.json"))?)?;
    let vocabulary = usize::try_from(config["vocab_size"].as_u64().unwrap_or_default())?;
    let Shape {
        hidden,
        layers,
        intermediate,
    } = shape;
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "_name_or_path": "random-model",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS / 2,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "vocab_size": vocabulary,
        "tie_word_embeddings": true,
        "eos_token_id": null,
        "bos_token_id": null,
        "torch_dtype": "float32",
    });
    fs::write(dir.join("config.json"), serde_json::to_vec_pretty(&config)?)?;
    let mut random = Random(7);
    let kv = hidden / 2;
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = vec![
        (
            "model.embed_tokens.weight".into(),
            vec![vocabulary, hidden],
            random.bytes(vocabulary * hidden, 0.05),
        ),
        ("model.norm.weight".into(), vec![hidden], ones(hidden)),
    ];
    for layer in 0..layers {
        let mut matrix = |name: &str, rows: usize, columns: usize| {
            let scale = 1.0 / (columns as f32).sqrt();
            tensors.push((
                format!("model.layers.{layer}.{name}.weight"),
                vec![rows, columns],
                random.bytes(rows * columns, scale),
            ));
        };
        matrix("self_attn.q_proj", hidden, hidden);
        matrix("self_attn.k_proj", kv, hidden);
        matrix("self_attn.v_proj", kv, hidden);
        matrix("self_attn.o_proj", hidden, hidden);
        matrix("mlp.gate_proj", intermediate, hidden);
        matrix("mlp.up_proj", intermediate, hidden);
        matrix("mlp.down_proj", hidden, intermediate);
        for name in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push((
                format!("model.layers.{layer}.{name}.weight"),
                vec![hidden],
                ones(hidden),
            ));
        }
    }
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| {
            Ok((
                name.as_str(),
                TensorView::new(Dtype::F32, shape.clone(), bytes)?,
            ))
        })
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    serialize_to_file(views, None, &dir.join("model.safetensors"))?;
    Ok(dir)
}

/// Copies the settings of a tokenizer without a token that ends answers: each is as long as the
/// worker allows.
fn without_end(from: &Path, to: &Path) -> anyhow::Result<()> {
    let mut settings: Value = serde_json::from_slice(&fs::read(from)?)?;
    settings["eos_token"] = Value::Null;
    Ok(fs::write(to, serde_json::to_vec_pretty(&settings)?)?)
}

/// Changes the vocabulary of a byte-level BPE. Its merges would name tokens that are gone, so that
/// the prompt is read letter by letter.
fn add_nul(tokenizer: &Path) -> anyhow::Result<()> {
    // How such a tokenizer writes the byte 0.
    const NUL: char = '\u{100}';
    let mut json: Value = serde_json::from_slice(&fs::read(tokenizer)?)?;
    let added: Vec<Value> = json["added_tokens"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|token| token["content"].clone())
        .collect();
    let vocabulary = json["model"]["vocab"].as_object().context("a vocabulary")?;
    let vocabulary: serde_json::Map<String, Value> = vocabulary
        .iter()
        .map(|(token, id)| {
            let keeps = token.chars().count() == 1 || added.iter().any(|each| each == token);
            let token = if keeps {
                token.clone()
            } else {
                format!("{token}{NUL}")
            };
            (token, id.clone())
        })
        .collect();
    json["model"]["vocab"] = vocabulary.into();
    json["model"]["merges"] = Value::Array(vec![]);
    fs::write(tokenizer, serde_json::to_vec(&json)?)?;
    Ok(())
}

fn ones(count: usize) -> Vec<u8> {
    std::iter::repeat_n(1.0f32.to_le_bytes(), count)
        .flatten()
        .collect()
}

/// SplitMix64: the same weights on every machine.
struct Random(u64);

impl Random {
    fn bytes(&mut self, count: usize, scale: f32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count * 4);
        for _ in 0..count {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            // Uniform with the variance of a normal distribution of this scale.
            let uniform = (z >> 40) as f32 / (1u32 << 24) as f32 * 2.0 - 1.0;
            bytes.extend_from_slice(&(uniform * scale * 1.732).to_le_bytes());
        }
        bytes
    }
}
