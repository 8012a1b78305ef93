//! The CUDA backend: bf16 weights, keys and values, sums in f32, on the first NVIDIA device.
//!
//! Everything happens on one stream, begun by the scheduler's one thread. A step is described by a
//! [`plan`] that is copied first; then [`step`] begins the kernels. Steps in which each sequence
//! computes one id are filled up to a bucket, and recorded as a graph when a bucket comes for the
//! second time, so that later ones begin hundreds of kernels with one call. Products with few inputs
//! are kernels of our own, bound by reading the weights once; those with many go to [`blas`]. Scores
//! stay on the device but for what choosing needs. `kernels/NOTES.md` says why the kernels are as
//! they are.

mod blas;
mod compiler;
mod device;
mod kernels;
mod machine;
mod plan;
mod step;
mod weights;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};

use self::blas::Blas;
use self::compiler::Kernels;
use self::device::{Device, failed, guarded};
use self::kernels::{KEPT, SUMMARY, Shape};
use self::machine::Gpu;
use self::plan::{Limits, Plan};
use self::step::{Buffers, Parts, Positions, layer_bytes, splits};
use self::weights::DeviceWeights;
use super::{Backend, Run, Summarising, Summary, check};
use crate::error::Error;
use crate::kv::{BLOCK, Blocks};
use crate::model::{Config, Model};

/// Single ids are filled up to the next of these.
const BUCKETS: [usize; 14] = [1, 2, 3, 4, 5, 6, 7, 8, 16, 24, 32, 64, 128, 256];
/// Of what is free, so much is left to the driver and its libraries: a twentieth, at least this.
const LEFT: usize = 512 << 20;

/// Limits of a device's memory and steps.
#[derive(Debug, Clone)]
pub struct Room {
    /// Positions of a sequence at most.
    pub context: usize,
    /// Sequences in a step at most.
    pub sequences: usize,
    /// Ids in a step at most, those of all sequences.
    pub step_tokens: usize,
    /// Where compiled kernels are kept.
    pub cache: Option<PathBuf>,
}

/// What became of a bucket.
enum Recorded {
    /// It came once, and what it needs is prepared.
    Prepared,
    Graph(CudaGraph),
}

/// A model on a device, and the keys and values of sequences.
pub struct Cuda {
    /// By rows, and parts of the longest sequence.
    graphs: HashMap<(usize, usize), Recorded>,
    record: bool,
    plan: Plan,
    parts: Parts<Gpu>,
    blocks: u32,
    /// Why nothing can be computed any more.
    lost: Option<String>,
}

// SAFETY: graphs and handles of libraries may be used by one thread at a time, whichever it is, as
// long as the context is its own, which each step sees to.
unsafe impl Send for Cuda {}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cuda")
            .field("device", self.device())
            .finish_non_exhaustive()
    }
}

/// Why this machine cannot compute on an NVIDIA device; none where it seems it can.
pub fn absence() -> Option<&'static str> {
    device::absence()
}

impl Cuda {
    /// Compiles the kernels, copies the weights, and gets memory for keys and values: as many of the
    /// longest sequences as there may be, as far as the free memory goes.
    ///
    /// # Errors
    /// [`Error::Backend`] for models that the kernels do not fit, [`Error::Device`] for all that is
    /// wrong with the device, its driver and its libraries, with what the driver says.
    pub fn new(model: &Model, room: &Room) -> Result<Self, Error> {
        if let Some(reason) = absence() {
            return Err(Error::Device(reason.into()));
        }
        guarded(|| Self::open(model, room))
    }

    fn open(model: &Model, room: &Room) -> Result<Self, Error> {
        let config = model.config().clone();
        let shape = Shape::of(&config)?;
        let device = Device::open()?;
        let sequences = bucket(room.sequences);
        let rows = room.step_tokens.max(sequences);
        let limits = Limits::new(shape, rows, sequences, Blocks::needed(room.context));
        let sums = rows.next_multiple_of(blas::ROUNDED) * config.hidden_size;
        let machine = Gpu {
            kernels: Kernels::load(&device, shape, room.cache.as_deref())?,
            blas: RefCell::new(Blas::new(&device, sums)?),
            device,
        };
        let weights = DeviceWeights::new(&machine, model)?;
        let buffers = Buffers::new(&machine, &config, shape, &limits)?;
        let blocks = blocks(&machine.device, &config, shape, room)?;
        let of = (blocks as usize, room.context);
        let positions = Positions::new(&machine, &config, shape, of)?;
        tracing::info!(
            machine.device.name,
            machine.device.arch,
            kv_blocks = blocks,
            "the model is on the device"
        );
        Ok(Self {
            graphs: HashMap::new(),
            record: true,
            plan: Plan::default(),
            parts: Parts {
                config,
                shape,
                limits,
                weights,
                positions,
                buffers,
                machine,
            },
            blocks,
            lost: None,
        })
    }

    fn device(&self) -> &Device {
        &self.parts.machine.device
    }

    /// The same, beginning every kernel anew in every step.
    #[must_use]
    pub fn without_graphs(mut self) -> Self {
        self.record = false;
        self
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.device().name
    }

    /// Bytes that the device copies from one place to another in a second, read and written: what
    /// nothing on it can exceed.
    ///
    /// # Errors
    /// [`Error::Device`], also where there is no memory for it.
    pub fn copied_per_second(&mut self) -> Result<f64, Error> {
        self.keep_loss(|cuda| {
            cuda.device().enter()?;
            cuda.device().copied_per_second()
        })
    }

    /// Begins a step; `tempered` are the temperatures of summaries that are wanted too.
    fn begin(&mut self, runs: &[Run<'_>], tempered: Option<&[f32]>) -> Result<(), Error> {
        if let Some(reason) = &self.lost {
            return Err(Error::Device(reason.clone()));
        }
        let vocabulary = self.parts.config.vocab_size;
        runs.iter()
            .try_for_each(|run| check(run, vocabulary, self.blocks))?;
        let parts = &self.parts;
        self.plan.set(&parts.limits, parts.shape, runs, &BUCKETS)?;
        if let Some(temperatures) = tempered {
            self.plan.set_temperatures(&self.parts.limits, temperatures);
        }
        self.keep_loss(|cuda| {
            cuda.device().enter()?;
            let plan = cuda.plan.numbers();
            cuda.device().put_later(&cuda.parts.buffers.plan, plan)?;
            cuda.compute()?;
            match tempered.map_or(0, <[f32]>::len) {
                0 => Ok(()),
                wanted => cuda.parts.summarise(wanted),
            }
        })
    }

    /// A device that failed once is not asked again: what it would say then means nothing.
    fn keep_loss<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let done = guarded(|| work(self));
        if let Err(Error::Device(reason)) = &done {
            self.lost = Some(reason.clone());
        }
        done
    }

    fn compute(&mut self) -> Result<(), Error> {
        if !self.plan.decoding || !self.record {
            return self.parts.begin(&self.plan);
        }
        let key = (self.plan.rows, splits(self.plan.longest));
        match self.graphs.get(&key) {
            Some(Recorded::Graph(graph)) => graph.launch().map_err(failed("starting a graph")),
            Some(Recorded::Prepared) => {
                let graph = self.capture()?;
                let launched = graph.launch().map_err(failed("starting a graph"));
                self.graphs.insert(key, Recorded::Graph(graph));
                launched
            }
            None => {
                self.parts.begin(&self.plan)?;
                self.graphs.insert(key, Recorded::Prepared);
                Ok(())
            }
        }
    }

    /// Records the step as a graph. Nothing is computed by that.
    fn capture(&mut self) -> Result<CudaGraph, Error> {
        let recording = failed("recording a graph");
        let stream = &self.device().stream;
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).map_err(&recording)?;
        let begun = self.parts.begin(&self.plan);
        // Ended in any case, or the stream would stay in it.
        let graph = stream.end_capture(CUgraphInstantiate_flags(0));
        begun?;
        let nothing = || Error::Device("nothing was recorded".into());
        graph.map_err(&recording)?.ok_or_else(nothing)
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // What it holds is freed by whichever thread drops it.
        let _ = guarded(|| self.device().enter());
    }
}

impl Backend for Cuda {
    fn blocks(&self) -> u32 {
        self.blocks
    }

    fn step(&mut self, runs: &[Run<'_>], logits: &mut Vec<f32>) -> Result<(), Error> {
        self.begin(runs, None)?;
        let wanted = runs.iter().filter(|run| run.logits).count();
        logits.resize(wanted * self.parts.config.vocab_size, 0.0);
        // An empty copy waits too: what went wrong is told now.
        self.keep_loss(|cuda| {
            let parts = &cuda.parts;
            parts.machine.device.get(&parts.buffers.scores, 0, logits)
        })
    }

    fn summarising(&mut self) -> Option<&mut dyn Summarising> {
        Some(self)
    }
}

impl Summarising for Cuda {
    fn step(
        &mut self,
        runs: &[Run<'_>],
        temperatures: &[f32],
        summaries: &mut Vec<Summary>,
    ) -> Result<(), Error> {
        self.begin(runs, Some(temperatures))?;
        let wanted = temperatures.len();
        let mut ids = vec![0u32; wanted * KEPT];
        let mut best = vec![0f32; wanted * KEPT];
        let mut whole = vec![0f32; wanted * SUMMARY];
        self.keep_loss(|cuda| {
            let (device, buffers) = (cuda.device(), &cuda.parts.buffers);
            device.get(&buffers.ids, 0, &mut ids)?;
            device.get(&buffers.best, 0, &mut best)?;
            device.get(&buffers.whole, 0, &mut whole)
        })?;
        summaries.clear();
        let rows = ids.chunks_exact(KEPT).zip(best.chunks_exact(KEPT));
        for ((ids, best), whole) in rows.zip(whole.chunks_exact(SUMMARY)) {
            summaries.push(summary(ids, best, whole));
        }
        Ok(())
    }

    fn scores(&mut self, row: usize, scores: &mut Vec<f32>) -> Result<(), Error> {
        let vocabulary = self.parts.config.vocab_size;
        scores.resize(vocabulary, 0.0);
        self.keep_loss(|cuda| {
            let parts = &cuda.parts;
            let start = row * vocabulary * size_of::<f32>();
            parts
                .machine
                .device
                .get(&parts.buffers.scores, start, scores)
        })
    }
}

fn summary(ids: &[u32], best: &[f32], whole: &[f32]) -> Summary {
    let possible = best.iter().position(|score| *score == f32::NEG_INFINITY);
    let count = possible.unwrap_or(best.len());
    let best = ids.iter().copied().zip(best.iter().copied());
    Summary {
        best: best.take(count).collect(),
        complete: possible.is_some(),
        sum: f64::from(whole[1]),
        tempered: f64::from(whole[2]),
        strange: whole[3] as usize,
    }
}

/// The bucket of so many single ids.
fn bucket(sequences: usize) -> usize {
    let bucket = BUCKETS.iter().find(|bucket| **bucket >= sequences);
    bucket.copied().unwrap_or(sequences)
}

/// Blocks that fit beside the weights: as many of the longest sequences as there may be, or less.
fn blocks(device: &Device, config: &Config, shape: Shape, room: &Room) -> Result<u32, Error> {
    let free = device.free()?;
    let tables = 2 * room.context * config.head_dim / 2 * size_of::<f32>();
    let usable = free.saturating_sub(LEFT.max(free / 20) + tables);
    let each = 2 * config.num_hidden_layers * layer_bytes(shape, 1);
    let useful = room.sequences.saturating_mul(Blocks::needed(room.context));
    let blocks = useful.min(usable / each);
    if blocks == 0 {
        return Err(Error::Device(format!(
            "{free} bytes are free beside the weights: none for keys and values, a block of \
             {BLOCK} positions takes {each}"
        )));
    }
    Ok(u32::try_from(blocks).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests;
