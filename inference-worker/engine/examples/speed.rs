//! Measures the CPU backend on a model directory and prints one line of JSON:
//!
//! ```sh
//! cargo run --release -p engine --example speed -- DIRECTORY [mapped|copied|int8] [fast|exact]
//! ```
//!
//! A prompt of 512 ids in one step; then 128 ids one after another behind a prompt of 64, alone and
//! for eight sequences together, the likeliest id of each step being the next one. Beside them
//! stands how fast the same threads read memory: a step reads all weights, so that bound divided by
//! their bytes is the most steps per second. And how late a timer of tokio is on a thread beside
//! the engine's, idle and while eight sequences are decoded. `compare.py` in `speed/` runs it beside
//! others.

#![expect(clippy::print_stdout, reason = "a program for the terminal")]

use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use engine::backend::cpu::Cpu;
use engine::backend::{Backend, Run};
use engine::bench::read_bandwidth;
use engine::kv::{Block, Blocks};
use engine::model::Model;
use engine::{Precision, WeightsIn};
use serde_json::json;

const PREFILL: usize = 512;
const PROMPT: usize = 64;
const DECODED: usize = 128;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments
        .next()
        .ok_or("usage: speed DIRECTORY [WEIGHTS] [PRECISION]")?;
    let weights_in = match arguments.next().as_deref() {
        None | Some("mapped") => WeightsIn::Mapped,
        Some("copied") => WeightsIn::Copied,
        Some("int8") => WeightsIn::Int8,
        Some(other) => return Err(format!("{other}: expected mapped, copied or int8").into()),
    };
    let precision = match arguments.next().as_deref() {
        None | Some("fast") => Precision::Fast,
        Some("exact") => Precision::Exact,
        Some(other) => return Err(format!("{other}: expected fast or exact").into()),
    };
    let began = Instant::now();
    let model = Model::load_in(Path::new(&directory), weights_in)?;
    let load_ms = began.elapsed().as_millis();
    let bytes = model.weights().bytes_per_step();
    let vocabulary = model.config().vocab_size;
    let each = Blocks::needed(PREFILL.max(PROMPT + DECODED));
    let cpu = Cpu::new(model, None, precision, u32::try_from(8 * each)?)?;
    let mut sequences = Sequences {
        cpu,
        each,
        vocabulary,
        logits: Vec::new(),
    };

    sequences.prefill(PREFILL)?; // Fills caches and buffers.
    let began = Instant::now();
    sequences.prefill(PREFILL)?;
    let prefill = PREFILL as f64 / began.elapsed().as_secs_f64();
    sequences.prefill(PROMPT)?;
    let logits: Vec<f32> = sequences.logits.clone();
    let (alone, ids) = sequences.decode(1)?;
    let (together, _) = sequences.decode(8)?;
    let late_beside = timer_beside(|| sequences.decode(8).map(drop))?;
    drop(sequences);
    let idle = || {
        #[expect(clippy::disallowed_methods, reason = "idleness is what is measured")]
        std::thread::sleep(Duration::from_secs(1));
        Ok(())
    };
    let late_idle = timer_beside(idle)?;

    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (peak, memory) = (peak_bytes(), read_bandwidth(threads));
    let bound = memory / bytes as f64;
    println!(
        "{}",
        json!({
            "load_ms": load_ms,
            "prefill_tokens_s": prefill,
            "decode_1_tokens_s": alone,
            "decode_8_tokens_s": together,
            "weight_bytes_per_step": bytes,
            "memory_bytes_s": memory,
            "decode_1_of_bound": alone / bound,
            "decode_8_of_bound": together / 8.0 / bound,
            "peak_resident_bytes": peak,
            "timer_late_idle_ms": late_idle,
            "timer_late_beside_ms": late_beside,
            "ids": ids,
            "logits": logits,
        })
    );
    Ok(())
}

struct Sequences {
    cpu: Cpu,
    /// Blocks of each sequence.
    each: usize,
    vocabulary: usize,
    logits: Vec<f32>,
}

impl Sequences {
    fn blocks(&self, sequence: usize) -> Vec<Block> {
        let first = sequence * self.each;
        (first..first + self.each)
            .map(|block| Block(block as u32))
            .collect()
    }

    fn prompt(&self, sequence: usize, length: usize) -> Vec<u32> {
        (0..length)
            .map(|i| ((i * 7_919 + sequence * 101 + 13) % self.vocabulary) as u32)
            .collect()
    }

    fn prefill(&mut self, length: usize) -> Result<(), engine::Error> {
        let run = Run {
            blocks: &self.blocks(0),
            from: 0,
            ids: &self.prompt(0, length),
            logits: true,
        };
        self.cpu.step(&[run], &mut self.logits)
    }

    /// Tokens per second of so many sequences, and what the first one said.
    fn decode(&mut self, count: usize) -> Result<(f64, Vec<u32>), engine::Error> {
        let blocks: Vec<Vec<Block>> = (0..count).map(|at| self.blocks(at)).collect();
        let mut ids: Vec<Vec<u32>> = (0..count).map(|at| self.prompt(at, PROMPT)).collect();
        let mut said = Vec::new();
        let mut from = 0;
        let mut began = Instant::now();
        for step in 0..=DECODED {
            let runs: Vec<Run<'_>> = blocks
                .iter()
                .zip(&ids)
                .map(|(blocks, ids)| Run {
                    blocks,
                    from,
                    ids,
                    logits: true,
                })
                .collect();
            self.cpu.step(&runs, &mut self.logits)?;
            from += ids[0].len();
            let rows = self.logits.chunks_exact(self.vocabulary);
            ids = rows.map(|row| vec![likeliest(row)]).collect();
            said.push(ids[0][0]);
            if step == 0 {
                began = Instant::now();
            }
        }
        let tokens = (count * DECODED) as f64;
        Ok((tokens / began.elapsed().as_secs_f64(), said))
    }
}

fn likeliest(logits: &[f32]) -> u32 {
    let (mut best, mut highest) = (0, f32::NEG_INFINITY);
    for (id, logit) in logits.iter().enumerate() {
        if *logit > highest {
            (best, highest) = (id, *logit);
        }
    }
    best as u32
}

/// Milliseconds by which a timer was late in 99 of 100 cases while the work was done.
fn timer_beside(work: impl FnOnce() -> Result<(), engine::Error>) -> Result<f64, Box<dyn Error>> {
    const PERIOD: Duration = Duration::from_millis(5);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let done = AtomicBool::new(false);
    let late = std::thread::scope(|scope| {
        let timer = scope.spawn(|| {
            let mut late = Vec::new();
            runtime.block_on(async {
                while !done.load(Ordering::Relaxed) {
                    let due = Instant::now() + PERIOD;
                    tokio::time::sleep_until(due.into()).await;
                    late.push(due.elapsed());
                }
            });
            late
        });
        let outcome = work();
        done.store(true, Ordering::Relaxed);
        outcome.map(|()| timer.join())
    })?;
    let mut late = late.map_err(|_| "the timer's thread panicked")?;
    late.sort_unstable();
    let at = (late.len() * 99 / 100).min(late.len().saturating_sub(1));
    Ok(late.get(at).map_or(0.0, |late| late.as_secs_f64() * 1000.0))
}

/// The most memory that the process has had, where the system tells.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}
