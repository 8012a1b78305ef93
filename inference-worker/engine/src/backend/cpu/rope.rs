//! Rotary position embedding (Su et al., 2021, <https://arxiv.org/abs/2104.09864>) in the layout
//! of Hugging Face checkpoints: component `i` of a head turns together with `i + head_dim / 2`.

use std::f64::consts::TAU;

use crate::model::{Config, RopeScaling};

/// Angles per position, one for each pair of components.
#[derive(Debug)]
pub(super) struct Rope {
    frequencies: Vec<f64>,
}

impl Rope {
    pub(super) fn new(config: &Config) -> Self {
        let pairs = config.head_dim / 2;
        let frequencies = (0..pairs)
            .map(|pair| config.rope_theta.powf(-(pair as f64) / pairs as f64))
            .map(|frequency| scale(frequency, config.rope_scaling))
            .collect();
        Self { frequencies }
    }

    /// Pairs of components in a head.
    pub(super) fn pairs(&self) -> usize {
        self.frequencies.len()
    }

    /// Cosine and sine of every pair at a position.
    pub(super) fn turns(&self, position: usize, cosines: &mut [f32], sines: &mut [f32]) {
        for ((frequency, cosine), sine) in self.frequencies.iter().zip(cosines).zip(sines) {
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            (*cosine, *sine) = (cos as f32, sin as f32);
        }
    }
}

/// As `transformers.modeling_rope_utils` does.
fn scale(frequency: f64, scaling: RopeScaling) -> f64 {
    match scaling {
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_short_waves_divides_long_ones_and_blends_between() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        };
        let of_wavelength = |positions: f64| scale(TAU / positions, scaling) * positions / TAU;
        let expected = [
            (100.0, 1.0),
            (10_000.0, 1.0 / 8.0),
            (8192.0 / 2.5, (1.0 + 1.0 / 8.0) / 2.0),
        ];
        for (positions, factor) in expected {
            let found: f64 = of_wavelength(positions);
            assert!((found - factor).abs() < 1e-12, "{positions}: {found}");
        }
    }
}
