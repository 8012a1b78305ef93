//! The CPU backend against logits that the reference implementation computed in float64.
//!
//! Each directory of `golden/` is a small model with `expected.json`; `golden/make.py` wrote them.

use std::path::{Path, PathBuf};

use engine::backend::cpu::{Cpu, KvCache};
use engine::model::Model;
use serde::Deserialize;

/// Relative to the largest logit of the prompt.
const TOLERANCE: f64 = 1e-4;

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

fn load(dir: &Path) -> Cpu {
    let model = Model::load(dir).unwrap_or_else(|error| panic!("{}: {error:?}", dir.display()));
    Cpu::new(model, None).expect("threads")
}

/// Logits after each chunk.
fn forward(cpu: &mut Cpu, ids: &[u32], chunk: usize) -> Vec<Vec<f32>> {
    let mut cache = KvCache::new(cpu.model().config(), ids.len()).expect("memory");
    ids.chunks(chunk)
        .map(|ids| {
            let mut logits = Vec::new();
            cpu.forward(&mut cache, ids, Some(&mut logits))
                .expect("logits");
            logits
        })
        .collect()
}

fn log_probability(logits: &[f32], id: u32) -> f64 {
    let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    f64::from(logits[id as usize]) - sum.ln()
}

#[test]
fn logits_and_probabilities_match_the_reference() {
    for dir in directories() {
        let json = std::fs::read(dir.join("expected.json")).expect("expected.json");
        let expected: Expected = serde_json::from_slice(&json).expect("expected.json");
        let mut cpu = load(&dir);
        assert!(!expected.prompts.is_empty());
        for (number, prompt) in expected.prompts.iter().enumerate() {
            let place = format!("{} prompt {number}", dir.display());
            let ids = &prompt.input_ids;
            let scale = prompt
                .logits_last
                .iter()
                .fold(0.0, |max: f64, l| max.max(l.abs()));
            let each = forward(&mut cpu, ids, 1);
            let last = each.last().expect("logits");
            assert_eq!(last.len(), prompt.logits_last.len(), "{place}");
            for (id, (logit, exact)) in last.iter().zip(&prompt.logits_last).enumerate() {
                let error = (f64::from(*logit) - exact).abs() / scale;
                assert!(error <= TOLERANCE, "{place} id {id}: {logit} {exact}");
            }
            assert_eq!(prompt.logprobs_of_next.len() + 1, ids.len(), "{place}");
            for (at, exact) in prompt.logprobs_of_next.iter().enumerate() {
                let logprob = log_probability(&each[at], ids[at + 1]);
                assert!(
                    (logprob - exact).abs() / scale <= TOLERANCE,
                    "{place} position {at}"
                );
            }
        }
    }
}

#[test]
fn chunks_of_any_size_give_the_same_bits() {
    for dir in directories() {
        let mut cpu = load(&dir);
        let vocabulary = cpu.model().config().vocab_size as u32;
        let ids: Vec<u32> = (0..70u32).map(|i| (i * i + 3) % vocabulary).collect();
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
fn what_cannot_be_appended_is_refused_and_changes_nothing() {
    let mut cpu = load(&directories()[0]);
    let mut cache = KvCache::new(cpu.model().config(), 4).expect("memory");
    cpu.forward(&mut cache, &[1, 2], None).expect("a step");
    for ids in [&[][..], &[u32::MAX], &[1, 2, 3]] {
        assert!(cpu.forward(&mut cache, ids, None).is_err(), "{ids:?}");
        assert_eq!(cache.len(), 2);
    }
    cpu.forward(&mut cache, &[1, 2], None)
        .expect("what still fits");
}
