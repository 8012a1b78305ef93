//! Histories: what clients did and were told, what the log holds, what the read models show; and a
//! checker that holds the three against each other.
//!
//! A [`History`] is recorded by [`run`] from a whole system whose processes are killed at random,
//! or made up by [`invent`]. [`check::violations`] lists every promise that it breaks. The checker
//! is itself tested by [`mutant`]: each seeded defect must be found, as the kind that it is.
//!
//! One more operation is a variant of [`call::Operation`], a line in `client.rs` and what it
//! promises in one of the files of `check`.

mod answer;
pub mod call;
pub mod check;
mod client;
mod fold;
pub mod invent;
mod killer;
pub mod log;
pub mod mutant;
pub(crate) mod random;
mod report;
pub mod rows;
pub mod run;
pub mod violation;

pub use random::Random;
pub use violation::{Kind, Violation};

/// All that is known after a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What clients did, each client's in its order.
    pub calls: Vec<call::Call>,
    /// The whole log, in order.
    pub log: Vec<log::Commit>,
    /// The read models, when everything was quiet.
    pub rows: rows::Rows,
}
