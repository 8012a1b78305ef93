//! The CPU backend, the reference that other backends are compared with.
//!
//! The ids of a step, of however many sequences, pass through the layers together: every
//! projection is one product over all of them, attention runs per head over the blocks of each
//! id's own sequence. No result depends on what else is in the step.

mod attention;
mod elementwise;
mod kv_memory;
mod lanes;
mod matmul;
mod pool;
pub(super) mod rope;
mod step;
mod table;

use std::fmt;
use std::num::NonZeroUsize;

pub use kv_memory::block_bytes;
pub use matmul::Precision;

use self::kv_memory::KvMemory;
use self::lanes::Kernel;
use self::matmul::Multiplier;
use self::pool::Pool;
use self::rope::Rope;
use self::step::{Buffers, Step};
use super::{Backend, Run, check};
use crate::error::Error;
use crate::model::Model;

/// A model, the threads that compute it, and the keys and values of sequences.
pub struct Cpu {
    model: Model,
    rope: Rope,
    pool: Pool,
    kernel: Kernel,
    multiplier: Multiplier,
    buffers: Buffers,
    memory: KvMemory,
}

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cpu")
            .field("kernel", &self.kernel)
            .finish_non_exhaustive()
    }
}

impl Cpu {
    /// Starts the threads and gets the memory of `blocks` blocks; `threads` counts the caller's
    /// own, all available cores when absent.
    ///
    /// # Errors
    /// [`Error::Thread`], [`Error::Backend`] when the memory cannot be had.
    pub fn new(
        model: Model,
        threads: Option<NonZeroUsize>,
        precision: Precision,
        blocks: u32,
    ) -> Result<Self, Error> {
        let kernel = Kernel::detect();
        Ok(Self {
            memory: KvMemory::new(model.config(), blocks)?,
            rope: Rope::new(model.config()),
            pool: Pool::new(threads)?,
            kernel,
            multiplier: Multiplier::new(kernel, precision),
            buffers: Buffers::default(),
            model,
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }
}

impl Backend for Cpu {
    fn blocks(&self) -> u32 {
        self.memory.blocks()
    }

    fn step(&mut self, runs: &[Run<'_>], logits: &mut Vec<f32>) -> Result<(), Error> {
        let (vocabulary, held) = (self.model.config().vocab_size, self.memory.blocks());
        runs.iter()
            .try_for_each(|run| check(run, vocabulary, held))?;
        Step::new(self, runs).compute(logits);
        Ok(())
    }
}
