//! Whoever turns a conversation into a stream of text: the engine of this process, or a service
//! that is reached over the network.
//!
//! An engine knows every token by its id, and can go on after those that were published. A remote
//! service takes messages and gives text: it has no ids, tells log-probabilities only where it
//! likes, counts tokens itself, and goes on with nothing. [`Provider`] promises what all have in
//! common, [`Card`] says the rest, and what somebody does not know is absent and never made up.
//!
//! The promises are checked by one suite, `engine::conformance` (feature `conformance`), which every
//! provider passes. To add one, implement [`Provider`] and run the suite with it.

mod answer;
mod local;
mod request;
mod running;
mod sim;

use std::fmt;

pub use answer::{Alternative, Answer, End, Item, Token};
pub use local::Local;
pub use request::{ChatRequest, Wishes};
pub use running::{Running, Runs};
pub use sim::{Sim, SimSettings};

use crate::calibration::Calibration;
use crate::error::Error;

/// Turns conversations into streams of text.
///
/// - A stream has exactly one [`Item::End`], and nothing after it.
/// - [`ChatRequest::cancel`] ends it within two seconds, [`ChatRequest::deadline`] at that time.
/// - Dropping a stream ends the work for it, and frees what it held.
/// - Streams do not mix, however many run at once.
/// - What cannot be served is refused with the field, before anything is computed or sent.
pub trait Provider: fmt::Debug + Send + Sync {
    /// What it is and what it can do.
    fn card(&self) -> &Card;

    /// What it has in hand.
    fn load(&self) -> Load;

    /// How often its answers are right by the certainty of their tokens, where somebody found out.
    fn calibration(&self) -> Option<Calibration> {
        None
    }

    /// Returns the stream of an answer at once; where an engine is to keep to a format, after that
    /// is compiled, which may take seconds: call it off the runtime then. An engine begins to compute; a remote provider is
    /// asked when the stream's first item is.
    ///
    /// # Errors
    /// [`Error::Request`] and [`Error::TooLong`] for what it can never serve, [`Error::Busy`] where
    /// it might later.
    fn answer(&self, request: ChatRequest) -> Result<Answer, Error>;
}

/// What is known about a provider before it is asked anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// The model, as answers name it.
    pub model: String,
    /// Who computes: `engine`, or the remote provider's name.
    pub provider: String,
    /// Tokens of a prompt and its answer together at most, where that is known.
    pub context: Option<usize>,
    /// What not everybody can do.
    pub abilities: Abilities,
}

/// What not every provider can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Abilities {
    /// Tells tokens with their log-probabilities.
    pub logprobs: bool,
    /// Goes on after ids that another run has published.
    pub resume: bool,
    /// Keeps to a [response format](crate::ResponseFormat).
    pub formats: bool,
    /// Is the demo model or a simulation, whose answers are labelled as that.
    pub demo: bool,
}

/// What a provider has in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Answers that were begun and have not ended, those that wait included.
    pub running: usize,
    /// Tokens of further prompts and answers that there is memory for, where memory is ours.
    pub free_tokens: Option<usize>,
}
