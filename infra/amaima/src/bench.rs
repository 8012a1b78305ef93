//! `amaima bench`: how fast a model answers on this machine, alone in this process.

use crate::admin::{Exit, Output};
use clap::{Args, builder::PossibleValuesParser};
use engine::{
    Engine, ModelCard, WeightsIn,
    bench::{self, Load, Measured, Milliseconds, Until},
    model::{SHAPES, Shape},
};
use serde::Serialize;
use std::{
    fmt,
    io::Write,
    num::{NonZeroU64, NonZeroUsize},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

const NOTES: &str = "\
A step is one pass over the weights for all queries together. The floor of the time between two
tokens is a step that only reads the matrices of the weights once, as fast as as many threads were
measured to read memory just before; `achieved / floor` is the mean time between tokens divided by
that. Weights that fit into the caches can be below it.

Exit codes:
  0  measured
  1  measured, but requests failed or memory was not given back
  2  nothing could be measured, and usage errors";

/// What is measured, and under which load.
#[derive(Debug, Args)]
#[command(after_help = NOTES)]
pub struct Options {
    /// A Hugging Face directory: config.json, tokenizer.json, safetensors
    #[arg(required_unless_present = "shape")]
    dir: Option<PathBuf>,
    /// Random weights of this shape instead, in bf16
    #[arg(long, conflicts_with = "dir", value_parser = shapes())]
    shape: Option<String>,
    /// Clients that ask again as soon as they have their answer
    #[arg(long, default_value = "8", value_parser = clients)]
    concurrency: usize,
    /// Users that they ask for, in turns
    #[arg(long, default_value = "1")]
    users: NonZeroUsize,
    /// Tokens of a prompt, such as `128` or `16-512`
    #[arg(long, default_value = "128", value_parser = lengths)]
    prompt: RangeInclusive<usize>,
    /// Tokens of an answer at most, likewise
    #[arg(long, default_value = "64", value_parser = lengths)]
    answer: RangeInclusive<usize>,
    /// Requests of all clients together; eight of each without it
    #[arg(long, conflicts_with = "seconds")]
    requests: Option<NonZeroU64>,
    /// Ask for so long instead
    #[arg(long)]
    seconds: Option<NonZeroU64>,
    /// Percent of the requests that are cancelled midway
    #[arg(long, default_value = "0", value_parser = clap::value_parser!(u8).range(0..=100))]
    cancel: u8,
    /// Queries that are computed together, as WORKER_CONCURRENCY; all without it
    #[arg(long)]
    active: Option<NonZeroUsize>,
    /// As WORKER_THREADS; all cores without it
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// As WORKER_STEP_TOKENS
    #[arg(long, default_value = "256")]
    step_tokens: NonZeroUsize,
    /// As WORKER_KV_MIB
    #[arg(long, default_value = "1024")]
    kv_mib: NonZeroUsize,
    /// Round the weights to eight bits
    #[arg(long)]
    int8: bool,
    /// Decides random weights, prompts, lengths and what is cancelled
    #[arg(long, default_value = "1")]
    seed: u64,
    /// One JSON document instead of lines; errors as `{"error": …}`
    #[arg(long)]
    json: bool,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("no directory for random weights")]
    Directory(#[source] std::io::Error),
    #[error(transparent)]
    Engine(#[from] engine::Error),
}

/// Measures. Figures go to `out`, errors to standard error. Blocks the thread until it is done.
pub fn run(options: &Options, out: &mut (dyn Write + Send)) -> Exit {
    let mut output = Output::new(out, options.json);
    match measure(options) {
        Ok(found) => {
            output.report(&found);
            let measured = &found.measured;
            Exit::well_if(measured.failed == 0 && measured.leaked_blocks == 0)
        }
        Err(error) => {
            output.failed(&error);
            Exit::Ill
        }
    }
}

fn measure(options: &Options) -> Result<Found, Error> {
    let engine = match (
        &options.dir,
        options.shape.as_deref().and_then(Shape::named),
    ) {
        (Some(dir), _) => load(dir, options)?,
        (None, shape) => {
            let dir = tempfile::tempdir().map_err(Error::Directory)?;
            let shape = shape.unwrap_or(SHAPES[0]);
            shape.write(dir.path(), options.seed)?;
            // The files stay mapped when their directory goes.
            load(dir.path(), options)?
        }
    };
    let users = options.users.get();
    let requests = (options.concurrency as u64).saturating_mul(8);
    let load = Load {
        clients: (0..options.concurrency)
            .map(|client| (client % users) as u128)
            .collect(),
        until: match options.seconds {
            Some(seconds) => Until::Elapsed(Duration::from_secs(seconds.get())),
            None => Until::Requests(options.requests.map_or(requests, NonZeroU64::get)),
        },
        prompt_tokens: options.prompt.clone(),
        answer_tokens: options.answer.clone(),
        cancelled: f64::from(options.cancel) / 100.0,
        seed: options.seed,
    };
    Ok(Found {
        measured: bench::run(&engine, &load)?,
        model: engine.model().clone(),
    })
}

fn load(dir: &Path, options: &Options) -> Result<Engine, engine::Error> {
    let clients = NonZeroUsize::new(options.concurrency).unwrap_or(NonZeroUsize::MIN);
    let defaults = engine::Options::default();
    let options = engine::Options {
        threads: options.threads,
        weights_in: match options.int8 {
            true => WeightsIn::Int8,
            false => WeightsIn::default(),
        },
        kv_bytes: options.kv_mib.saturating_mul(MEBIBYTE),
        max_active: options.active.unwrap_or(clients),
        max_waiting: options.concurrency,
        step_tokens: options.step_tokens,
        ..defaults
    };
    Engine::load(dir, options)
}

const MEBIBYTE: NonZeroUsize = NonZeroUsize::new(1 << 20).expect("a literal above zero");

#[derive(Debug, Serialize)]
struct Found {
    model: ModelCard,
    #[serde(flatten)]
    measured: Measured,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (model, measured) = (&self.model, &self.measured);
        let gigabytes = |bytes: f64| format!("{:.2} GB", bytes / 1e9);
        let lines = [
            ("model", model.id.clone()),
            ("parameters", model.parameters.to_string()),
            (
                "answers",
                format!(
                    "{} whole, {} cancelled, {} failed in {:.1} s",
                    measured.answered, measured.cancelled, measured.failed, measured.seconds
                ),
            ),
            (
                "tokens",
                format!(
                    "{:.1} of answers and {:.1} of prompts per second",
                    measured.answer_tokens_s, measured.prompt_tokens_s
                ),
            ),
            ("first token", times(measured.first_token_ms)),
            ("between tokens", times(measured.between_tokens_ms)),
            (
                "floor",
                format!(
                    "{:.2} ms: {} of weights per step at {} per second",
                    measured.floor_ms,
                    gigabytes(measured.weight_bytes_per_step as f64),
                    gigabytes(measured.memory_bytes_s)
                ),
            ),
            (
                "achieved / floor",
                measured
                    .achieved_over_floor
                    .map_or("not known".to_owned(), |ratio| format!("{ratio:.2}")),
            ),
            (
                "users",
                format!(
                    "{}, the worst got {:.2} of an equal part",
                    measured.users, measured.worst_user_share
                ),
            ),
            (
                "memory",
                format!(
                    "{} of {} blocks were not given back",
                    measured.leaked_blocks, measured.blocks
                ),
            ),
        ];
        for (name, value) in lines {
            writeln!(f, "{name:16} {value}")?;
        }
        if let Some(failure) = &measured.failure {
            writeln!(f, "warning: {failure}")?;
        }
        Ok(())
    }
}

fn times(found: Option<Milliseconds>) -> String {
    found.map_or("none".to_owned(), |found| {
        let Milliseconds {
            p50,
            p95,
            p99,
            mean,
        } = found;
        format!("p50 {p50:.1} ms, p95 {p95:.1} ms, p99 {p99:.1} ms, mean {mean:.1} ms")
    })
}

fn shapes() -> PossibleValuesParser {
    PossibleValuesParser::new(SHAPES.map(|shape| shape.name))
}

/// Each of them is a thread.
fn clients(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(clients @ 1..=1_024) => Ok(clients),
        _ => Err("expected 1 to 1024 clients".into()),
    }
}

fn lengths(text: &str) -> Result<RangeInclusive<usize>, String> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    match (from.trim().parse(), to.trim().parse()) {
        (Ok(from), Ok(to)) if 1 <= from && from <= to => Ok(from..=to),
        _ => Err("expected a number of tokens from 1 on, or two as `16-512`".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_one_number_or_two() {
        assert_eq!(lengths("64"), Ok(64..=64));
        assert_eq!(lengths("16-512"), Ok(16..=512));
        for wrong in ["", "0", "0-3", "5-4", "a-4", "1-2-3", "-1"] {
            assert!(lengths(wrong).is_err(), "{wrong}");
        }
    }
}
