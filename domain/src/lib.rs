//! The rules of Amaima, and nothing else: no input or output, no clock, no randomness.
//!
//! A client's order arrives as a *command*. The *aggregate* it concerns decides about it
//! ([`Aggregate::decide`]) and answers with *events*, facts that are appended to the log as one
//! [`commit`]. Folding the events ([`Aggregate::evolve`]) gives the state that the next decision
//! starts from. *Policies* ([`policy`]) say what should follow from an event. Everything that
//! crosses a process, from subjects to socket frames, has its type in [`wire`].
//!
//! To add an aggregate: a folder with `mod`, `event`, `command`, `evolve`, `decide`, its kind in
//! [`subject::Kind`], its commands in [`authority`], its events in the [`catalogue`].

pub mod account;
pub mod aggregate;
pub mod api_keys;
pub mod authority;
pub mod catalogue;
pub mod commit;
pub mod email;
pub mod fingerprint;
pub mod id;
pub mod limits;
pub mod policy;
pub mod query;
pub mod routing;
pub mod schema;
pub mod session;
pub mod stores;
pub mod subject;
pub mod text;
pub mod time;
pub mod timer;
pub mod upcast;
pub mod wire;

pub use aggregate::{Aggregate, Context};
pub use authority::Actor;
pub use fingerprint::Fingerprint;
pub use time::Timestamp;
pub use upcast::Recorded;
