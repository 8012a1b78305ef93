//! Shapes that are checked and measured, and models of them with random weights.

use std::error::Error;

use engine::model::{Model, Shape};

/// Those of Llama 3.2 1B, Qwen3 4B and Qwen3 8B.
pub const LARGE: [Shape; 3] = [
    shape("1b", LLAMA, [2048, 8192, 16, 32, 8, 64, 128_256], true),
    shape("4b", QWEN3, [2560, 9728, 36, 32, 8, 128, 151_936], true),
    shape("8b", QWEN3, [4096, 12_288, 36, 32, 8, 128, 151_936], false),
];

/// Each family and width of heads, small enough for the CPU.
pub const SMALL: [Shape; 3] = [
    shape("llama", LLAMA, [512, 1024, 4, 8, 2, 64, 4_000], true),
    shape("qwen2", QWEN2, [896, 1216, 3, 14, 2, 64, 4_000], true),
    shape("qwen3", QWEN3, [512, 1056, 4, 8, 4, 128, 4_000], false),
];

const LLAMA: &str = "LlamaForCausalLM";
const QWEN2: &str = "Qwen2ForCausalLM";
const QWEN3: &str = "Qwen3ForCausalLM";

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

/// Makes a model in a directory that is gone when this returns; its weights are in memory.
pub fn load(shape: &Shape) -> Result<Model, Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    shape.write(directory.path(), 1)?;
    Ok(Model::load(directory.path())?)
}
