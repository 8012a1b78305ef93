//! Everything that crosses a process: between services on the bus, and to clients.

pub mod admin;
pub mod command;
pub mod consistency;
pub mod error;
pub mod job;
pub mod parked;
pub mod query_key;
pub mod rest;
pub mod socket;
pub mod token;
pub mod view;
pub mod worker;
