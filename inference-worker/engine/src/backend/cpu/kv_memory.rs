//! Keys and values of the positions that sequences have been through.

use crate::error::Error;
use crate::kv::{BLOCK, Block};
use crate::model::Config;

/// The memory of all blocks, laid out so that attention reads the keys of one head in one block
/// in order: `[layers, blocks, heads, BLOCK, head_dim]`.
#[derive(Debug)]
pub(super) struct KvMemory {
    keys: Vec<f32>,
    values: Vec<f32>,
    heads: usize,
    head_dim: usize,
    blocks: u32,
}

/// Bytes of the keys and values of one block in all layers.
pub fn block_bytes(config: &Config) -> usize {
    config.num_hidden_layers
        * config.num_key_value_heads
        * config.head_dim
        * BLOCK
        * 2
        * size_of::<f32>()
}

impl KvMemory {
    /// # Errors
    /// [`Error::Backend`] when the memory cannot be had.
    pub(super) fn new(config: &Config, blocks: u32) -> Result<Self, Error> {
        let bytes = block_bytes(config).checked_mul(blocks as usize);
        let half = || {
            let numbers = bytes? / 2 / size_of::<f32>();
            // Asked for first, since `vec!` aborts where there is none; but `vec!` gets pages that
            // the system fills at their first use, so that what is never used costs nothing.
            Vec::<f32>::new().try_reserve_exact(numbers).ok()?;
            Some(vec![0.0; numbers])
        };
        let (Some(keys), Some(values)) = (half(), half()) else {
            return Err(Error::Backend(format!(
                "no memory for {blocks} blocks of {BLOCK} positions"
            )));
        };
        Ok(Self {
            keys,
            values,
            heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            blocks,
        })
    }

    pub(super) fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Writes one position of one layer of the sequence in `pages`; `keys` and `values` are
    /// `[heads * head_dim]`.
    pub(super) fn write(
        &mut self,
        layer: usize,
        pages: &[Block],
        position: usize,
        keys: &[f32],
        values: &[f32],
    ) {
        let (block, within) = (pages[position / BLOCK], position % BLOCK);
        let heads = keys
            .chunks_exact(self.head_dim)
            .zip(values.chunks_exact(self.head_dim));
        for (head, (key, value)) in heads.enumerate() {
            let start = self.start(layer, block, head) + within * self.head_dim;
            let to = start..start + self.head_dim;
            self.keys[to.clone()].copy_from_slice(key);
            self.values[to].copy_from_slice(value);
        }
    }

    /// Keys and values of one head at the first `length` positions in `pages`, block after block,
    /// `[positions, head_dim]` each.
    pub(super) fn read(
        &self,
        layer: usize,
        head: usize,
        pages: &[Block],
        length: usize,
    ) -> impl Iterator<Item = (&[f32], &[f32])> {
        (0..length).step_by(BLOCK).map(move |position| {
            let start = self.start(layer, pages[position / BLOCK], head);
            let positions = BLOCK.min(length - position);
            let range = start..start + positions * self.head_dim;
            (&self.keys[range.clone()], &self.values[range])
        })
    }

    fn start(&self, layer: usize, block: Block, head: usize) -> usize {
        let block = layer * self.blocks as usize + block.0 as usize;
        (block * self.heads + head) * BLOCK * self.head_dim
    }
}
