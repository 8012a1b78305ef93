//! The public edge: REST and the query socket in front of the bus.
//!
//! A request passes [`edge`] (request id, limits, CORS, one shape for every error), is checked and
//! becomes a command or a question on the bus ([`rest`], [`socket`]). Answers of queries arrive as
//! token streams, which [`hub`] follows once per query, however many clients listen. The gateway
//! holds no database credentials and decides nothing about the domain.
//!
//! To add an endpoint: a file under [`rest`] with its `DOC`, its `handle` and its tests, and a line
//! in [`router`].

mod api_keys;
mod app;
mod ask;
mod asyncapi;
mod config;
mod consistency;
mod console;
mod edge;
mod hub;
pub mod keys;
mod limits;
mod metrics;
mod openapi;
mod rest;
mod router;
mod server;
mod socket;
mod tokens;

pub use config::{Config, Sockets};
pub use server::{Bound, Error, Gateway, run};
