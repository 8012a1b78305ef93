//! A machine without a clock or a backend: steps are planned, and taken as computed.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// What is known of a generation besides the planner.
#[derive(Debug)]
struct Life {
    owner: u128,
    known: usize,
    fed: Option<usize>,
    /// Tokens still to generate.
    more: usize,
}

struct Machine {
    planner: Planner,
    now: Instant,
    lives: BTreeMap<Ticket, Life>,
    /// Tokens computed for each owner.
    served: BTreeMap<u128, usize>,
}

impl Machine {
    fn new(blocks: u32, max_active: usize, step_tokens: usize) -> Self {
        Self {
            planner: Planner::new(blocks, max_active, step_tokens),
            now: Instant::now(),
            lives: BTreeMap::new(),
            served: BTreeMap::new(),
        }
    }

    fn add(&mut self, owner: u128, priority: Priority, ids: Vec<u32>, more: usize) -> Ticket {
        let known = ids.len();
        let ticket = self.planner.add(Arrival {
            owner,
            cache_salt: owner,
            priority,
            since: self.now,
            positions: known + more,
            ids,
        });
        let life = Life {
            owner,
            known,
            fed: None,
            more,
        };
        self.lives.insert(ticket, life);
        ticket
    }

    /// `count` ids that no other generation begins with.
    fn fresh(&self, count: usize) -> Vec<u32> {
        vec![self.planner.arrived as u32; count]
    }

    fn remove(&mut self, ticket: Ticket) {
        self.planner.remove(ticket);
        self.lives.remove(&ticket);
    }

    /// Plans a step, checks it, and takes it as computed.
    fn step(&mut self, ready: impl Fn(Ticket) -> bool) -> Vec<Part> {
        let parts = self.planner.plan(self.now, &ready);
        let budget = self.planner.step_tokens;
        let tokens: usize = parts.iter().map(|part| part.range.len()).sum();
        assert!(tokens <= budget, "{tokens} in a step of {budget}");
        assert!(self.planner.active.len() <= self.planner.max_active);
        let tickets: BTreeSet<Ticket> = parts.iter().map(|part| part.ticket).collect();
        assert_eq!(tickets.len(), parts.len(), "twice in one step");
        let movable = |ticket: &Ticket| ready(*ticket);
        assert!(
            tickets.iter().all(movable),
            "who cannot take a token is left out"
        );
        let mut able = self.planner.active.keys().filter(|ticket| movable(ticket));
        assert!(!parts.is_empty() || able.next().is_none(), "an idle step");
        for (ticket, active) in &self.planner.active {
            let decodes = active.arrival.ids.len() - active.fed == 1;
            let left_out = decodes && ready(*ticket) && !tickets.contains(ticket);
            assert!(!left_out, "{ticket:?} needs one id and is left out");
        }
        for part in &parts {
            self.compute(part);
        }
        parts
    }

    fn compute(&mut self, part: &Part) {
        let life = self.lives.get_mut(&part.ticket).expect("a generation");
        let run = self.planner.run(part).expect("a run");
        assert!(run.blocks.len() == Blocks::needed(life.known + life.more));
        assert_eq!((run.ids.len(), run.logits), (part.range.len(), part.last));
        // Only the prefix cache may skip ids, and only at the beginning.
        let fed = life.fed.replace(part.range.end);
        assert!(fed.is_none_or(|fed| fed == part.range.start));
        assert_eq!(part.last, part.range.end == life.known);
        *self.served.entry(life.owner).or_default() += part.range.len();
        self.planner.computed(part);
        if !part.last {
            return;
        }
        if life.more <= 1 {
            return self.remove(part.ticket);
        }
        life.known += 1;
        life.more -= 1;
        self.planner.push(part.ticket, 0);
    }

    /// Until everybody has ended, in as many steps as there are tokens at most.
    fn finish(&mut self) {
        let tokens: usize = self.lives.values().map(|life| life.known + life.more).sum();
        for _ in 0..tokens {
            self.step(|_| true);
        }
        assert!(self.lives.is_empty(), "{} did not end", self.lives.len());
        assert!(self.planner.active.is_empty() && self.planner.waiting.is_empty());
        assert!(self.planner.accounts.is_empty());
    }
}

const CLASSES: [Priority; 4] = [
    Priority::Crisis,
    Priority::Interactive,
    Priority::Workflow,
    Priority::Sync,
];

#[derive(Debug, Clone)]
enum Op {
    Add {
        owner: u128,
        class: usize,
        prompt: usize,
        more: usize,
    },
    Remove {
        which: usize,
    },
    /// Bit by bit, who cannot take a token.
    Step {
        seconds: u64,
        paused: u8,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..4u128, 0..4usize, 1..90usize, 1..30usize)
            .prop_map(|(owner, class, prompt, more)| Op::Add { owner, class, prompt, more }),
        1 => any::<usize>().prop_map(|which| Op::Remove { which }),
        8 => (0..8u64, any::<u8>()).prop_map(|(seconds, paused)| Op::Step { seconds, paused }),
    ]
}

proptest! {
    #[test]
    fn steps_keep_the_rules_and_everybody_ends(
        blocks in 8..40u32,
        max_active in 1..7usize,
        step_tokens in 1..64usize,
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let mut machine = Machine::new(blocks, max_active, step_tokens);
        for op in ops {
            match op {
                Op::Add { owner, class, prompt, more } => {
                    // Equal ids, so that owners meet their own prefixes.
                    machine.add(owner, CLASSES[class], vec![1; prompt], more);
                }
                Op::Remove { which } => {
                    let nth = which % machine.lives.len().max(1);
                    if let Some(ticket) = machine.lives.keys().nth(nth).copied() {
                        machine.remove(ticket);
                    }
                }
                Op::Step { seconds, paused } => {
                    machine.now += Duration::from_secs(seconds);
                    machine.step(|ticket| paused & (1 << (ticket.0 % 8)) == 0);
                }
            }
        }
        machine.finish();
        prop_assert_eq!(machine.planner.blocks.unowned(), blocks as usize, "the pool is whole");
    }
}

#[test]
fn who_needs_one_id_comes_first_and_prompts_take_what_is_left() {
    let mut machine = Machine::new(100, 4, 8);
    let short = machine.add(1, Priority::Sync, vec![1], 20);
    let long = machine.add(2, Priority::Crisis, vec![2; 20], 2);
    let lengths = |parts: Vec<Part>| -> Vec<(Ticket, usize, bool)> {
        let part = |part: Part| (part.ticket, part.range.len(), part.last);
        parts.into_iter().map(part).collect()
    };
    for (chunk, last) in [(7, false), (7, false), (6, true)] {
        let parts = lengths(machine.step(|_| true));
        assert_eq!(parts, [(short, 1, true), (long, chunk, last)]);
    }
    // Now both need one, and the class counts.
    let parts = lengths(machine.step(|_| true));
    assert_eq!(parts, [(long, 1, true), (short, 1, true)]);
}

#[test]
fn classes_go_in_order() {
    let mut machine = Machine::new(100, 1, 8);
    let tickets: Vec<Ticket> = (0..)
        .zip(CLASSES.into_iter().rev())
        .map(|(owner, class)| machine.add(owner, class, vec![1], 1))
        .collect();
    let order: Vec<Ticket> = (0..4).map(|_| machine.step(|_| true)[0].ticket).collect();
    assert!(order.iter().eq(tickets.iter().rev()));
}

#[test]
fn nobody_starves_however_many_come_before() {
    for class in CLASSES {
        let mut machine = Machine::new(100, 3, 8);
        // Two that hold their places: whoever comes new counts as little as the first had, and
        // always goes before the owner of the second.
        let light = machine.add(1, Priority::Crisis, vec![1], 1);
        let heavy = machine.add(0, Priority::Crisis, vec![2; 100], 1);
        let moves = |ticket| ticket != light && ticket != heavy;
        machine.step(moves);
        let patient = machine.add(0, class, vec![3], 1);
        let began = machine.now;
        for newcomer in (2..).step_by(2) {
            // More urgent ones than there are steps, each of an owner who had nothing yet.
            for owner in [newcomer, newcomer + 1] {
                let ids = machine.fresh(4);
                machine.add(owner, Priority::Crisis, ids, 1);
            }
            machine.step(moves);
            if !machine.lives.contains_key(&patient) {
                break;
            }
            machine.now += Duration::from_secs(1);
        }
        assert_eq!(machine.now - began, (class as u32 + 1) * AGE, "{class:?}");
    }
}

#[test]
fn owners_get_equal_shares_of_tokens_whatever_they_ask() {
    for (prompt, more) in [(10, 10), (60, 4), (4, 60)] {
        let mut machine = Machine::new(400, 4, 32);
        // The first has everything in the queue before the second comes with longer ones.
        for (owner, count, times) in [(1, 120, 1), (2, 40, 3)] {
            for _ in 0..count {
                let ids = machine.fresh(prompt * times);
                machine.add(owner, Priority::Interactive, ids, more * times);
            }
        }
        let longest = 3 * (prompt + more);
        let waits = |machine: &Machine, owner| {
            let mut waiting = machine.planner.waiting.values();
            waiting.any(|arrival| arrival.owner == owner)
        };
        while waits(&machine, 1) && waits(&machine, 2) {
            machine.step(|_| true);
            let served = |owner| machine.served.get(&owner).copied().unwrap_or(0);
            // What all places hold may go to one of them; no more.
            let apart = served(1).abs_diff(served(2));
            assert!(
                apart <= 4 * longest,
                "{prompt} {more}: {:?}",
                machine.served
            );
        }
        let least = machine.served.values().min().copied().unwrap_or(0);
        assert!(least > 10 * longest, "{:?}", machine.served);
        machine.finish();
    }
}

#[test]
fn who_needs_many_blocks_is_not_overtaken() {
    let mut machine = Machine::new(4, 4, 64);
    let first = machine.add(1, Priority::Interactive, vec![1; 8], 20);
    machine.step(|_| true);
    let large = machine.add(2, Priority::Interactive, vec![2; 20], 40);
    let small = machine.add(2, Priority::Interactive, vec![3], 1);
    machine.step(|_| true);
    let is_active = |machine: &Machine, ticket| machine.planner.active.contains_key(&ticket);
    assert!(is_active(&machine, first));
    assert!(!is_active(&machine, large) && !is_active(&machine, small));
    machine.remove(first);
    machine.step(|_| true);
    assert!(is_active(&machine, large) && !is_active(&machine, small));
    machine.finish();
}
