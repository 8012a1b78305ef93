//! One that asks again as soon as its answer has ended.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use super::latencies::Latencies;
use super::{Load, Until};
use crate::engine::Engine;
use crate::generation::{Finish, Item};
use crate::request::{Request, Sampling};
use crate::sampler::uniform;

/// As people mostly ask.
const SAMPLING: Sampling = Sampling {
    temperature: 0.7,
    top_p: 0.95,
    ..Sampling::GREEDY
};

/// What clients have seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Answers that ended by themselves or by their length.
    pub(super) answered: u64,
    pub(super) cancelled: u64,
    pub(super) failed: u64,
    /// Why the first one failed.
    pub(super) failure: Option<String>,
    pub(super) prompt_tokens: u64,
    pub(super) answer_tokens: u64,
    /// From asking to the first token.
    pub(super) first: Latencies,
    /// From each token of an answer to the next.
    pub(super) between: Latencies,
}

impl Seen {
    pub(super) fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.cancelled += other.cancelled;
        self.failed += other.failed;
        self.failure = self.failure.take().or(other.failure);
        self.prompt_tokens += other.prompt_tokens;
        self.answer_tokens += other.answer_tokens;
        self.first.add(&other.first);
        self.between.add(&other.between);
    }

    fn fail(&mut self, reason: String) {
        self.failed += 1;
        self.failure.get_or_insert(reason);
    }
}

pub(super) struct Client<'a> {
    pub(super) engine: &'a Engine,
    pub(super) load: &'a Load,
    pub(super) owner: u128,
    /// Requests of all clients together.
    pub(super) asked: &'a AtomicU64,
    pub(super) began: Instant,
}

impl Client<'_> {
    pub(super) fn run(&self) -> Seen {
        let mut seen = Seen::default();
        while let Some(number) = self.next() {
            self.ask(number, &mut seen);
        }
        seen
    }

    fn next(&self) -> Option<u64> {
        let number = self.asked.fetch_add(1, Relaxed);
        let goes_on = match self.load.until {
            Until::Requests(requests) => number < requests,
            Until::Elapsed(limit) => self.began.elapsed() < limit,
        };
        goes_on.then_some(number)
    }

    fn ask(&self, number: u64, seen: &mut Seen) {
        let (request, cancel_after) = self.request(number);
        let cancel = request.cancel.clone();
        let mut last = Instant::now();
        let mut generation = match self.engine.submit(request) {
            Ok(generation) => generation,
            Err(error) => return seen.fail(error.to_string()),
        };
        let mut tokens = 0;
        loop {
            if cancel_after == Some(tokens) {
                cancel.cancel();
            }
            match generation.blocking_next() {
                Some(Item::Token { .. }) => {
                    let now = Instant::now();
                    let latencies = match tokens {
                        0 => &mut seen.first,
                        _ => &mut seen.between,
                    };
                    latencies.record(now - last);
                    (last, tokens) = (now, tokens + 1);
                }
                Some(Item::End { finish, usage, .. }) => {
                    if tokens > 0 {
                        seen.prompt_tokens += usage.prompt_tokens as u64;
                        seen.answer_tokens += usage.completion_tokens as u64;
                    }
                    return match finish {
                        Finish::Stop | Finish::Length => seen.answered += 1,
                        Finish::Cancelled => seen.cancelled += 1,
                        other => seen.fail(format!("{other:?}")),
                    };
                }
                None => return seen.fail("a stream without an end".into()),
            }
        }
    }

    /// The request of this number, and after how many tokens it is cancelled, where it is: the same
    /// for the same seed, whoever comes to ask it.
    fn request(&self, number: u64) -> (Request, Option<usize>) {
        let draw = |index| uniform(self.load.seed ^ number.rotate_left(32), index);
        let among = |range: &RangeInclusive<usize>, index| {
            let width = range.end() - range.start() + 1;
            range.start() + (draw(index) * width as f64) as usize
        };
        let max_new_tokens = among(&self.load.answer_tokens, 0);
        let cancelled = draw(1) < self.load.cancelled;
        let cancel_after = cancelled.then(|| among(&(0..=max_new_tokens - 1), 2));
        let last = self.engine.model().vocabulary - 1;
        let prompt = (4..)
            .take(among(&self.load.prompt_tokens, 3))
            .map(|index| among(&(0..=last), index) as u32)
            .collect();
        let request = Request {
            owner: self.owner,
            cache_salt: self.owner,
            sampling: Sampling {
                seed: number,
                ..SAMPLING
            },
            ..Request::new(prompt, max_new_tokens)
        };
        (request, cancel_after)
    }
}
