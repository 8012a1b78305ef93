//! What is measured, from the environment.

use infra::config::{Error, parsed};
use std::{fmt::Display, str::FromStr};

/// How much work, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `PEERS_AGGREGATES`: queries of one run; each gets three commands.
    pub aggregates: u64,
    /// `PEERS_IN_FLIGHT`: callers side by side, each with a query of its own.
    pub in_flight: u64,
    /// `PEERS_ROUNDS`: runs of each contestant.
    pub rounds: usize,
    /// `PEERS_CONNECTIONS`: connections to PostgreSQL in the pool that a peer's commands share.
    pub connections: u32,
}

impl Settings {
    /// Reads the environment.
    ///
    /// # Errors
    /// When a variable cannot be read.
    pub fn from_env() -> Result<Self, Error> {
        Ok(Self {
            aggregates: at_least_one("PEERS_AGGREGATES", 5_000)?,
            in_flight: at_least_one("PEERS_IN_FLIGHT", 64)?,
            rounds: at_least_one("PEERS_ROUNDS", 3)?,
            connections: at_least_one("PEERS_CONNECTIONS", 32)?,
        })
    }
}

fn at_least_one<T: FromStr<Err: Display> + Default + PartialEq>(
    name: &'static str,
    default: T,
) -> Result<T, Error> {
    let value = parsed(name, default)?;
    if value == T::default() {
        let reason = "it must be 1 or more".to_owned();
        return Err(Error { name, reason });
    }
    Ok(value)
}
