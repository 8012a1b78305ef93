//! Model directories of random weights, for measuring: what a step costs depends on the shape and
//! the type of the weights, hardly on what they say. They are never zeros, which some processors
//! multiply faster and which would hide that a result is wrong.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::config::Config;
use super::layout::{Wanted, layout};
use crate::detokenizer::character_of;
use crate::error::Error;

/// A shape by name. The weights are bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// How people call it.
    pub name: &'static str,
    /// As config.json names it.
    pub architecture: &'static str,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the gated MLP.
    pub intermediate: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Distinct token ids.
    pub vocabulary: usize,
    /// Whether the output projection is the embedding.
    pub tied: bool,
}

/// Positions of all shapes.
const CONTEXT: usize = 4_096;

/// From one that answers at once to one of a small real model.
pub const SHAPES: [Shape; 4] = [
    Shape {
        name: "tiny",
        architecture: "LlamaForCausalLM",
        hidden: 64,
        intermediate: 128,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        vocabulary: 512,
        tied: true,
    },
    Shape {
        name: "0.1b",
        architecture: "LlamaForCausalLM",
        hidden: 768,
        intermediate: 2_048,
        layers: 12,
        heads: 12,
        kv_heads: 4,
        head_dim: 64,
        vocabulary: 32_000,
        tied: true,
    },
    Shape {
        name: "0.5b",
        architecture: "Qwen2ForCausalLM",
        hidden: 896,
        intermediate: 4_864,
        layers: 24,
        heads: 14,
        kv_heads: 2,
        head_dim: 64,
        vocabulary: 151_936,
        tied: true,
    },
    Shape {
        name: "1b",
        architecture: "LlamaForCausalLM",
        hidden: 2_048,
        intermediate: 8_192,
        layers: 16,
        heads: 32,
        kv_heads: 8,
        head_dim: 64,
        vocabulary: 128_256,
        tied: true,
    },
];

impl Shape {
    /// The shape of this name.
    pub fn named(name: &str) -> Option<Self> {
        SHAPES.into_iter().find(|shape| shape.name == name)
    }

    /// Writes a model directory: the same weights for the same `seed`. No id ends an answer.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write(&self, dir: &Path, seed: u64) -> Result<(), Error> {
        let put = |name: &str, json: &Value| {
            let path = dir.join(name);
            std::fs::write(&path, json.to_string()).map_err(|source| Error::Write { path, source })
        };
        put("config.json", &self.config())?;
        put("tokenizer.json", &self.tokenizer())?;
        let wanted: Vec<Wanted> = layout(&Config::load(dir)?).collect();
        let path = dir.join("model.safetensors");
        File::create(&path)
            .and_then(|file| write_tensors(&mut BufWriter::new(file), &wanted, seed))
            .map_err(|source| Error::Write { path, source })
    }

    fn config(&self) -> Value {
        json!({
            "_name_or_path": format!("random-{}", self.name),
            "architectures": [self.architecture],
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": CONTEXT,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": self.tied,
        })
    }

    /// A token for each byte, and numbers for all other ids.
    fn tokenizer(&self) -> Value {
        let bytes = (0..=u8::MAX).map(|byte| character_of(byte).to_string());
        let others = (256..self.vocabulary).map(|id| id.to_string());
        let vocabulary: Map<String, Value> =
            bytes.chain(others).zip((0..).map(|id| json!(id))).collect();
        let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false,
            "trim_offsets": true, "use_regex": false});
        json!({"version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "added_tokens": [], "pre_tokenizer": byte_level, "post_processor": null,
            "decoder": byte_level,
            "model": {"type": "BPE", "vocab": vocabulary, "merges": []}})
    }
}

/// Numbers that are drawn; larger models go through them again. It is a prime, so that no matrix
/// has equal rows.
const DRAWN: usize = 4_194_301;

/// Numbers that are written at a time.
const PIECE: usize = 1 << 16;

/// Numbers within ±1 that are not zero, without an end.
struct Drawn {
    numbers: Vec<f32>,
    at: usize,
}

impl Drawn {
    fn new(seed: u64, count: usize) -> Self {
        let mut random = Random(seed);
        Self {
            numbers: (0..count.min(DRAWN)).map(|_| random.next()).collect(),
            at: 0,
        }
    }

    /// The next ones, at most so many.
    fn next(&mut self, most: usize) -> &[f32] {
        let end = self.numbers.len().min(self.at + most.min(PIECE));
        let piece = &self.numbers[self.at..end];
        self.at = end % self.numbers.len();
        piece
    }
}

/// The file of these tensors in bf16, as the safetensors format asks for it.
fn write_tensors(file: &mut impl Write, wanted: &[Wanted], seed: u64) -> io::Result<()> {
    let mut header = Map::new();
    let mut end = 0;
    for tensor in wanted {
        let start = end;
        end += 2 * tensor.shape.iter().product::<usize>();
        let place = json!({"dtype": "BF16", "shape": tensor.shape, "data_offsets": [start, end]});
        header.insert(tensor.name.clone(), place);
    }
    let mut header = Value::from(header).to_string();
    // The numbers begin at a multiple of eight.
    header.extend(std::iter::repeat_n(' ', (8 - header.len() % 8) % 8));
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut drawn = Drawn::new(seed, end / 2);
    let mut halves = vec![[0; 2]; PIECE];
    for tensor in wanted {
        let (middle, reach) = match tensor.shape[..] {
            // Products of numbers around one keep their size.
            [_, columns] => (0.0, (3.0 / columns as f32).sqrt()),
            _ if tensor.name.ends_with("norm.weight") => (1.0, 0.1),
            _ => (0.0, 0.1),
        };
        let mut left = tensor.shape.iter().product::<usize>();
        while left > 0 {
            let piece = drawn.next(left);
            for (half, number) in halves.iter_mut().zip(piece) {
                let number: f32 = middle + reach * number;
                *half = ((number.to_bits() >> 16) as u16).to_le_bytes();
            }
            file.write_all(halves[..piece.len()].as_flattened())?;
            left -= piece.len();
        }
    }
    file.flush()
}

/// SplitMix64 (Steele, Lea and Flood, 2014, <https://doi.org/10.1145/2660193.2660195>).
struct Random(u64);

impl Random {
    /// A number within ±1 that is not zero.
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed >> 48) as f32 + 0.5) / 32_768.0 - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::check;
    use crate::model::Model;

    #[test]
    fn a_shape_is_written_as_a_model_that_runs_and_holds_no_zero() {
        let dir = tempfile::tempdir().expect("a directory");
        let tiny = Shape::named("tiny").expect("a shape");
        tiny.write(dir.path(), 7).expect("a model");
        let report = check(dir.path(), true).expect("a good directory");
        assert_eq!((report.vocabulary, report.context), (512, CONTEXT));
        assert!(!report.ends && report.tied);
        let model = Model::load(dir.path()).expect("a model");
        let weights = model.weights();
        let mut row = vec![0.0; weights.embedding.columns];
        for at in 0..weights.embedding.rows {
            weights.embedding.copy_row(at, &mut row);
            assert!(row.iter().all(|number| *number != 0.0), "row {at}");
            let mean_square = row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32;
            let expected = 1.0 / tiny.hidden as f32;
            assert!((mean_square / expected - 1.0).abs() < 0.6, "{mean_square}");
        }
        assert!(
            weights
                .norm
                .iter()
                .all(|number| (0.89..1.11).contains(number))
        );
    }

    #[test]
    fn the_seed_decides() {
        let written = |seed| {
            let dir = tempfile::tempdir().expect("a directory");
            let tiny = Shape::named("tiny").expect("a shape");
            tiny.write(dir.path(), seed).expect("a model");
            std::fs::read(dir.path().join("model.safetensors")).expect("weights")
        };
        assert_eq!(written(1), written(1));
        assert_ne!(written(1), written(2));
        assert_eq!(Shape::named("gigantic"), None);
    }
}
