//! What the next step computes, as data: no thread, no clock, no backend.
//!
//! A step is one batch for all generations that can move. Those that need one id, the token chosen
//! last, come first; what is left of the step's budget goes to chunks of prompts and of resumed
//! ids, in order. So a long prompt costs the others a longer step, not their turns.
//!
//! The order, of admission as of prompts: the class of [`Priority`], raised by one for every
//! [`AGE`] waited; within a class the owner who had the fewest tokens so far, counted as Sheng
//! et al. do (2024, <https://arxiv.org/abs/2401.00588>): a prompt when it is admitted, what was
//! found in the prefix cache not at all, generated tokens one by one. Who comes new begins with
//! the count of the least served, and is forgotten with the last generation. Above all classes are
//! those that have waited one [`AGE`] longer than it takes to get there: the oldest first,
//! whoever owns it. So nobody waits for ever, however many others come.
//!
//! The first in that order is admitted when there is a place and the blocks of its whole lifetime
//! are free ([`kv`](crate::kv)); nobody overtakes it for needing fewer.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::backend::Run;
use crate::generation::Priority;
use crate::kv::{Blocks, Pages};

/// Waiting so long raises a generation by one class.
pub(super) const AGE: Duration = Duration::from_secs(10);

/// Names a generation, in the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(u64);

/// A generation that wants to be computed.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    pub(super) owner: u128,
    pub(super) cache_salt: u128,
    pub(super) priority: Priority,
    pub(super) since: Instant,
    /// The prompt and the resumed ids, at least one.
    pub(super) ids: Vec<u32>,
    /// Positions that it can ever fill.
    pub(super) positions: usize,
}

/// Part of a step: these of a generation's ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) ticket: Ticket,
    pub(super) range: Range<usize>,
    /// Whether they are the last known ones, so that a token is chosen after them.
    pub(super) last: bool,
}

/// An admitted generation.
#[derive(Debug)]
struct Active {
    arrival: Arrival,
    pages: Pages,
    /// How many of its ids are computed.
    fed: usize,
}

/// What an owner with generations here had.
#[derive(Debug, Default)]
struct Account {
    tokens: u64,
    generations: usize,
}

/// All generations, and the blocks that they share.
#[derive(Debug)]
pub(super) struct Planner {
    blocks: Blocks,
    step_tokens: usize,
    max_active: usize,
    waiting: BTreeMap<Ticket, Arrival>,
    active: BTreeMap<Ticket, Active>,
    accounts: HashMap<u128, Account>,
    arrived: u64,
}

impl Planner {
    /// `step_tokens` is the budget of a step; below `max_active`, it is that, so that every active
    /// generation can move.
    pub(super) fn new(blocks: u32, max_active: usize, step_tokens: usize) -> Self {
        Self {
            blocks: Blocks::new(blocks),
            step_tokens: step_tokens.max(max_active),
            max_active,
            waiting: BTreeMap::new(),
            active: BTreeMap::new(),
            accounts: HashMap::new(),
            arrived: 0,
        }
    }

    /// Adds a generation to the waiting ones. Its positions fit into the blocks of an empty pool,
    /// which the engine checks when it is submitted.
    pub(super) fn add(&mut self, arrival: Arrival) -> Ticket {
        let least = self.accounts.values().map(|account| account.tokens).min();
        let account = self
            .accounts
            .entry(arrival.owner)
            .or_insert_with(|| Account {
                tokens: least.unwrap_or(0),
                generations: 0,
            });
        account.generations += 1;
        self.arrived += 1;
        let ticket = Ticket(self.arrived);
        self.waiting.insert(ticket, arrival);
        ticket
    }

    /// Forgets a generation, waiting or active; its blocks are free again.
    pub(super) fn remove(&mut self, ticket: Ticket) {
        let arrival = match self.active.remove(&ticket) {
            Some(active) => {
                self.blocks.release(active.pages);
                Some(active.arrival)
            }
            None => self.waiting.remove(&ticket),
        };
        let Some(Arrival { owner, .. }) = arrival else {
            return;
        };
        if let Some(account) = self.accounts.get_mut(&owner) {
            account.generations -= 1;
            if account.generations == 0 {
                self.accounts.remove(&owner);
            }
        }
    }

    /// Blocks that no generation holds.
    pub(super) fn free_blocks(&self) -> usize {
        self.blocks.unowned()
    }

    /// Admitted generations.
    pub(super) fn active(&self) -> usize {
        self.active.len()
    }

    /// Admits whom it can and says what the next step computes; empty when nobody can move. Those
    /// that are not `ready` to take a token are left out and keep their blocks.
    pub(super) fn plan(&mut self, now: Instant, ready: impl Fn(Ticket) -> bool) -> Vec<Part> {
        self.admit(now);
        let mut pending: Vec<_> = self
            .active
            .iter()
            .filter(|(ticket, _)| ready(**ticket))
            .map(|(ticket, active)| {
                let range = active.fed..active.arrival.ids.len();
                let order = (range.len() > 1, self.order(*ticket, &active.arrival, now));
                (order, *ticket, range)
            })
            .collect();
        pending.sort_unstable_by_key(|(order, ..)| *order);
        let mut left = self.step_tokens;
        let mut parts = Vec::with_capacity(pending.len());
        for (_, ticket, known) in pending {
            let count = known.len().min(left);
            if count == 0 {
                break;
            }
            left -= count;
            parts.push(Part {
                ticket,
                range: known.start..known.start + count,
                last: count == known.len(),
            });
        }
        parts
    }

    /// What a backend needs for a part; `None` when its generation was removed.
    pub(super) fn run(&self, part: &Part) -> Option<Run<'_>> {
        let active = self.active.get(&part.ticket)?;
        Some(Run {
            blocks: active.pages.blocks(),
            from: part.range.start,
            ids: &active.arrival.ids[part.range.clone()],
            logits: part.last,
        })
    }

    /// A part was computed.
    pub(super) fn computed(&mut self, part: &Part) {
        if let Some(active) = self.active.get_mut(&part.ticket) {
            active.fed = part.range.end;
            self.blocks
                .computed(&mut active.pages, &active.arrival.ids, active.fed);
        }
    }

    /// The token that follows all known ids of a generation.
    pub(super) fn push(&mut self, ticket: Ticket, id: u32) {
        if let Some(active) = self.active.get_mut(&ticket) {
            active.arrival.ids.push(id);
            charge(&mut self.accounts, active.arrival.owner, 1);
        }
    }

    fn admit(&mut self, now: Instant) {
        while self.active.len() < self.max_active {
            let first = self
                .waiting
                .iter()
                .min_by_key(|(ticket, arrival)| self.order(**ticket, arrival, now));
            let Some((ticket, arrival)) = first else {
                return;
            };
            let (ids, positions) = (&arrival.ids, arrival.positions);
            let Some(pages) = self.blocks.admit(arrival.cache_salt, ids, positions) else {
                return;
            };
            let ticket = *ticket;
            let Some(arrival) = self.waiting.remove(&ticket) else {
                return;
            };
            let fed = pages.settled();
            charge(&mut self.accounts, arrival.owner, arrival.ids.len() - fed);
            let active = Active {
                arrival,
                pages,
                fed,
            };
            self.active.insert(ticket, active);
        }
    }

    /// Less comes first: the class as raised by waiting, the owner's tokens, the arrival.
    fn order(&self, ticket: Ticket, arrival: &Arrival, now: Instant) -> (u64, u64, Ticket) {
        let waited = now.saturating_duration_since(arrival.since).as_secs() / AGE.as_secs();
        match (arrival.priority as u64 + 1).saturating_sub(waited) {
            0 => (0, 0, ticket),
            class => {
                let account = self.accounts.get(&arrival.owner);
                (class, account.map_or(0, |account| account.tokens), ticket)
            }
        }
    }
}

fn charge(accounts: &mut HashMap<u128, Account>, owner: u128, tokens: usize) {
    if let Some(account) = accounts.get_mut(&owner) {
        account.tokens += tokens as u64;
    }
}

#[cfg(test)]
mod tests;
