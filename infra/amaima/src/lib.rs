//! Amaima on one machine. The library part, [`stack`], brings up nats-server, PostgreSQL and an S3
//! endpoint in private directories; `amaima up`, the system tests and the benches stand on it.

pub mod stack;
