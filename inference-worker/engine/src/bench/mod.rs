//! A closed loop of clients that ask an engine and measure what they get, for operators.
//!
//! Each client asks, reads its answer to the end and asks again ([`client`]), on a thread of its own;
//! requests differ in length and words, and some are cancelled. What is seen beside the figures:
//! whether the machine's time was shared fairly between users, and whether all memory was given
//! back.
//!
//! The *floor* of the time between two tokens of an answer is a step that does nothing but read all
//! matrices of the weights once, as fast as the same threads were measured to read memory
//! ([`memory`]). No batch and no kernel gets below it, unless the weights fit into the caches.

mod client;
mod latencies;
mod memory;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use serde::Serialize;

use self::client::{Client, Seen};
pub use self::latencies::Milliseconds;
pub use self::memory::read_bandwidth;
use crate::engine::Engine;
use crate::error::Error;
use crate::generation::Item;
use crate::request::{Request, refuse};

/// What is asked of an engine.
#[derive(Debug, Clone)]
pub struct Load {
    /// As many clients, each asking for this owner.
    pub clients: Vec<u128>,
    /// How long they ask.
    pub until: Until,
    /// Tokens of a prompt: any number in here, all alike.
    pub prompt_tokens: RangeInclusive<usize>,
    /// Tokens of an answer at most, likewise.
    pub answer_tokens: RangeInclusive<usize>,
    /// This share of the requests, in [0, 1], is cancelled before the answer is whole.
    pub cancelled: f64,
    /// Decides lengths, words and what is cancelled.
    pub seed: u64,
}

/// When clients stop asking; what has begun is read to its end.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After so many requests of all together.
    Requests(u64),
    /// After this time.
    Elapsed(Duration),
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// From the first question to the end of the last answer.
    pub seconds: f64,
    /// Answers that ended by themselves or by their length.
    pub answered: u64,
    /// Answers that were cancelled.
    pub cancelled: u64,
    /// Requests that were refused or failed.
    pub failed: u64,
    /// Why the first one did.
    pub failure: Option<String>,
    /// Tokens of all prompts whose answers began.
    pub prompt_tokens: u64,
    /// Tokens of all answers.
    pub answer_tokens: u64,
    /// Prompt tokens per second of the whole time.
    pub prompt_tokens_s: f64,
    /// Answer tokens per second of the whole time.
    pub answer_tokens_s: f64,
    /// From asking to the first token; waiting for a place is part of it.
    pub first_token_ms: Option<Milliseconds>,
    /// From each token of an answer to the next.
    pub between_tokens_ms: Option<Milliseconds>,
    /// Owners that asked.
    pub users: usize,
    /// Tokens, of prompts and answers, of the user that got fewest, as a share of what each would
    /// have got of equal parts. Where nobody has to wait, it says who asked for least.
    pub worst_user_share: f64,
    /// Blocks of memory for keys and values.
    pub blocks: usize,
    /// Those of them that were not given back.
    pub leaked_blocks: usize,
    /// Bytes of the matrices that every step reads.
    pub weight_bytes_per_step: usize,
    /// Bytes per second that the engine's threads read from memory.
    pub memory_bytes_s: f64,
    /// The one divided by the other: what a step takes at least.
    pub floor_ms: f64,
    /// The mean time between tokens divided by the floor; 1 is the best there can be.
    pub achieved_over_floor: Option<f64>,
}

/// Asks an engine that nobody else asks meanwhile. Blocks the thread; not to be called by one that
/// drives a runtime's tasks.
///
/// # Errors
/// [`Error::Request`] for a load without clients or tokens, [`Error::TooLong`] for one that the
/// context cannot hold, and whatever the engine refuses a first request with.
pub fn run(engine: &Engine, load: &Load) -> Result<Measured, Error> {
    load.check(engine)?;
    let (weight_bytes_per_step, threads) = engine.step_cost();
    let memory_bytes_s = read_bandwidth(threads);
    warm_up(engine)?;
    let (_, blocks) = engine.in_hand();
    let (asked, began) = (AtomicU64::new(0), Instant::now());
    let all = std::thread::scope(|scope| {
        let clients: Vec<_> = load
            .clients
            .iter()
            .map(|owner| {
                let client = Client {
                    engine,
                    load,
                    owner: *owner,
                    asked: &asked,
                    began,
                };
                (*owner, scope.spawn(move || client.run()))
            })
            .collect();
        let seen = clients.into_iter().map(|(owner, thread)| {
            let seen = thread.join().unwrap_or_else(|_| Seen {
                failed: 1,
                failure: Some("a client panicked".into()),
                ..Seen::default()
            });
            (owner, seen)
        });
        seen.collect::<Vec<_>>()
    });
    let seconds = began.elapsed().as_secs_f64();
    let (_, blocks_left) = engine.in_hand();
    let mut tokens: BTreeMap<u128, u64> = BTreeMap::new();
    let mut total = Seen::default();
    for (owner, seen) in all {
        *tokens.entry(owner).or_default() += seen.prompt_tokens + seen.answer_tokens;
        total.add(seen);
    }
    let between_tokens_ms = total.between.milliseconds();
    let floor_ms = weight_bytes_per_step as f64 / memory_bytes_s * 1e3;
    Ok(Measured {
        seconds,
        answered: total.answered,
        cancelled: total.cancelled,
        failed: total.failed,
        failure: total.failure,
        prompt_tokens: total.prompt_tokens,
        answer_tokens: total.answer_tokens,
        prompt_tokens_s: total.prompt_tokens as f64 / seconds,
        answer_tokens_s: total.answer_tokens as f64 / seconds,
        first_token_ms: total.first.milliseconds(),
        between_tokens_ms,
        users: tokens.len(),
        worst_user_share: worst_share(&tokens),
        blocks,
        leaked_blocks: blocks - blocks_left.min(blocks),
        weight_bytes_per_step,
        memory_bytes_s,
        floor_ms,
        achieved_over_floor: between_tokens_ms.map(|between| between.mean / floor_ms),
    })
}

impl Load {
    fn check(&self, engine: &Engine) -> Result<(), Error> {
        if self.clients.is_empty() {
            return refuse("clients", "there are none");
        }
        for (field, range) in [
            ("prompt_tokens", &self.prompt_tokens),
            ("answer_tokens", &self.answer_tokens),
        ] {
            if *range.start() == 0 || range.is_empty() {
                let reason = format!("{range:?} is not a range from 1 on");
                return refuse(field, reason);
            }
        }
        if !(0.0..=1.0).contains(&self.cancelled) {
            return refuse("cancelled", format!("{} is not in [0, 1]", self.cancelled));
        }
        let (prompt, max_new) = (*self.prompt_tokens.end(), *self.answer_tokens.end());
        let context = engine.model().context_length;
        match prompt.saturating_add(max_new) <= context {
            true => Ok(()),
            false => Err(Error::TooLong {
                prompt,
                max_new,
                context,
            }),
        }
    }
}

/// Reads the weights once, so that the first answer does not pay for that.
fn warm_up(engine: &Engine) -> Result<(), Error> {
    let mut generation = engine.submit(Request::new(vec![0], 2))?;
    while let Some(Item::Token { .. }) = generation.blocking_next() {}
    Ok(())
}

fn worst_share(tokens: &BTreeMap<u128, u64>) -> f64 {
    let all: u64 = tokens.values().sum();
    let least = tokens.values().min().copied().unwrap_or(0);
    match all {
        0 => 0.0,
        all => least as f64 * tokens.len() as f64 / all as f64,
    }
}
