//! The sources of the kernels, and what they are compiled with. Header-free CUDA C, so that the
//! compiler needs nothing but these texts.

use crate::error::Error;
use crate::model::Config;

/// A file of kernels that are compiled together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    pub(super) name: &'static str,
    text: &'static str,
    /// Functions that the host calls.
    pub(super) kernels: &'static [&'static str],
}

/// Stands in front of each.
pub(super) const DEVICE: &str = include_str!("kernels/device.cu");

pub(super) const ELEMENTWISE: Source = Source {
    name: "elementwise.cu",
    text: include_str!("kernels/elementwise.cu"),
    kernels: &["embed", "rms_norm", "gate", "add_bias", "add_bias_stream"],
};

pub(super) const ROTATE: Source = Source {
    name: "rotate.cu",
    text: include_str!("kernels/rotate.cu"),
    kernels: &["rotate"],
};

pub(super) const ATTENTION: Source = Source {
    name: "attention.cu",
    text: include_str!("kernels/attention.cu"),
    kernels: &["attend_prompt", "attend_decode", "combine"],
};

pub(super) const LINEAR: Source = Source {
    name: "linear.cu",
    text: include_str!("kernels/linear.cu"),
    kernels: &[
        "linear_set_8_16",
        "linear_set_8_32",
        "linear_set_16_16",
        "linear_set_16_32",
        "linear_add_8_16",
        "linear_add_8_32",
        "linear_add_16_16",
        "linear_add_16_32",
        "linear_gated_8_16",
        "linear_gated_8_32",
        "linear_gated_16_16",
        "linear_gated_16_32",
        "linear_scores_8_16",
        "linear_scores_8_32",
        "linear_scores_16_16",
        "linear_scores_16_32",
    ],
};

pub(super) const SCORES: Source = Source {
    name: "scores.cu",
    text: include_str!("kernels/scores.cu"),
    kernels: &["summarise", "summarise_parts"],
};

pub(super) const SOURCES: [Source; 5] = [ELEMENTWISE, ROTATE, ATTENTION, LINEAR, SCORES];

/// Positions that a block of `attend_decode` sees: SPLIT in attention.cu.
pub(super) const SPLIT: usize = 128;
/// Queries, of all heads of a group, of a block of `attend_prompt`: four warps of 16 rows.
pub(super) const TILE_ROWS: usize = 64;
/// Scores that a block of `summarise` sorts, and the highest that it keeps: SORTED and KEPT in
/// scores.cu.
pub(super) const SORTED: usize = 2048;
pub(super) const KEPT: usize = 64;
/// Numbers of a summary: SUMMARY in scores.cu.
pub(super) const SUMMARY: usize = 4;
/// Inputs that the kernels of linear.cu take at most.
pub(super) const FEW: usize = 16;
/// Threads of a block of the kernels.
pub(super) const ROW_THREADS: u32 = 256;
pub(super) const WARPS_THREADS: u32 = 128;
pub(super) const LINEAR_THREADS: u32 = 256;
pub(super) const SORTERS: u32 = 512;
/// Heads of a block of `rotate`.
pub(super) const HEADS_TOGETHER: usize = 4;

impl Source {
    /// All that the compiler gets.
    pub(super) fn whole(&self) -> String {
        DEVICE.to_owned() + &self.alone()
    }

    /// Without what stands in front of it.
    pub(super) fn alone(&self) -> String {
        format!("\n#line 1 \"{}\"\n{}", self.name, self.text)
    }
}

/// What the kernels are specialised for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) head_dim: usize,
    pub(super) q_heads: usize,
    pub(super) kv_heads: usize,
    pub(super) qk_norm: bool,
}

impl Shape {
    /// # Errors
    /// [`Error::Backend`] for models that the kernels do not fit.
    pub(super) fn of(config: &Config) -> Result<Self, Error> {
        let shape = Self {
            head_dim: config.head_dim,
            q_heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            qk_norm: config.qk_norm,
        };
        let refuse = |what: &str, is: usize, expected: &str| {
            let reason = format!("the cuda backend expects {what} {expected}, not {is}");
            Err(Error::Backend(reason))
        };
        if ![64, 128].contains(&shape.head_dim) {
            return refuse("heads of width", shape.head_dim, "64 or 128");
        }
        if shape.group() > 16 {
            return refuse("a group of query heads", shape.group(), "of at most 16");
        }
        for (what, size) in [
            ("a hidden size", config.hidden_size),
            ("an intermediate size", config.intermediate_size),
        ] {
            if size % 32 != 0 {
                return refuse(what, size, "that 32 divides");
            }
        }
        Ok(shape)
    }

    /// Query heads that share keys and values.
    pub(super) fn group(&self) -> usize {
        self.q_heads / self.kv_heads
    }

    pub(super) fn q(&self) -> usize {
        self.q_heads * self.head_dim
    }

    pub(super) fn kv(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Options of the compiler.
    pub(super) fn defines(&self) -> [String; 4] {
        [
            format!("-DHEAD_DIM={}", self.head_dim),
            format!("-DQ_HEADS={}", self.q_heads),
            format!("-DKV_HEADS={}", self.kv_heads),
            format!("-DQK_NORM={}", u8::from(self.qk_norm)),
        ]
    }
}
