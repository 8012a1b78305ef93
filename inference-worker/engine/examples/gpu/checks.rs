//! Whether the device computes what it must.

use std::error::Error;

use engine::Precision;
use engine::backend::cpu::Cpu;
use engine::backend::cuda::{Cuda, Room};
use engine::backend::{Backend, Run};
use engine::kv::{BLOCK, Block};
use engine::model::Shape;

use crate::models::{SMALL, load};

/// Blocks of a sequence in these checks, and how many sequences there are.
const EACH: usize = 8;
const SEQUENCES: usize = 16;
/// Ids that are computed one after another for the comparison with the CPU.
const COMPARED: usize = 64;
/// What a choice by the device may lose, in nats, and how far log-probabilities of another order of
/// sums may be away.
const REGRET: f64 = 0.20;
const NEAR: f64 = 0.10;

pub fn room() -> Room {
    Room {
        context: EACH * BLOCK,
        sequences: SEQUENCES,
        step_tokens: 512,
        cache: None,
    }
}

/// False where one failed.
pub fn all() -> Result<bool, Box<dyn Error>> {
    let mut passed = true;
    for shape in &SMALL {
        passed &= exactness(shape)?;
        passed &= equivalences(shape)?;
    }
    Ok(passed)
}

fn say(passed: bool, what: &str) -> bool {
    println!("{} {what}", if passed { "ok    " } else { "FAILED" });
    passed
}

fn blocks(sequence: usize) -> Vec<Block> {
    (0..EACH)
        .map(|block| Block((sequence * EACH + block) as u32))
        .collect()
}

fn ids(sequence: usize, count: usize, vocabulary: usize) -> Vec<u32> {
    (0..count)
        .map(|at| ((sequence * 7919 + at * 104_729 + 13) % vocabulary) as u32)
        .collect()
}

fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let below = logits.iter().map(|logit| f64::from(logit - most));
    let sum: f64 = below.clone().map(f64::exp).sum();
    below.map(|below| below - sum.ln()).collect()
}

fn likeliest(numbers: &[f64]) -> usize {
    let all = numbers.iter().enumerate();
    all.max_by(|a, b| a.1.total_cmp(b.1))
        .map_or(0, |(at, _)| at)
}

/// The scores after each of the ids: a prompt first, the rest one by one.
fn follow(backend: &mut dyn Backend, ids: &[u32]) -> Result<Vec<Vec<f64>>, Box<dyn Error>> {
    let (blocks, prompt) = (blocks(0), ids.len() - COMPARED);
    let mut all = Vec::new();
    let mut logits = Vec::new();
    let parts = std::iter::once(0..prompt).chain((prompt..ids.len()).map(|at| at..at + 1));
    for part in parts {
        let run = Run {
            blocks: &blocks,
            from: part.start,
            ids: &ids[part],
            logits: true,
        };
        backend.step(&[run], &mut logits)?;
        all.push(log_probabilities(&logits));
    }
    Ok(all)
}

/// The device in bf16 against the CPU in f32, and the CPU's faster arithmetic beside it.
fn exactness(shape: &Shape) -> Result<bool, Box<dyn Error>> {
    let ids = ids(3, 41 + COMPARED, shape.vocabulary);
    let cpu = |precision| -> Result<Cpu, Box<dyn Error>> {
        Ok(Cpu::new(load(shape)?, None, precision, EACH as u32)?)
    };
    let exact = follow(&mut cpu(Precision::Exact)?, &ids)?;
    let fast = follow(&mut cpu(Precision::Fast)?, &ids)?;
    let found = follow(&mut Cuda::new(&load(shape)?, &room())?, &ids)?;
    let (regret, mean, p99) = distance(&exact, &found);
    let (_, floor, floor_p99) = distance(&exact, &fast);
    let what = format!(
        "{}: against the CPU in f32: regret {regret:.4} nat (at most {REGRET}), |Δ log p| mean \
         {mean:.5}, p99 {p99:.5}; the CPU's fast arithmetic: mean {floor:.5}, p99 {floor_p99:.5}",
        shape.name
    );
    Ok(say(regret <= REGRET, &what))
}

/// The most that a likeliest id is less likely than the true one; mean and 99th percentile of the
/// difference of log-probabilities.
fn distance(expected: &[Vec<f64>], found: &[Vec<f64>]) -> (f64, f64, f64) {
    let mut regret = 0.0f64;
    let mut all = Vec::new();
    for (expected, found) in expected.iter().zip(found) {
        let lost = expected[likeliest(expected)] - expected[likeliest(found)];
        regret = if lost.is_nan() {
            f64::INFINITY
        } else {
            regret.max(lost)
        };
        all.extend(expected.iter().zip(found).map(|(a, b)| (a - b).abs()));
    }
    all.sort_unstable_by(f64::total_cmp);
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    (regret, mean, all[all.len() * 99 / 100])
}

struct Device {
    cuda: Cuda,
    vocabulary: usize,
}

impl Device {
    /// Computes the first `prompt` ids of each sequence, in steps of `chunk`.
    fn prefill(
        &mut self,
        sequences: std::ops::Range<usize>,
        prompt: usize,
        chunk: usize,
    ) -> Result<Vec<f32>, Box<dyn Error>> {
        let mut logits = Vec::new();
        for sequence in sequences {
            let (blocks, ids) = (blocks(sequence), ids(sequence, prompt, self.vocabulary));
            for (number, part) in ids.chunks(chunk).enumerate() {
                let run = Run {
                    blocks: &blocks,
                    from: number * chunk,
                    ids: part,
                    logits: true,
                };
                self.cuda.step(&[run], &mut logits)?;
            }
        }
        Ok(logits)
    }

    /// One more id for each of these sequences, together.
    fn decode(
        &mut self,
        sequences: std::ops::Range<usize>,
        at: usize,
    ) -> Result<Vec<f32>, Box<dyn Error>> {
        let inputs: Vec<_> = sequences
            .map(|sequence| (blocks(sequence), ids(sequence, at + 1, self.vocabulary)))
            .collect();
        let runs: Vec<Run<'_>> = inputs
            .iter()
            .map(|(blocks, ids)| Run {
                blocks,
                from: at,
                ids: &ids[at..],
                logits: true,
            })
            .collect();
        let mut logits = Vec::new();
        self.cuda.step(&runs, &mut logits)?;
        Ok(logits)
    }
}

fn equivalences(shape: &Shape) -> Result<bool, Box<dyn Error>> {
    let open = || -> Result<Cuda, Box<dyn Error>> { Ok(Cuda::new(&load(shape)?, &room())?) };
    let vocabulary = shape.vocabulary;
    let mut device = Device {
        cuda: open()?,
        vocabulary,
    };
    let mut eager = Device {
        cuda: open()?.without_graphs(),
        vocabulary,
    };
    let (prompt, name) = (37, shape.name);
    let mut passed = true;
    let mut bits = |equal: bool, what: &str| passed &= say(equal, &format!("{name}: {what}"));

    let whole = device.prefill(0..1, prompt, prompt)?;
    bits(
        device.prefill(0..1, prompt, prompt)? == whole,
        "the same prompt twice, the same bits",
    );
    let chunked = device.prefill(0..1, prompt, 10)?;
    let (a, b) = (log_probabilities(&whole), log_probabilities(&chunked));
    let most = a
        .iter()
        .zip(&b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max);
    bits(
        most <= NEAR,
        &format!("a prompt in chunks: most |Δ log p| {most:.5} (at most {NEAR})"),
    );

    device.prefill(0..SEQUENCES, prompt, prompt)?;
    eager.prefill(0..SEQUENCES, prompt, prompt)?;
    for (count, bucket) in [(1, 1), (5, 8), (8, 8), (9, 16), (16, 16)] {
        // The first is begun kernel by kernel, the second is recorded, the third is replayed.
        let first = device.decode(0..count, prompt)?;
        let recorded = device.decode(0..count, prompt)?;
        let replayed = device.decode(0..count, prompt)?;
        let begun = eager.decode(0..count, prompt)?;
        let equal = first == recorded && first == replayed;
        bits(
            equal,
            &format!("{count} in a bucket of {bucket} three times, the same bits"),
        );
        bits(
            first == begun,
            &format!("{count} in a bucket of {bucket}: graph = eager"),
        );
        let alone: Result<Vec<_>, _> = (0..count)
            .map(|one| device.decode(one..one + 1, prompt))
            .collect();
        bits(
            alone?.concat() == first,
            &format!("{count} together = each alone"),
        );
    }

    // Somebody else has computed the first two blocks.
    let (known, ids) = (2 * BLOCK, ids(0, prompt, vocabulary));
    let mut shared = blocks(0);
    shared.truncate(2);
    shared.extend(&blocks(1)[2..]);
    let mut after = |blocks: &[Block]| -> Result<Vec<f32>, Box<dyn Error>> {
        let mut logits = Vec::new();
        for part in [0..known, known..prompt] {
            if part.start == 0 && blocks[2] != self::blocks(0)[2] {
                continue;
            }
            let run = Run {
                blocks,
                from: part.start,
                ids: &ids[part],
                logits: true,
            };
            device.cuda.step(&[run], &mut logits)?;
        }
        Ok(logits)
    };
    let cold = after(&blocks(0))?;
    bits(after(&shared)? == cold, "a shared prefix = a cold one");
    Ok(passed)
}
