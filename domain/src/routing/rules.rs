//! The operator's rules.

use super::asked::Asked;
use crate::{account::Tier, query::Complexity, subject::ANY_MODEL};
use serde::Deserialize;
use std::collections::BTreeSet;

/// Rules at most.
const RULES: usize = 64;
/// Models of one rule at most.
const MODELS: usize = 64;
/// Bytes of a name at most.
const NAME_BYTES: usize = 64;

/// One rule: which queries it is about, and which models they are given to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What reasons call it.
    pub name: String,
    /// Only these operations; empty for all.
    #[serde(default)]
    pub operations: Vec<Operation>,
    /// Only questions taken for so much work; empty for all.
    #[serde(default)]
    pub complexity: Vec<Complexity>,
    /// Only people with these subscriptions; empty for all.
    #[serde(default)]
    pub tiers: Vec<Tier>,
    /// Only from so many tokens of prompt and answer on, at 4 bytes of text to a token.
    #[serde(default)]
    pub min_tokens: u64,
    /// Only up to so many.
    pub max_tokens: Option<u64>,
    /// Ids of models, or their beginnings with a `*`; `*` alone is any. Demo models and simulations
    /// must be named in full where there are others.
    pub models: Vec<String>,
    /// Which of them.
    #[serde(default)]
    pub choose: Choose,
    /// Whether a query that it is about is given to its models or to none: later rules are not
    /// looked at.
    #[serde(default)]
    pub only: bool,
}

/// What a rule tells operations apart by: another one is routed like `general`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Any but the others.
    General,
    /// `analysis`.
    Analysis,
}

impl Operation {
    pub(super) fn of(operation: &str) -> Self {
        match operation {
            "analysis" => Self::Analysis,
            _ => Self::General,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::General => "general",
            Self::Analysis => "analysis",
        }
    }
}

/// Which of a rule's models is taken, of those that can do it and have a free place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choose {
    /// The first in the rule's order.
    #[default]
    First,
    /// The one with most free places.
    Freest,
    /// The one with the longest context.
    Longest,
}

impl Choose {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first of its list",
            Self::Freest => "most free places",
            Self::Longest => "longest context",
        }
    }
}

/// What is wrong with rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Problem {
    /// The place of the rule at fault, counted from 0.
    pub rule: usize,
    /// The field at fault.
    pub field: &'static str,
    /// What it breaks.
    pub reason: String,
}

/// Rules in the order in which they are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// Checks them.
    ///
    /// # Errors
    /// With the first thing that is wrong.
    pub fn new(rules: Vec<Rule>) -> Result<Self, Problem> {
        let mut names = BTreeSet::new();
        for (place, rule) in rules.iter().enumerate() {
            let wrong = |field, reason: String| {
                Err(Problem {
                    rule: place,
                    field,
                    reason,
                })
            };
            let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if place >= RULES {
                return wrong("rule", format!("there are at most {RULES}"));
            }
            if rule.name.is_empty()
                || rule.name.len() > NAME_BYTES
                || !rule.name.chars().all(allowed)
            {
                let reason = format!("1 to {NAME_BYTES} ASCII letters, digits, `-` and `_`");
                return wrong("name", reason);
            }
            if !names.insert(&rule.name) {
                return wrong("name", format!("`{}` is taken", rule.name));
            }
            if rule.models.is_empty() || rule.models.len() > MODELS {
                return wrong("models", format!("1 to {MODELS} of them"));
            }
            if let Some(bad) = rule.models.iter().find(|model| !is_pattern(model)) {
                let reason = format!("`{bad}` is neither an id nor the beginning of one and a `*`");
                return wrong("models", reason);
            }
            if rule.max_tokens.is_some_and(|most| most < rule.min_tokens) {
                return wrong("max_tokens", "it is below min_tokens".into());
            }
        }
        if rules.is_empty() {
            return Err(Problem {
                rule: 0,
                field: "rule",
                reason: "there is none, and no query would have a model".into(),
            });
        }
        Ok(Self(rules))
    }

    /// Whether somebody's subscription makes a difference.
    pub fn ask_for_tier(&self) -> bool {
        self.0.iter().any(|rule| !rule.tiers.is_empty())
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Rule> {
        self.0.iter()
    }
}

/// `any` is where jobs wait that no rule has given to a model.
fn is_pattern(pattern: &str) -> bool {
    let stem = pattern.strip_suffix('*').unwrap_or(pattern);
    !pattern.is_empty() && pattern != ANY_MODEL && !stem.contains('*')
}

impl Rule {
    /// Why it is not about this query; `None` if it is.
    pub(super) fn mismatch(&self, asked: &Asked<'_>) -> Option<String> {
        if !self.operations.is_empty() && !self.operations.contains(&asked.operation) {
            return Some(format!("operation {}", asked.operation.as_str()));
        }
        if !self.complexity.is_empty() && !self.complexity.contains(&asked.complexity) {
            return Some(format!("complexity {}", asked.complexity.as_str()));
        }
        if !self.tiers.is_empty() && !asked.tier.is_some_and(|tier| self.tiers.contains(&tier)) {
            let tier = asked.tier.map_or("unknown", Tier::as_str);
            return Some(format!("tier {tier}"));
        }
        let most = self.max_tokens.unwrap_or(u64::MAX);
        if !(self.min_tokens..=most).contains(&asked.tokens) {
            return Some(format!("about {} tokens", asked.tokens));
        }
        None
    }

    /// The place in its list that names a model, if one does.
    pub(super) fn place(&self, model: &str) -> Option<usize> {
        self.models
            .iter()
            .position(|pattern| match pattern.strip_suffix('*') {
                Some(stem) => model.starts_with(stem),
                None => model == pattern,
            })
    }

    /// Whether it names a model in full.
    pub(super) fn names(&self, model: &str) -> bool {
        self.models.iter().any(|pattern| pattern == model)
    }
}
