//! Rotary position embedding (Su et al., 2021, <https://arxiv.org/abs/2104.09864>) in the layout
//! of Hugging Face checkpoints: component `i` of a head turns together with `i + head_dim / 2`.

use std::f64::consts::TAU;

use crate::model::{Config, RopeScaling};

/// Angles per position, one for each pair of components.
#[derive(Debug)]
pub(in crate::backend) struct Rope {
    frequencies: Vec<f64>,
    /// What turned components are multiplied with.
    magnitude: f64,
}

impl Rope {
    pub(in crate::backend) fn new(config: &Config) -> Self {
        let pairs = config.head_dim / 2;
        let frequencies = (0..pairs)
            .map(|pair| {
                let frequency = config.rope_theta.powf(-(pair as f64) / pairs as f64);
                scale(frequency, pair, config)
            })
            .collect();
        let magnitude = match config.rope_scaling {
            RopeScaling::Yarn {
                attention_factor, ..
            } => attention_factor,
            RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Llama3 { .. } => 1.0,
        };
        Self {
            frequencies,
            magnitude,
        }
    }

    /// Pairs of components in a head.
    pub(in crate::backend) fn pairs(&self) -> usize {
        self.frequencies.len()
    }

    /// Cosine and sine of every pair at a position.
    pub(in crate::backend) fn turns(
        &self,
        position: usize,
        cosines: &mut [f32],
        sines: &mut [f32],
    ) {
        for ((frequency, cosine), sine) in self.frequencies.iter().zip(cosines).zip(sines) {
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            *cosine = (cos * self.magnitude) as f32;
            *sine = (sin * self.magnitude) as f32;
        }
    }
}

/// As `transformers.modeling_rope_utils` does.
fn scale(frequency: f64, pair: usize, config: &Config) -> f64 {
    match config.rope_scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            // Turns that a pair makes over the original context.
            let turns = original_max_position_embeddings * frequency / TAU;
            let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
            let kept = kept.clamp(0.0, 1.0);
            (1.0 - kept) * frequency / factor + kept * frequency
        }
        RopeScaling::Yarn {
            factor,
            beta_fast,
            beta_slow,
            truncate,
            original_max_position_embeddings,
            ..
        } => {
            // The pair, between whole ones too, that turns so often over the original context.
            let with_turns = |turns: f64| {
                let wave = original_max_position_embeddings / (turns * TAU);
                (config.head_dim / 2) as f64 * wave.ln() / config.rope_theta.ln()
            };
            let (first, last) = match (with_turns(beta_fast), with_turns(beta_slow)) {
                (first, last) if truncate => (first.floor(), last.ceil()),
                ends => ends,
            };
            // Components, not pairs: that is how models were trained.
            let (first, last) = (first.max(0.0), last.min((config.head_dim - 1) as f64));
            let long = if first == last { 0.001 } else { last - first };
            let divided = ((pair as f64 - first) / long).clamp(0.0, 1.0);
            divided * frequency / factor + (1.0 - divided) * frequency
        }
    }
}
