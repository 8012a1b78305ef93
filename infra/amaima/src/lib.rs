//! Amaima on one machine. [`stack`] brings up nats-server, PostgreSQL and an S3 endpoint in private
//! directories; `amaima up`, the system tests and the benches stand on it. [`ask`] is a client in
//! the terminal, [`admin`] looks into a system that runs, [`models`] into a model's directory, [`bench`] measures
//! how fast one answers.

pub mod admin;
pub mod ask;
pub mod bench;
pub mod models;
pub mod stack;
