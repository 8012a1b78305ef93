//! System tests: a whole system each, on real servers. One file per subject.

#![expect(
    clippy::print_stdout,
    reason = "tests tell the figures that they have seen"
)]

mod accounts;
mod admin;
mod analysts;
mod api_keys;
mod architecture;
mod archive;
mod bounded;
mod catalogue;
mod consistency;
mod console;
mod demo_model;
mod durability;
mod erasure;
mod errors;
mod export;
mod faults;
mod group_commit;
mod hanging_model;
mod history;
mod idempotency;
mod loading;
mod openai;
mod overload;
mod policies;
mod projections;
mod promises;
mod providers;
mod queries;
mod restore;
mod routing;
mod sealed_streams;
mod server;
mod sockets;
mod timers;
mod workers;
mod write_path;

/// Not a test: services that run as processes of their own are this binary, started again.
#[test]
fn service_process() {
    tests::service::run_if_named();
}
