//! Random lives of generations, and after every step: nothing lost, nothing owned twice.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// A generation as a model of the rules sees it.
#[derive(Debug)]
struct Life {
    pages: Pages,
    salt: u128,
    ids: Vec<u32>,
    positions: usize,
    computed: usize,
}

impl Life {
    fn admit(blocks: &mut Blocks, salt: u128, ids: Vec<u32>, positions: usize) -> Option<Self> {
        let pages = blocks.admit(salt, &ids, positions)?;
        let computed = pages.settled();
        assert!(computed < ids.len(), "the last id is left to compute");
        Some(Self {
            pages,
            salt,
            ids,
            positions,
            computed,
        })
    }

    /// Computes some of what is known, and a next id where all is.
    fn advance(&mut self, blocks: &mut Blocks, count: usize, next: u32) {
        self.computed = self.ids.len().min(self.computed + count);
        blocks.computed(&mut self.pages, &self.ids, self.computed);
        if self.computed == self.ids.len() && self.ids.len() < self.positions {
            self.ids.push(next);
        }
    }
}

/// What must hold at any time, `lives` being all there are.
fn check(blocks: &Blocks, lives: &[Life]) {
    let mut owners: BTreeMap<Block, usize> = BTreeMap::new();
    let mut contents: BTreeMap<Block, (u128, &[u32])> = BTreeMap::new();
    for life in lives {
        assert_eq!(life.pages.blocks.len(), Blocks::needed(life.positions));
        for (at, block) in life.pages.blocks.iter().enumerate() {
            *owners.entry(*block).or_default() += 1;
            if at < life.pages.named {
                // Shared blocks hold the same ids under the same salt for all their owners.
                let held = (life.salt, &life.ids[..(at + 1) * BLOCK]);
                assert_eq!(*contents.entry(*block).or_insert(held), held);
            }
        }
    }
    for life in lives {
        for block in &life.pages.blocks[life.pages.named..] {
            assert_eq!(owners[block], 1, "{block:?} is written by several");
            assert_eq!(blocks.slots[block.0 as usize].name, None);
        }
    }
    let idle: BTreeSet<Block> = blocks.idle.values().copied().collect();
    let empty: BTreeSet<Block> = blocks.empty.iter().copied().collect();
    assert_eq!(
        (idle.len(), empty.len()),
        (blocks.idle.len(), blocks.empty.len())
    );
    for (number, slot) in (0..).zip(&blocks.slots) {
        let block = Block(number);
        assert_eq!(slot.owners, owners.get(&block).copied().unwrap_or(0));
        let places = usize::from(slot.owners > 0)
            + usize::from(idle.contains(&block))
            + usize::from(empty.contains(&block));
        assert_eq!(places, 1, "{block:?} is in {places} places");
        assert!(!empty.contains(&block) || slot.name.is_none());
        assert!(slot.name.is_none_or(|name| blocks.named[&name] == block));
    }
    let names = blocks
        .slots
        .iter()
        .filter(|slot| slot.name.is_some())
        .count();
    assert_eq!(names, blocks.named.len());
}

#[derive(Debug, Clone)]
enum Op {
    /// Two salts and ids of a few beginnings, so that prefixes meet.
    Admit {
        salt: u128,
        ids: Vec<u32>,
        more: usize,
    },
    Advance {
        which: usize,
        count: usize,
        next: u32,
    },
    Release {
        which: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let ids = (0..3u32, 1..70usize, 0..70usize).prop_map(|(kind, length, turn)| {
        (0..length)
            .map(|at| if at < turn { kind } else { 9 })
            .collect()
    });
    prop_oneof![
        3 => (0..2u128, ids, 0..40usize).prop_map(|(salt, ids, more)| Op::Admit { salt, ids, more }),
        5 => (any::<usize>(), 1..40usize, 0..2u32)
            .prop_map(|(which, count, next)| Op::Advance { which, count, next }),
        2 => any::<usize>().prop_map(|which| Op::Release { which }),
    ]
}

proptest! {
    #[test]
    fn no_block_is_lost_or_owned_twice(
        count in 1..24u32,
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut blocks = Blocks::new(count);
        let mut lives: Vec<Life> = Vec::new();
        for op in ops {
            let some = lives.len().max(1);
            match op {
                Op::Admit { salt, ids, more } => {
                    let positions = ids.len() + more;
                    let fits = Blocks::needed(positions) <= blocks.unowned();
                    let life = Life::admit(&mut blocks, salt, ids, positions);
                    prop_assert!(life.is_some() || !fits, "there was room");
                    lives.extend(life);
                }
                Op::Advance { which, count, next } => {
                    if let Some(life) = lives.get_mut(which % some) {
                        life.advance(&mut blocks, count, next);
                    }
                }
                Op::Release { which } if !lives.is_empty() => {
                    blocks.release(lives.swap_remove(which % some).pages);
                }
                Op::Release { .. } => {}
            }
            check(&blocks, &lives);
        }
        for life in lives.drain(..) {
            blocks.release(life.pages);
        }
        check(&blocks, &[]);
        prop_assert_eq!(blocks.unowned(), count as usize);
    }
}

/// Drives the pool to exhaustion over and over; `KV_EXHAUSTIONS` says how often.
#[test]
fn an_exhausted_pool_goes_on_when_somebody_ends() {
    let times: u32 = std::env::var("KV_EXHAUSTIONS").map_or(20_000, |times| {
        times.parse().expect("KV_EXHAUSTIONS is a number")
    });
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize % below
    };
    let (count, longest) = (40u32, 40 * BLOCK);
    let mut blocks = Blocks::new(count);
    let mut lives: Vec<Life> = Vec::new();
    let (mut exhausted, mut shared) = (0, 0);
    while exhausted < times {
        let positions = 2 + random(longest - 1);
        let length = 1 + random(positions);
        let (salt, turn) = (random(2) as u128, random(200));
        let ids: Vec<u32> = (0..length).map(|at| u32::from(at < turn)).collect();
        // Who fits at last has been refused at most as often as there were others to end.
        loop {
            if let Some(life) = Life::admit(&mut blocks, salt, ids.clone(), positions) {
                shared += life.computed;
                lives.push(life);
                break;
            }
            exhausted += 1;
            assert!(
                !lives.is_empty(),
                "an empty pool refuses {positions} positions"
            );
            let ended = lives.swap_remove(random(lives.len()));
            blocks.release(ended.pages);
        }
        let running = random(lives.len());
        lives[running].advance(&mut blocks, 1 + random(200), 0);
        if exhausted % 64 == 0 {
            check(&blocks, &lives);
        }
    }
    assert!(shared > 0, "no prefix was ever found");
    for life in lives.drain(..) {
        blocks.release(life.pages);
    }
    check(&blocks, &[]);
    assert_eq!(blocks.unowned(), count as usize, "the pool is whole");
}

fn ids(length: usize) -> Vec<u32> {
    (0..length as u32).collect()
}

/// Lives through all of `ids`.
fn compute(blocks: &mut Blocks, salt: u128, ids: &[u32]) -> Pages {
    let mut pages = blocks.admit(salt, ids, ids.len()).expect("room");
    blocks.computed(&mut pages, ids, ids.len());
    pages
}

#[test]
fn a_prefix_is_found_under_its_own_salt_only_and_up_to_the_first_difference() {
    let mut blocks = Blocks::new(32);
    let long = ids(3 * BLOCK + 1);
    let first = compute(&mut blocks, 1, &long);
    let mut settled = |salt, ids: &[u32]| {
        let pages = blocks.admit(salt, ids, ids.len()).expect("room");
        let shared: Vec<Block> = pages.blocks()[..pages.named].to_vec();
        assert_eq!(shared, first.blocks()[..shared.len()]);
        let settled = pages.settled();
        blocks.release(pages);
        settled
    };
    assert_eq!(settled(1, &long), 3 * BLOCK);
    assert_eq!(settled(2, &long), 0);
    // The last id is computed in any case.
    assert_eq!(settled(1, &long[..3 * BLOCK]), 2 * BLOCK);
    let mut other = long.clone();
    other[BLOCK] = 7;
    assert_eq!(settled(1, &other), BLOCK);
    other[0] = 7;
    assert_eq!(settled(1, &other), 0);
}

#[test]
fn what_was_left_longest_ago_goes_first_and_a_chain_from_its_end() {
    let mut blocks = Blocks::new(6);
    let (old, new) = (ids(2 * BLOCK), vec![5; 2 * BLOCK]);
    let (first, second) = (compute(&mut blocks, 0, &old), compute(&mut blocks, 0, &new));
    blocks.release(first);
    blocks.release(second);
    // Two are empty; the third is the end of the older chain.
    let filler = blocks.admit(0, &[1], 3 * BLOCK).expect("room");
    let known = |ids: &[u32]| {
        let mut chain = root(0);
        ids.chunks_exact(BLOCK)
            .take_while(|full| {
                chain = link(&chain, full);
                blocks.named.contains_key(&chain)
            })
            .count()
    };
    assert_eq!((known(&old), known(&new)), (1, 2));
    blocks.release(filler);
    assert_eq!(blocks.unowned(), 6);
}
