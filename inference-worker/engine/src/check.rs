//! Whether and how a model directory will run, without running it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::chat_template::{ChatTemplate, Message};
use crate::error::Error;
use crate::model::{Inspection, RopeScaling};
use crate::tokenizer::Tokenizer;

/// Positions that are reserved together.
const BLOCK: u64 = 16;

/// What was found in a directory that will run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// `_name_or_path` of config.json, else the directory's name.
    pub id: String,
    /// As config.json names it.
    pub architecture: String,
    /// Numbers in all tensors, a tied embedding counted once.
    pub parameters: u64,
    /// How many of them are of which type.
    pub types: BTreeMap<String, u64>,
    /// Decoder layers.
    pub layers: usize,
    /// Distinct token ids.
    pub vocabulary: usize,
    /// Positions that a prompt and its answer may fill together.
    pub context: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How they are stretched.
    pub rope_scaling: String,
    /// Whether the output projection is the embedding.
    pub tied: bool,
    /// Bytes of the loaded weights.
    pub weights_bytes: u64,
    /// Bytes of keys and values for each position.
    pub kv_bytes_per_token: u64,
    /// The file that the chat template is from; null where messages are only named by role.
    pub chat_template: Option<&'static str>,
    /// Whether the template takes a system message.
    pub system_message: bool,
    /// Whether any id ends an answer; without one each answer goes on to its length.
    pub ends: bool,
    /// Whether every weight was read and is a finite number.
    pub weights_read: bool,
}

impl Report {
    /// How many queries of so many positions fit beside the weights into so many bytes.
    pub fn queries(&self, memory: u64, positions: u64) -> u64 {
        let each = positions.max(1).div_ceil(BLOCK).saturating_mul(BLOCK);
        let each = each.saturating_mul(self.kv_bytes_per_token);
        memory.saturating_sub(self.weights_bytes) / each.max(1)
    }
}

/// Checks a directory: configuration, tensors, tokenizer, chat template. With `read_weights` reads
/// each weight once too, a block at a time; without, memory and time do not depend on the model's
/// size.
///
/// # Errors
/// Every fault for which [`Engine::load`](crate::Engine::load) would refuse the directory; without
/// `read_weights`, all but numbers that are not finite.
pub fn check(dir: &Path, read_weights: bool) -> Result<Report, Error> {
    let model = Inspection::open(dir)?;
    let config = model.config();
    let tokenizer = Tokenizer::load(dir, config.vocab_size)?;
    let template = ChatTemplate::load(dir, &tokenizer)?;
    if read_weights {
        model.expect_finite()?;
    }
    let message = |role: &str| Message {
        role: role.into(),
        content: "Hello".into(),
    };
    Ok(Report {
        id: config.id.clone(),
        architecture: config.architecture.to_string(),
        parameters: model.parameters(),
        types: model.types(),
        layers: config.num_hidden_layers,
        vocabulary: config.vocab_size,
        context: config.max_position_embeddings,
        rope_theta: config.rope_theta,
        rope_scaling: scaling(config.rope_scaling),
        tied: config.tie_word_embeddings,
        weights_bytes: model.weights_bytes(),
        kv_bytes_per_token: model.kv_bytes_per_token(),
        chat_template: template.origin(),
        system_message: template
            .render(&[message("system"), message("user")])
            .is_ok(),
        ends: tokenizer.ends(),
        weights_read: read_weights,
    })
}

/// Bytes of memory that this machine has, or that its control group leaves of them, where that is
/// told.
pub fn machine_memory() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo")?
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok())?
        .checked_mul(1 << 10)?;
    // The file says `max` where there is no limit.
    let limit = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse().ok());
    Some(limit.map_or(machine, |limit: u64| limit.min(machine)))
}

fn scaling(scaling: RopeScaling) -> String {
    match scaling {
        RopeScaling::None => "none".into(),
        RopeScaling::Linear { factor } => format!("linear, factor {factor}"),
        RopeScaling::Llama3 { factor, .. } => format!("llama3, factor {factor}"),
        RopeScaling::Yarn { factor, .. } => format!("yarn, factor {factor}"),
    }
}
