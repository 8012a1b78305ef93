//! The CPU backend against logits that the reference implementation computed in float64.
//!
//! Each directory of `golden/` is a small model with `expected.json`; `golden/make.py` wrote them.

use std::path::{Path, PathBuf};

use engine::backend::cpu::Cpu;
use engine::backend::{Backend, Run};
use engine::kv::{Block, Blocks};
use engine::model::Model;
use engine::{Precision, WeightsIn};
use serde::Deserialize;

/// Of every logit and log-probability, relative to the largest logit of the prompt, where nothing is
/// rounded to fewer bits than the files have.
const TOLERANCE: f64 = 1e-4;

/// Each way to compute.
const MODES: [Mode; 3] = [
    Mode {
        precision: Precision::Exact,
        weights_in: WeightsIn::Copied,
        usual: None,
    },
    Mode {
        precision: Precision::Fast,
        weights_in: WeightsIn::Mapped,
        usual: Some(5e-3),
    },
    Mode {
        precision: Precision::Fast,
        weights_in: WeightsIn::Int8,
        usual: Some(3e-2),
    },
];

#[derive(Debug, Clone, Copy)]
struct Mode {
    precision: Precision,
    weights_in: WeightsIn,
    /// What the root mean square of the errors may be where something is rounded. (The worst of them
    /// is four times as much on models as narrow as these.)
    usual: Option<f64>,
}

/// Blocks of the backend under test.
const BLOCKS: u32 = 24;

#[derive(Deserialize)]
struct Expected {
    prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
struct Prompt {
    input_ids: Vec<u32>,
    logits_last: Vec<f64>,
    logprobs_of_next: Vec<f64>,
}

fn directories() -> Vec<PathBuf> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut directories: Vec<PathBuf> = std::fs::read_dir(golden)
        .expect("tests/golden")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.join("expected.json").exists())
        .collect();
    directories.sort();
    assert!(!directories.is_empty(), "no golden models");
    directories
}

fn load(dir: &Path, mode: Mode) -> Cpu {
    let model = Model::load_in(dir, mode.weights_in)
        .unwrap_or_else(|error| panic!("{}: {error:?}", dir.display()));
    Cpu::new(model, None, mode.precision, BLOCKS).expect("threads and memory")
}

/// Every golden model in every way.
fn all() -> impl Iterator<Item = (PathBuf, Mode)> {
    directories()
        .into_iter()
        .flat_map(|dir| MODES.map(|mode| (dir.clone(), mode)))
}

/// The blocks from `first` on, one after the other, as a cache of one piece would lie.
fn in_order(first: u32, positions: usize) -> Vec<Block> {
    (first..)
        .map(Block)
        .take(Blocks::needed(positions))
        .collect()
}

/// Logits after each chunk of a sequence whose first `from` positions lie in `blocks` already.
fn chunks(
    cpu: &mut Cpu,
    blocks: &[Block],
    mut from: usize,
    ids: &[u32],
    chunk: usize,
) -> Vec<Vec<f32>> {
    ids[from..]
        .chunks(chunk)
        .map(|ids| {
            let mut logits = Vec::new();
            let run = Run {
                blocks,
                from,
                ids,
                logits: true,
            };
            cpu.step(&[run], &mut logits).expect("logits");
            from += ids.len();
            logits
        })
        .collect()
}

/// Logits after each chunk, alone in the backend.
fn forward(cpu: &mut Cpu, ids: &[u32], chunk: usize) -> Vec<Vec<f32>> {
    chunks(cpu, &in_order(0, ids.len()), 0, ids, chunk)
}

/// Ids that depend on `seed`.
fn some_ids(cpu: &Cpu, seed: u32, count: u32) -> Vec<u32> {
    let vocabulary = cpu.model().config().vocab_size as u32;
    (0..count)
        .map(|i| (i * i + 3 + seed * 11) % vocabulary)
        .collect()
}

fn log_probability(logits: &[f32], id: u32) -> f64 {
    let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    f64::from(logits[id as usize]) - sum.ln()
}

/// How far logits and log-probabilities are off in one way to compute.
#[derive(Debug, Default)]
struct Errors {
    worst: f64,
    squares: f64,
    count: f64,
}

impl Errors {
    fn add(&mut self, found: f64, exact: f64, scale: f64) {
        let error = (found - exact).abs() / scale;
        assert!(error.is_finite(), "{found} for {exact}");
        self.worst = self.worst.max(error);
        self.squares += error * error;
        self.count += 1.0;
    }

    /// The root of the mean square.
    fn usual(&self) -> f64 {
        (self.squares / self.count).sqrt()
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "it tells what it has measured")]
fn logits_and_probabilities_match_the_reference() {
    for (dir, mode) in all() {
        let json = std::fs::read(dir.join("expected.json")).expect("expected.json");
        let expected: Expected = serde_json::from_slice(&json).expect("expected.json");
        let mut cpu = load(&dir, mode);
        let mut errors = Errors::default();
        for prompt in &expected.prompts {
            let ids = &prompt.input_ids;
            let scale = prompt
                .logits_last
                .iter()
                .fold(0.0, |max: f64, l| max.max(l.abs()));
            let each = forward(&mut cpu, ids, 1);
            let last = each.last().expect("logits");
            assert_eq!(last.len(), prompt.logits_last.len(), "{}", dir.display());
            for (logit, exact) in last.iter().zip(&prompt.logits_last) {
                errors.add(f64::from(*logit), *exact, scale);
            }
            assert_eq!(prompt.logprobs_of_next.len() + 1, ids.len());
            for (at, exact) in prompt.logprobs_of_next.iter().enumerate() {
                errors.add(log_probability(&each[at], ids[at + 1]), *exact, scale);
            }
        }
        let place = format!("{} {mode:?}: {} {errors:?}", dir.display(), errors.usual());
        let name = dir.file_name().unwrap_or_default().display();
        println!(
            "{name:14} {:?} {:?}: worst {:.1e}, usual {:.1e}",
            mode.precision,
            mode.weights_in,
            errors.worst,
            errors.usual()
        );
        let rounds = mode.weights_in == WeightsIn::Int8 || dir.ends_with("llama-bf16");
        match mode.usual {
            Some(bound) if rounds => assert!(errors.usual() <= bound, "{place}"),
            _ => assert!(errors.worst <= TOLERANCE, "{place}"),
        }
    }
}

#[test]
fn chunks_of_any_size_give_the_same_bits() {
    for (dir, mode) in all() {
        let mut cpu = load(&dir, mode);
        let ids = some_ids(&cpu, 0, 70);
        let whole = forward(&mut cpu, &ids, ids.len()).pop();
        for chunk in [1, 2, 7, 64] {
            assert!(
                forward(&mut cpu, &ids, chunk).pop() == whole,
                "{} {chunk}",
                dir.display()
            );
        }
    }
}

#[test]
fn it_does_not_matter_where_blocks_lie() {
    for (dir, mode) in all() {
        let mut cpu = load(&dir, mode);
        let ids = some_ids(&cpu, 0, 70);
        let contiguous = forward(&mut cpu, &ids, 9);
        let scattered = [17, 3, 23, 0, 8].map(Block);
        assert!(
            chunks(&mut cpu, &scattered, 0, &ids, 9) == contiguous,
            "{}",
            dir.display()
        );
    }
}

#[test]
fn a_known_prefix_gives_the_same_bits_as_a_cold_start() {
    for (dir, mode) in all() {
        let mut cpu = load(&dir, mode);
        let mut ids = some_ids(&cpu, 0, 70);
        let mut blocks = Blocks::new(BLOCKS);
        let mut first = blocks.admit(0, &ids, ids.len()).expect("room");
        chunks(&mut cpu, first.blocks(), 0, &ids, 70);
        blocks.computed(&mut first, &ids, ids.len());
        // Another end after 40 ids, of which two blocks are whole.
        ids.truncate(40);
        ids.extend(some_ids(&cpu, 1, 20));
        let second = blocks.admit(0, &ids, ids.len()).expect("room");
        assert_eq!(second.settled(), 32);
        let hit = chunks(&mut cpu, second.blocks(), second.settled(), &ids, 70).pop();
        let cold = chunks(&mut load(&dir, mode), &in_order(0, 60), 0, &ids, 70).pop();
        assert!(hit == cold, "{}", dir.display());
        blocks.release(first);
        blocks.release(second);
    }
}

/// The bound is zero: bit by bit, prompts and single ids mixed in every step.
#[test]
fn sequences_together_give_the_same_bits_as_each_alone() {
    for (dir, mode) in all() {
        let mut cpu = load(&dir, mode);
        let sequences: Vec<Vec<u32>> = [(0, 50), (1, 7), (2, 33), (3, 18), (4, 1)]
            .map(|(seed, count)| some_ids(&cpu, seed, count))
            .into();
        // One advances by whole prompts, others by a few ids or one.
        let pace = [50, 1, 10, 4, 1];
        let alone: Vec<Vec<Vec<f32>>> = sequences
            .iter()
            .zip(pace)
            .map(|(ids, chunk)| forward(&mut cpu, ids, chunk))
            .collect();
        let mut together = vec![Vec::new(); sequences.len()];
        for step in 0.. {
            let moving: Vec<usize> = (0..sequences.len())
                .filter(|at| step * pace[*at] < sequences[*at].len())
                .collect();
            if moving.is_empty() {
                break;
            }
            let pages: Vec<Vec<Block>> = moving
                .iter()
                .map(|at| in_order(*at as u32 * 4, 50))
                .collect();
            let runs: Vec<Run<'_>> = moving
                .iter()
                .zip(&pages)
                .map(|(at, blocks)| {
                    let ids = sequences[*at].chunks(pace[*at]).nth(step).expect("a chunk");
                    Run {
                        blocks,
                        from: step * pace[*at],
                        ids,
                        logits: true,
                    }
                })
                .collect();
            let mut logits = Vec::new();
            cpu.step(&runs, &mut logits).expect("logits");
            let rows = logits.chunks_exact(logits.len() / moving.len());
            for (at, row) in moving.iter().zip(rows) {
                together[*at].push(row.to_vec());
            }
        }
        assert!(together == alone, "{}", dir.display());
    }
}

#[test]
fn what_cannot_be_computed_is_refused_and_changes_nothing() {
    let mut cpu = load(&directories()[0], MODES[0]);
    let ids = some_ids(&cpu, 0, 20);
    let expected = forward(&mut cpu, &ids, 20);
    let blocks = in_order(0, 20);
    let mut logits = Vec::new();
    let good = Run {
        blocks: &blocks,
        from: 0,
        ids: &ids[..17],
        logits: false,
    };
    cpu.step(&[good], &mut logits).expect("a step");
    assert!(logits.is_empty(), "nobody wanted any");
    let missing = [Block(0), Block(BLOCKS)];
    let bad = [
        (&blocks[..], &[][..]),
        (&blocks[..], &[u32::MAX][..]),
        (&blocks[..], &[1; 16][..]),
        (&missing[..], &[1][..]),
    ];
    for (blocks, ids) in bad {
        let run = Run {
            blocks,
            from: 17,
            ids,
            logits: true,
        };
        // In company, too.
        assert!(cpu.step(&[good, run], &mut logits).is_err(), "{ids:?}");
    }
    assert!(chunks(&mut cpu, &blocks, 17, &ids, 20) == expected);
}
