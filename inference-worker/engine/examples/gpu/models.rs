//! Directories of models with random weights.

use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use engine::model::Model;
use serde_json::{Map, Value, json};

/// Sizes of a model and its family.
pub struct Shape {
    pub name: &'static str,
    pub architecture: &'static str,
    pub hidden: usize,
    pub intermediate: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocabulary: usize,
    pub tied: bool,
}

/// Those of Llama 3.2 1B, Qwen3 4B and Qwen3 8B.
pub const LARGE: [Shape; 3] = [
    shape("1b", LLAMA, [2048, 8192, 16, 32, 8, 64, 128_256], true),
    shape("4b", QWEN3, [2560, 9728, 36, 32, 8, 128, 151_936], true),
    shape("8b", QWEN3, [4096, 12_288, 36, 32, 8, 128, 151_936], false),
];

/// Each family and width of heads, small enough for the CPU.
pub const SMALL: [Shape; 3] = [
    shape("llama", LLAMA, [512, 1024, 4, 8, 2, 64, 4_000], true),
    shape(
        "qwen2",
        "Qwen2ForCausalLM",
        [896, 1216, 3, 14, 2, 64, 4_000],
        true,
    ),
    shape("qwen3", QWEN3, [512, 1056, 4, 8, 4, 128, 4_000], false),
];

const LLAMA: &str = "LlamaForCausalLM";
const QWEN3: &str = "Qwen3ForCausalLM";

/// Numbers that are drawn; longer tensors repeat them.
const DRAWN: usize = 1 << 22;

const fn shape(
    name: &'static str,
    architecture: &'static str,
    [
        hidden,
        intermediate,
        layers,
        heads,
        kv_heads,
        head_dim,
        vocabulary,
    ]: [usize; 7],
    tied: bool,
) -> Shape {
    Shape {
        name,
        architecture,
        hidden,
        intermediate,
        layers,
        heads,
        kv_heads,
        head_dim,
        vocabulary,
        tied,
    }
}

impl Shape {
    /// Makes the model in a directory that is gone when this returns; its weights are in memory.
    pub fn load(&self) -> Result<Model, Box<dyn Error>> {
        let directory = tempfile::tempdir()?;
        self.write(directory.path())?;
        Ok(Model::load(directory.path())?)
    }

    fn write(&self, directory: &Path) -> Result<(), Box<dyn Error>> {
        let config = json!({
            "architectures": [self.architecture],
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1_000_000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tied,
        });
        std::fs::write(directory.join("config.json"), config.to_string())?;
        let tensors = self.tensors();
        let (mut header, mut end) = (Map::new(), 0);
        for (name, dimensions) in &tensors {
            let begin = end;
            end += dimensions.iter().product::<usize>() * 2;
            let tensor =
                json!({"dtype": "BF16", "shape": dimensions, "data_offsets": [begin, end]});
            header.insert(name.clone(), tensor);
        }
        let header = Value::Object(header).to_string();
        let mut file = BufWriter::new(File::create(directory.join("model.safetensors"))?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        let mut drawn = HashMap::new();
        for (_, dimensions) in &tensors {
            let mut left = dimensions.iter().product::<usize>() * 2;
            let columns = dimensions.get(1).copied().unwrap_or(0);
            let numbers = drawn.entry(columns).or_insert_with(|| draw(columns));
            while left > 0 {
                let part = left.min(numbers.len());
                file.write_all(&numbers[..part])?;
                left -= part;
            }
        }
        Ok(file.flush()?)
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, inner) = (self.hidden, self.intermediate);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let table = vec![self.vocabulary, hidden];
        let mut all = vec![
            ("model.embed_tokens.weight".to_owned(), table.clone()),
            ("model.norm.weight".to_owned(), vec![hidden]),
        ];
        if !self.tied {
            all.push(("lm_head.weight".to_owned(), table));
        }
        for layer in 0..self.layers {
            let mut add = |name: &str, dimensions: &[usize]| {
                all.push((format!("model.layers.{layer}.{name}"), dimensions.to_vec()));
            };
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                add(&format!("{norm}.weight"), &[hidden]);
            }
            for (name, rows, columns) in [
                ("self_attn.q_proj", q, hidden),
                ("self_attn.k_proj", kv, hidden),
                ("self_attn.v_proj", kv, hidden),
                ("self_attn.o_proj", hidden, q),
                ("mlp.gate_proj", inner, hidden),
                ("mlp.up_proj", inner, hidden),
                ("mlp.down_proj", hidden, inner),
            ] {
                add(&format!("{name}.weight"), &[rows, columns]);
                let biased = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
                if self.architecture == "Qwen2ForCausalLM" && biased.contains(&name) {
                    add(&format!("{name}.bias"), &[rows]);
                }
            }
            if self.architecture == QWEN3 {
                for norm in ["q_norm", "k_norm"] {
                    add(&format!("self_attn.{norm}.weight"), &[self.head_dim]);
                }
            }
        }
        all
    }
}

/// Ones for vectors; for matrices even numbers with the deviation that keeps products near 1.
fn draw(columns: usize) -> Vec<u8> {
    let most = if columns == 0 {
        0.0
    } else {
        (3.0 / columns as f32).sqrt()
    };
    let mut random = columns as u64 + 1;
    let mut one = || {
        // Knuth's MMIX generator.
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let even = (random >> 40) as f32 / (1u64 << 24) as f32;
        let number = if columns == 0 {
            1.0
        } else {
            (2.0 * even - 1.0) * most
        };
        // Cut off rather than rounded: the CPU gets the same numbers.
        ((number.to_bits() >> 16) as u16).to_le_bytes()
    };
    (0..DRAWN).flat_map(|_| one()).collect()
}
