//! `amaima admin` against a world.

use crate::world::World;
use amaima::{
    admin::{self, Exit},
    stack::Stack,
};
use clap::Parser;
use serde_json::Value;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: admin::Options,
}

/// Runs `amaima admin <args>` against the world's bus; the exit code and what was printed.
///
/// # Panics
/// When the arguments are not understood.
pub async fn text(world: &World, args: &[&str]) -> (Exit, String) {
    text_of(&world.stack, args).await
}

/// The same against servers alone.
///
/// # Panics
/// When the arguments are not understood.
pub async fn text_of(stack: &Stack, args: &[&str]) -> (Exit, String) {
    let url = &stack.endpoints().nats_url;
    on(stack, &[&["--nats-url", url], args].concat()).await
}

/// Runs `amaima admin <args>` on a stack's data directory.
///
/// # Panics
/// When the arguments are not understood.
pub async fn on(stack: &Stack, args: &[&str]) -> (Exit, String) {
    let cli = Cli::try_parse_from(["admin"].iter().chain(args)).unwrap_or_else(|error| {
        panic!("{error}");
    });
    let mut out = Vec::new();
    let exit = admin::run(stack.data_dir(), cli.options, &mut out).await;
    (exit, String::from_utf8(out).expect("text"))
}

/// The same with `--json`.
///
/// # Panics
/// When what was printed is not one JSON document.
pub async fn json(world: &World, args: &[&str]) -> (Exit, Value) {
    json_of(&world.stack, args).await
}

/// The same against servers alone.
///
/// # Panics
/// When what was printed is not one JSON document.
pub async fn json_of(stack: &Stack, args: &[&str]) -> (Exit, Value) {
    let (exit, out) = text_of(stack, &[args, &["--json"]].concat()).await;
    let document = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"));
    (exit, document)
}
