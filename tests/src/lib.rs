//! What system tests and benches stand on: a whole system per test, on real servers.
//!
//! [`world::World`] brings up nats-server, PostgreSQL, an S3 endpoint and our services; a
//! [`client::Client`] speaks to it as an app would. Services run in the test's process, or as
//! processes of their own ([`service`]) where a test kills them. [`history`] records what clients
//! are told during such a run and checks it against the log and the read models.

pub mod admin;
pub mod archive;
pub mod asking;
pub mod browser;
pub mod bytes;
pub mod catalogue;
pub mod client;
pub mod commits;
pub mod disk;
pub mod duckdb;
pub mod history;
pub mod keys;
pub mod openai;
pub mod projections;
pub mod random_model;
pub mod service;
pub mod usage;
pub mod world;
