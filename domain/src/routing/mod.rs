//! Which model a query is given to.
//!
//! A decision takes what is asked ([`Asked`]), what workers have registered ([`Models`]) and the
//! operator's [`Rules`], and gives a [`Route`] or says why there is none. The first rule that
//! matches and has a model which can do it, with a free place, decides; where all of them are full,
//! the first rule that matches has the query wait for its model. A model that was asked for by name
//! is taken or refused, and never another.
//!
//! A reason names models, rules and numbers, and nothing that a person has said.

mod asked;
mod complexity;
mod decide;
mod models;
mod rules;
#[cfg(test)]
mod tests;

pub use asked::{Asked, Needs, Obstacle};
pub use models::Models;
pub use rules::{Choose, Operation, Problem, Rule, Rules};

use crate::query::Route;

/// Bytes of a reason at most.
pub const REASON_BYTES: usize = 1_000;

/// No model accepts a query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("No model accepts the query: {0}")]
pub struct Unroutable(pub String);

impl Rules {
    /// Which of these models a query is given to.
    ///
    /// # Errors
    /// When none can take it, or none may by these rules.
    pub fn route(&self, asked: &Asked<'_>, models: &Models<'_>) -> Result<Route, Unroutable> {
        decide::decide(self, asked, models)
    }
}
