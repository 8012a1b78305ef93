//! The project's own inference engine: a Hugging Face model directory in, streams of tokens out.
//!
//! It knows nothing of jobs, brokers or users; `inference-worker` puts it between them. A
//! generation flows through it like this:
//!
//! 1. [`Engine::chat_prompt`] renders the messages ([`chat_template`]) and turns them into ids
//!    ([`tokenizer`]).
//! 2. [`Engine::submit`] checks the request and puts it into the bounded queue of the
//!    scheduler, whose one thread owns the [`backend`].
//! 3. In each step, the generations that can move are computed together: a chunk of a prompt, or one
//!    token, each in blocks of its own in the key-value memory ([`kv`]). The [`sampler`] picks the
//!    token among those that the request's [`ResponseFormat`] allows, the [`detokenizer`] says which text is final with it, and both go into the
//!    generation's channel.
//! 4. The consumer reads [`Item`]s from its [`Generation`] until the one [`Item::End`].
//!
//! Whoever need not know that it is this engine which answers holds a [`provider::Provider`].
//!
//! To add an architecture, teach [`model`] its config and tensors; to add a device, implement
//! [`backend::Backend`]. The CPU backend is the reference that others are compared with.

pub mod backend;
pub mod bench;
pub mod calibration;
pub mod chat_template;
pub mod check;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod detokenizer;
mod engine;
mod error;
mod files;
mod generation;
mod grammar;
pub mod kv;
pub mod model;
pub mod provider;
mod request;
pub mod sampler;
mod scheduler;
pub mod tokenizer;
mod wake;

pub use backend::cpu::Precision;
pub use chat_template::Message;
pub use engine::{ComputeOn, Engine, ModelCard, Options};
pub use error::Error;
pub use generation::{Finish, Generation, Item, Priority, TopLogprob, Usage};
pub use grammar::ResponseFormat;
pub use model::WeightsIn;
pub use request::{Request, Sampling};
