//! Keys and values of the positions that sequences have been through.

use super::lanes::LANES;
use crate::error::Error;
use crate::kv::{BLOCK, Block};
use crate::model::Config;

/// The memory of all blocks, laid out as attention reads one head in one block: the keys
/// component by component, `[layers, blocks, heads, head_dim, BLOCK]`, so that sixteen scores are
/// computed at once; the values position by position, `[layers, blocks, heads, BLOCK, width]`,
/// where the width is `head_dim` and zeros that fill the last lanes.
#[derive(Debug)]
pub(super) struct KvMemory {
    keys: Vec<f32>,
    values: Vec<f32>,
    heads: usize,
    head_dim: usize,
    width: usize,
    blocks: u32,
}

/// One head of a sequence in one layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pages<'a> {
    pub(super) layer: usize,
    pub(super) head: usize,
    pub(super) blocks: &'a [Block],
}

/// Components of the values of one head in one block.
#[derive(Clone, Copy)]
pub(super) struct Values<'a> {
    lanes: &'a [[f32; LANES]],
    each: usize,
}

impl<'a> Values<'a> {
    /// Those of one position, from the component on that was asked for.
    #[inline(always)]
    pub(super) fn at(self, position: usize) -> &'a [[f32; LANES]] {
        &self.lanes[position * self.each..]
    }
}

fn width(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES)
}

/// Bytes of the keys and values of one block in all layers.
pub fn block_bytes(config: &Config) -> usize {
    config.num_hidden_layers
        * config.num_key_value_heads
        * (config.head_dim + width(config.head_dim))
        * BLOCK
        * size_of::<f32>()
}

impl KvMemory {
    /// # Errors
    /// [`Error::Backend`] when the memory cannot be had.
    pub(super) fn new(config: &Config, blocks: u32) -> Result<Self, Error> {
        let (layers, heads) = (config.num_hidden_layers, config.num_key_value_heads);
        Self::of_shape(layers, heads, config.head_dim, blocks)
    }

    pub(super) fn of_shape(
        layers: usize,
        heads: usize,
        head_dim: usize,
        blocks: u32,
    ) -> Result<Self, Error> {
        let zeros = |each: usize| {
            let numbers = (layers * heads * BLOCK * each).checked_mul(blocks as usize)?;
            // Asked for first, since `vec!` aborts where there is none; but `vec!` gets pages that
            // the system fills at their first use, so that what is never used costs nothing.
            Vec::<f32>::new().try_reserve_exact(numbers).ok()?;
            Some(vec![0.0; numbers])
        };
        let width = width(head_dim);
        let (Some(keys), Some(values)) = (zeros(head_dim), zeros(width)) else {
            return Err(Error::Backend(format!(
                "no memory for {blocks} blocks of {BLOCK} positions"
            )));
        };
        Ok(Self {
            keys,
            values,
            heads,
            head_dim,
            width,
            blocks,
        })
    }

    pub(super) fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Writes one position of one layer of the sequence in `blocks`; `keys` and `values` are
    /// `[heads * head_dim]`.
    pub(super) fn write(
        &mut self,
        layer: usize,
        blocks: &[Block],
        position: usize,
        keys: &[f32],
        values: &[f32],
    ) {
        let (block, within) = (position / BLOCK, position % BLOCK);
        let (head_dim, width) = (self.head_dim, self.width);
        let heads = keys
            .chunks_exact(head_dim)
            .zip(values.chunks_exact(head_dim));
        for (head, (key, value)) in heads.enumerate() {
            let place = self.place(
                Pages {
                    layer,
                    head,
                    blocks,
                },
                block,
            );
            let keys = &mut self.keys[place * head_dim..][..head_dim * BLOCK];
            for (to, number) in keys.iter_mut().skip(within).step_by(BLOCK).zip(key) {
                *to = *number;
            }
            self.values[place * width + within * width..][..head_dim].copy_from_slice(value);
        }
    }

    /// Keys in the sequence's `block`th block, component by component.
    #[inline(always)]
    pub(super) fn keys(&self, pages: Pages<'_>, block: usize) -> &[[f32; BLOCK]] {
        let start = self.place(pages, block) * self.head_dim;
        self.keys[start..][..self.head_dim * BLOCK].as_chunks().0
    }

    /// Values in the sequence's `block`th block, from component `first` on, which begins a lane.
    #[inline(always)]
    pub(super) fn values(&self, pages: Pages<'_>, block: usize, first: usize) -> Values<'_> {
        let start = self.place(pages, block) * self.width;
        Values {
            lanes: self.values[start + first..start + self.width * BLOCK]
                .as_chunks()
                .0,
            each: self.width / LANES,
        }
    }

    /// Positions before those of a head in a block of a layer.
    #[inline(always)]
    fn place(&self, pages: Pages<'_>, block: usize) -> usize {
        let block = pages.layer * self.blocks as usize + pages.blocks[block].0 as usize;
        (block * self.heads + pages.head) * BLOCK
    }
}
