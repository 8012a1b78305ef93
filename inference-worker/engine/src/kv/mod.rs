//! Which block of the key-value memory belongs to whom. Bookkeeping only: the numbers themselves
//! lie in a backend.
//!
//! Memory is handed out in blocks of [`BLOCK`] positions, and a generation gets the blocks of its
//! whole lifetime at once ([`Blocks::admit`]): it never runs out midway, and nobody is preempted.
//!
//! A full block is named by a hash chained over the salt and every id up to its end
//! ([`Blocks::computed`]). Who begins with the same ids under the same salt gets the named blocks
//! instead of fresh ones, also after their owner has gone, until the memory is needed: what was
//! left longest ago goes first. A block is written only by the one [`Pages`] that got it fresh,
//! and named only when it is full, so that what is shared is never written.

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest, Sha256};

/// Positions of a block.
pub const BLOCK: usize = 16;

/// The number of a block in the memory of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block(pub u32);

/// Names a block's contents: collisions would show one user's text to another, hence SHA-256.
type Name = [u8; 32];

#[derive(Debug, Clone, Default)]
struct Slot {
    /// How many [`Pages`] hold it.
    owners: usize,
    name: Option<Name>,
    /// When the last owner left, by `Blocks::departures`.
    left: u64,
}

/// All blocks of one backend.
#[derive(Debug)]
pub struct Blocks {
    slots: Vec<Slot>,
    /// Neither owned nor named.
    empty: Vec<Block>,
    /// Named and not owned, by when they were left.
    idle: BTreeMap<u64, Block>,
    named: HashMap<Name, Block>,
    departures: u64,
}

/// The blocks of one generation, in the order of its positions. Given back with
/// [`Blocks::release`].
#[derive(Debug)]
#[must_use = "blocks that are not released are lost"]
pub struct Pages {
    blocks: Vec<Block>,
    /// Leading blocks that have a name and are not written any more.
    named: usize,
    /// The name of the last of them, or of the salt.
    chain: Name,
}

impl Pages {
    /// The blocks, in the order of the positions.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Positions that need not be computed: full, and either found at admission or
    /// [computed](Blocks::computed) since.
    pub fn settled(&self) -> usize {
        self.named * BLOCK
    }
}

impl Blocks {
    /// `count` empty blocks.
    pub fn new(count: u32) -> Self {
        Self {
            slots: vec![Slot::default(); count as usize],
            // The lowest numbers go first, so that memory is touched from its beginning.
            empty: (0..count).rev().map(Block).collect(),
            idle: BTreeMap::new(),
            named: HashMap::new(),
            departures: 0,
        }
    }

    /// Blocks that `positions` fill.
    pub fn needed(positions: usize) -> usize {
        positions.div_ceil(BLOCK)
    }

    /// Blocks without an owner.
    pub fn unowned(&self) -> usize {
        self.empty.len() + self.idle.len()
    }

    /// Reserves room for `positions`, of which `ids` are known. Leading blocks of the same ids
    /// under the same salt are shared; at least the last id is left to compute, since the next
    /// one is chosen from its logits. `None` where the room is not there: then nothing changes.
    pub fn admit(&mut self, salt: u128, ids: &[u32], positions: usize) -> Option<Pages> {
        let needed = Self::needed(positions.max(ids.len()));
        let shareable = ids.len().saturating_sub(1) / BLOCK;
        // Before anything is hashed: whoever waits asks again at every step.
        if needed - shareable > self.unowned() {
            return None;
        }
        let mut chain = root(salt);
        let mut blocks = Vec::with_capacity(needed);
        for full in ids.chunks_exact(BLOCK).take(shareable) {
            let name = link(&chain, full);
            let Some(block) = self.named.get(&name) else {
                break;
            };
            blocks.push(*block);
            chain = name;
        }
        let named = blocks.len();
        let idle = blocks
            .iter()
            .filter(|block| self.slots[block.0 as usize].owners == 0)
            .count();
        if needed - named > self.unowned() - idle {
            return None;
        }
        for block in &blocks {
            let slot = &mut self.slots[block.0 as usize];
            if slot.owners == 0 {
                self.idle.remove(&slot.left);
            }
            slot.owners += 1;
        }
        blocks.extend(std::iter::from_fn(|| self.take()).take(needed - named));
        Some(Pages {
            blocks,
            named,
            chain,
        })
    }

    /// Names the blocks that are full now that the first `count` of `ids` are computed, so that
    /// others find them.
    pub fn computed(&mut self, pages: &mut Pages, ids: &[u32], count: usize) {
        let full = ids[..count].chunks_exact(BLOCK).skip(pages.named);
        for (block, full) in pages.blocks[pages.named..].iter().zip(full) {
            pages.chain = link(&pages.chain, full);
            pages.named += 1;
            // Somebody else may have computed the same meanwhile; then this block has no name.
            self.named.entry(pages.chain).or_insert_with(|| {
                self.slots[block.0 as usize].name = Some(pages.chain);
                *block
            });
        }
    }

    /// Gives the blocks of a generation back.
    pub fn release(&mut self, pages: Pages) {
        // The last block first: a chain is found from its beginning, so its end goes first.
        for block in pages.blocks.into_iter().rev() {
            let slot = &mut self.slots[block.0 as usize];
            slot.owners -= 1;
            if slot.owners > 0 {
                continue;
            }
            if slot.name.is_none() {
                self.empty.push(block);
                continue;
            }
            self.departures += 1;
            slot.left = self.departures;
            self.idle.insert(slot.left, block);
        }
    }

    /// A block for one owner, without contents.
    fn take(&mut self) -> Option<Block> {
        let block = match self.empty.pop() {
            Some(block) => block,
            None => self.idle.pop_first()?.1,
        };
        let slot = &mut self.slots[block.0 as usize];
        slot.owners = 1;
        if let Some(name) = slot.name.take() {
            self.named.remove(&name);
        }
        Some(block)
    }
}

/// Where the chains of a salt begin.
fn root(salt: u128) -> Name {
    Sha256::digest(salt.to_le_bytes()).into()
}

/// The name of a block of `ids` after the block named `before`.
fn link(before: &Name, ids: &[u32]) -> Name {
    let mut hash = Sha256::new();
    hash.update(before);
    for id in ids {
        hash.update(id.to_le_bytes());
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests;
