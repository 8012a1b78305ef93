//! Whole steps by emulation, against the CPU backend: what the host makes of a model and of runs
//! (weights side by side, plans, arguments, the order of the kernels) is the same on a device.

use std::cell::RefCell;
use std::path::Path;

use super::super::blas::Into;
use super::super::kernels::{KEPT, SOURCES, SUMMARY, Shape};
use super::super::machine::{Machine, Memory};
use super::super::plan::{Limits, Part, Plan};
use super::super::step::{Buffers, Parts, Positions};
use super::super::weights::{DeviceWeights, Product};
use super::super::{BUCKETS, summary};
use super::emulation::{APART, Call, execute};
use super::*;
use crate::backend::cpu::{Cpu, Precision};
use crate::backend::{Backend, Run, Summary};
use crate::kv::Block;
use crate::model::layout::{Wanted, layout};
use crate::model::{Config, Model, f32_to_bf16};

/// Keeps what is begun until it is run.
#[derive(Default)]
struct Emulated {
    memories: RefCell<Vec<(u64, Vec<u8>)>>,
    calls: RefCell<Vec<Call>>,
}

impl Machine for Emulated {
    fn multiprocessors(&self) -> usize {
        // Few, so that both widths of blocks are begun.
        2
    }

    fn memory(&self, bytes: usize, _: &str) -> Result<Memory, Error> {
        let mut memories = self.memories.borrow_mut();
        let address = APART * (memories.len() as u64 + 1);
        memories.push((address, vec![0; bytes]));
        Ok(Memory::new(address, bytes, |_| ()))
    }

    fn put<T: Copy>(&self, to: &Memory, start: usize, numbers: &[T]) -> Result<(), Error> {
        let length = size_of_val(numbers);
        let at = to.within(start, length)?;
        // SAFETY: as many bytes of plain numbers.
        let bytes = unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast::<u8>(), length) };
        let mut memories = self.memories.borrow_mut();
        let (address, memory) = &mut memories[(at / APART) as usize - 1];
        let start = (at - *address) as usize;
        memory[start..][..length].copy_from_slice(bytes);
        Ok(())
    }

    unsafe fn launch(
        &self,
        kernel: &str,
        grid: [usize; 3],
        threads: u32,
        arguments: &[u64],
    ) -> Result<(), Error> {
        self.calls.borrow_mut().push(Call {
            kernel: kernel.into(),
            grid,
            threads,
            arguments: arguments.into(),
        });
        Ok(())
    }

    unsafe fn multiply(&self, _: &Product, _: u64, _: usize, _: (u64, Into)) -> Result<(), Error> {
        Err(Error::Backend("cuBLASLt is not emulated".into()))
    }
}

struct Steps {
    parts: Parts<Emulated>,
    plan: Plan,
}

/// The scores, and what is said of them.
type Found = (Vec<f32>, Vec<Summary>);

const BLOCKS: usize = 12;
const CONTEXT: usize = 48;

impl Steps {
    fn new(model: &Model) -> Result<Self, Error> {
        let (machine, config) = (Emulated::default(), model.config().clone());
        let shape = Shape::of(&config)?;
        let limits = Limits::new(shape, 16, 8, CONTEXT / 16);
        Ok(Self {
            parts: Parts {
                shape,
                limits,
                weights: DeviceWeights::new(&machine, model)?,
                positions: Positions::new(&machine, &config, shape, (BLOCKS, CONTEXT))?,
                buffers: Buffers::new(&machine, &config, shape, &limits)?,
                config,
                machine,
            },
            plan: Plan::default(),
        })
    }

    /// None where there is no compiler.
    fn step(&mut self, runs: &[Run<'_>]) -> Result<Option<Found>, Error> {
        let (parts, plan) = (&self.parts, &mut self.plan);
        let wanted = runs.iter().filter(|run| run.logits).count();
        plan.set(&parts.limits, parts.shape, runs, &BUCKETS)?;
        plan.set_temperatures(&parts.limits, &vec![0.5; wanted]);
        parts.machine.put(&parts.buffers.plan, 0, plan.numbers())?;
        parts.begin(plan)?;
        parts.summarise(wanted)?;
        let calls = parts.machine.calls.take();
        let mut memories = parts.machine.memories.borrow_mut();
        if execute(&SOURCES, parts.shape, 0, &mut memories, &calls).is_none() {
            return Ok(None);
        }
        let of = |memory: &Memory| &memories[(memory.at(0) / APART) as usize - 1].1;
        let mut scores = as_floats(of(&parts.buffers.scores));
        scores.truncate(wanted * parts.config.vocab_size);
        let ids = as_floats(of(&parts.buffers.ids));
        let ids: Vec<u32> = ids.into_iter().map(f32::to_bits).collect();
        let (best, whole) = (
            as_floats(of(&parts.buffers.best)),
            as_floats(of(&parts.buffers.whole)),
        );
        let summaries = (0..wanted).map(|row| {
            let kept = row * KEPT..(row + 1) * KEPT;
            let whole = &whole[row * SUMMARY..(row + 1) * SUMMARY];
            summary(&ids[kept.clone()], &best[kept], whole)
        });
        Ok(Some((scores, summaries.collect())))
    }
}

/// A model with random weights that are bf16 numbers.
fn model(directory: &Path, family: &str, head_dim: usize) -> Model {
    let (hidden, inner, vocabulary, heads, kv_heads) = (64, 96, 150, 4, 2);
    let config = serde_json::json!({
        "architectures": [family],
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": vocabulary,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": family == "Qwen2ForCausalLM",
    });
    let written = std::fs::write(directory.join("config.json"), config.to_string());
    written.expect("a config");
    let mut random = RandomNumbers::fresh();
    let checked = Config::load(directory).expect("a config");
    let tensors: Vec<(Wanted, Vec<u8>)> = layout(&checked)
        .map(|tensor| {
            let (middle, deviation) = match (tensor.name.as_str(), &tensor.shape[..]) {
                ("model.embed_tokens.weight", _) => (0.0, 0.5),
                ("lm_head.weight", _) => (0.0, 0.25),
                (_, [_, columns]) => (0.0, (*columns as f32).sqrt().recip()),
                (name, _) if name.ends_with("norm.weight") => (1.0, 0.2),
                _ => (0.0, 0.3),
            };
            let numbers = random.numbers(tensor.shape.iter().product(), deviation);
            let halves = numbers
                .into_iter()
                .map(|number| f32_to_bf16(middle + number));
            let bytes = halves.flat_map(u16::to_le_bytes).collect();
            (tensor, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(tensor, bytes)| {
        let kind = safetensors::Dtype::BF16;
        let view = safetensors::tensor::TensorView::new(kind, tensor.shape.clone(), bytes);
        (tensor.name.as_str(), view.expect("a tensor"))
    });
    let path = directory.join("model.safetensors");
    safetensors::serialize_to_file(views, None, &path).expect("weights");
    Model::load(directory).expect("a model")
}

#[test]
fn llama_computes_what_the_cpu_computes() -> Result<(), Error> {
    check("LlamaForCausalLM", 64)
}

#[test]
fn qwen2_computes_what_the_cpu_computes() -> Result<(), Error> {
    check("Qwen2ForCausalLM", 64)
}

#[test]
fn qwen3_computes_what_the_cpu_computes() -> Result<(), Error> {
    check("Qwen3ForCausalLM", 128)
}

/// Prompts, a prompt beside a single id, and single ids that fill a bucket.
fn check(family: &str, head_dim: usize) -> Result<(), Error> {
    let directory = tempfile::tempdir().map_err(Error::Thread)?;
    let model = model(directory.path(), family, head_dim);
    let mut steps = Steps::new(&model)?;
    let vocabulary = model.config().vocab_size;
    let mut cpu = Cpu::new(model, None, Precision::Exact, BLOCKS as u32)?;
    let of = |blocks: [u32; 3]| blocks.map(Block);
    let blocks = [of([7, 2, 9]), of([1, 4, 0]), of([3, 11, 5])];
    let ids: Vec<u32> = (0..48)
        .map(|at| (at * 37 + 11) % vocabulary as u32)
        .collect();
    let run = |sequence: usize, from: usize, count: usize| Run {
        blocks: &blocks[sequence],
        from,
        ids: &ids[from + sequence..][..count],
        logits: true,
    };
    let script = [
        vec![run(0, 0, 13)],
        vec![run(0, 13, 1), run(1, 0, 9), run(2, 0, 2)],
        vec![
            Run {
                logits: false,
                ..run(1, 9, 11)
            },
            run(2, 2, 1),
        ],
        vec![run(0, 14, 1), run(1, 20, 1), run(2, 3, 1)],
        vec![run(0, 15, 1), run(1, 21, 1), run(2, 4, 1)],
        vec![run(0, 16, 1)],
    ];
    for (number, runs) in script.iter().enumerate() {
        let Some((found, summaries)) = steps.step(runs)? else {
            return Ok(());
        };
        let mut expected = Vec::new();
        cpu.step(runs, &mut expected)?;
        assert_eq!(found.len(), expected.len());
        let differences = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        let most = differences.fold(0.0, |most, new| {
            if new > most || new.is_nan() {
                new
            } else {
                most
            }
        });
        assert!(
            most < 0.15,
            "{family}: step {number}: a score is {most} away"
        );
        for (scores, summary) in found.chunks_exact(vocabulary).zip(&summaries) {
            let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(summary.best[0].1, highest);
            let below = scores
                .iter()
                .map(|score| f64::from((score - highest) / 0.5).exp());
            let tempered: f64 = below.sum();
            assert!(
                (summary.tempered / tempered - 1.0).abs() < 1e-4,
                "{summary:?}"
            );
        }
    }
    // What was planned fits its place.
    assert!(Part::all(&steps.parts.limits) >= steps.plan.numbers().len());
    Ok(())
}
