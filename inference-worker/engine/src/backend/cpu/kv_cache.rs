//! Keys and values of the positions that a sequence has been through.

use crate::error::Error;
use crate::model::Config;

/// The key-value cache of one sequence: one contiguous reservation, so that attention reads each
/// head's keys in order. Shared blocks of positions would replace this type and nothing else.
#[derive(Debug)]
pub struct KvCache {
    keys: Vec<f32>,
    values: Vec<f32>,
    heads: usize,
    head_dim: usize,
    capacity: usize,
    length: usize,
}

impl KvCache {
    /// Room for `capacity` positions.
    ///
    /// # Errors
    /// [`Error::Backend`] when the memory cannot be had.
    pub fn new(config: &Config, capacity: usize) -> Result<Self, Error> {
        let (heads, head_dim) = (config.num_key_value_heads, config.head_dim);
        let size = [config.num_hidden_layers, heads, capacity, head_dim]
            .into_iter()
            .try_fold(1usize, usize::checked_mul);
        let reserve = || {
            let mut memory = Vec::new();
            memory.try_reserve_exact(size?).ok()?;
            memory.resize(size?, 0.0);
            Some(memory)
        };
        match (reserve(), reserve()) {
            (Some(keys), Some(values)) => Ok(Self {
                keys,
                values,
                heads,
                head_dim,
                capacity,
                length: 0,
            }),
            _ => Err(Error::Backend(format!(
                "no memory for a cache of {capacity} positions"
            ))),
        }
    }

    /// Positions stored.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether no position is stored.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Positions that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes positions written so far part of the sequence.
    pub(super) fn advance(&mut self, positions: usize) {
        self.length += positions;
    }

    /// Writes one position of one layer; `keys` and `values` are `[heads * head_dim]`.
    pub(super) fn write(&mut self, layer: usize, position: usize, keys: &[f32], values: &[f32]) {
        for head in 0..self.heads {
            let from = head * self.head_dim..(head + 1) * self.head_dim;
            let start = self.start(layer, head) + position * self.head_dim;
            let to = start..start + self.head_dim;
            self.keys[to.clone()].copy_from_slice(&keys[from.clone()]);
            self.values[to].copy_from_slice(&values[from]);
        }
    }

    /// Keys and values of the first `length` positions of one head, `[length * head_dim]` each.
    pub(super) fn read(&self, layer: usize, head: usize, length: usize) -> (&[f32], &[f32]) {
        let start = self.start(layer, head);
        let range = start..start + length * self.head_dim;
        (&self.keys[range.clone()], &self.values[range])
    }

    fn start(&self, layer: usize, head: usize) -> usize {
        (layer * self.heads + head) * self.capacity * self.head_dim
    }
}
