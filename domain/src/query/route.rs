//! Which model a query was given to, and why.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A routing decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Route {
    /// The model's id, or `any` for whichever is there.
    pub model: String,
    /// The rule that chose it, by its name.
    pub rule: String,
    /// In words that its owner may read.
    pub reason: String,
    /// How much work the question was taken for.
    pub complexity: Complexity,
}

/// How much work a question is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Complexity {
    /// Short, one thing asked.
    Simple,
    /// In between.
    Moderate,
    /// Long, with files, or worded as several tasks.
    Complex,
}

impl Complexity {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Moderate => "moderate",
            Self::Complex => "complex",
        }
    }
}
