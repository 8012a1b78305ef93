//! Providers other than this process's own engine: services on the network, or the simulation.
//!
//! A request flows like this: [`remote`] chooses whom to ask, [`endpoint`] asks, [`sse`] puts the
//! events of the answer together, [`dialect`] says what they mean, and [`fault`] what follows from a
//! failure; [`breaker`] keeps requests away from whoever keeps failing. Keys stand in headers that
//! are marked as secret, and reasons of failures name statuses and codes, never what anybody said.
//!
//! To add a service that speaks one of the [`Dialect`]s, name it in `PROVIDERS`; to add a dialect,
//! put it beside the others and run the suite with it (`tests/providers`).

mod breaker;
mod dialect;
mod endpoint;
mod fault;
mod remote;
mod settings;
mod sse;

pub use dialect::Dialect;
pub use settings::{Limits, Service, Settings};

use engine::provider::{Provider, Sim};
use std::sync::Arc;

/// The connections to providers cannot be set up; no root certificates, most likely.
#[derive(Debug, thiserror::Error)]
#[error("connections to providers cannot be set up")]
pub struct Error(#[source] reqwest::Error);

/// The provider with these settings. Nobody is asked anything yet.
///
/// # Errors
/// When TLS cannot be set up.
pub fn make(settings: &Settings) -> Result<Arc<dyn Provider>, Error> {
    Ok(match settings {
        Settings::Sim(settings) => Arc::new(Sim::new(*settings)),
        Settings::Remote { services, limits } => {
            Arc::new(remote::Remote::new(services, *limits).map_err(Error)?)
        }
    })
}
