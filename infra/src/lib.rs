//! Adapters between the rules in [`domain`] and the outside: the log on JetStream, the bus,
//! PostgreSQL, object storage, the clock, configuration, logs and the life of a process.

pub mod append;
pub mod archive;
mod bucket;
pub mod bus;
pub mod clock;
pub mod config;
pub mod direct_get;
pub mod durability;
pub mod epoch;
pub mod erasures;
pub mod event_store;
pub mod fault;
pub mod group_commit;
pub mod jetstream;
pub mod jobs;
pub mod lifecycle;
pub mod metrics;
pub mod nats;
pub mod objects;
pub mod postgres;
pub mod purged;
pub mod retry;
pub mod revocations;
pub mod sealing;
pub mod snapshots;
pub mod telemetry;
pub mod tokens;
pub mod workers;
