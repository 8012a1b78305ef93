//! How fast the device is, against how fast it copies.

use std::error::Error;
use std::time::Instant;

use engine::backend::cuda::{Cuda, Room};
use engine::backend::{Backend, Run, Summarising, Summary};
use engine::kv::{Block, Blocks};
use engine::model::Shape;

use crate::models::load;

pub const HEAD: &str = "model  what              ms      tok/s   GB/s  of copy  device";
/// For the 8B shape; measured by others, on an H100.
pub const PUBLISHED: &str = "vLLM 0.30, Qwen3-8B, H100, as published: decode of 1, 16, 64, 128 \
                             queries 6.86, 7.53, 9.49, 12.0 ms; first token of 1,024 p95 34 ms";

const BATCHES: [usize; 5] = [1, 4, 16, 64, 128];
const PROMPT: usize = 128;
const PREFILL: usize = 1024;
/// Steps that are measured, after as many of them as record the graphs.
const STEPS: usize = 64;
const WARM: usize = 8;

struct Timed<'a> {
    shape: &'a Shape,
    cuda: Cuda,
    each: usize,
    /// Bytes that the device copies in a second, reading and writing counted.
    copied: f64,
    /// Bytes of weights that a step reads.
    weights: usize,
}

/// Rows of the table.
pub fn of(shape: &Shape) -> Result<Vec<String>, Box<dyn Error>> {
    let context = PREFILL.max(PROMPT + WARM + STEPS);
    let room = Room {
        context,
        sequences: 128,
        step_tokens: PREFILL,
        cache: None,
    };
    let model = load(shape)?;
    let weights = model.weights().bytes_per_step();
    let mut cuda = Cuda::new(&model, &room)?;
    drop(model);
    let copied = cuda.copied_per_second()?;
    println!(
        "{}: {} copies {:.0} GB/s",
        shape.name,
        cuda.name(),
        copied / 1e9
    );
    let mut timed = Timed {
        shape,
        cuda,
        each: Blocks::needed(context),
        copied,
        weights,
    };
    let mut rows = Vec::new();
    let held = timed.cuda.blocks() as usize / timed.each;
    for count in BATCHES.into_iter().filter(|count| *count <= held) {
        rows.push(timed.decode(count)?);
    }
    rows.push(timed.prefill()?);
    Ok(rows)
}

impl Timed<'_> {
    fn blocks(&self, sequence: usize) -> Vec<Block> {
        let first = sequence * self.each;
        (first..first + self.each)
            .map(|block| Block(block as u32))
            .collect()
    }

    fn row(&self, what: &str, seconds: f64, tokens: usize, bytes: usize) -> String {
        let moved = bytes as f64 / seconds;
        format!(
            "{:<6} {what:<14} {:>7.3} {:>10.1} {:>6.0} {:>7.0}%  {}",
            self.shape.name,
            seconds * 1e3,
            tokens as f64 / seconds,
            moved / 1e9,
            100.0 * moved / self.copied,
            self.cuda.name(),
        )
    }

    fn decode(&mut self, count: usize) -> Result<String, Box<dyn Error>> {
        let blocks: Vec<_> = (0..count).map(|sequence| self.blocks(sequence)).collect();
        let mut summaries: Vec<Summary> = Vec::new();
        let mut next = Vec::new();
        for blocks in &blocks {
            let ids: Vec<u32> = (0..PROMPT as u32).collect();
            let run = Run {
                blocks,
                from: 0,
                ids: &ids,
                logits: true,
            };
            Summarising::step(&mut self.cuda, &[run], &[1.0], &mut summaries)?;
            next.push([best(&summaries[0])]);
        }
        let temperatures = vec![1.0; count];
        let mut took = Vec::new();
        for at in 0..WARM + STEPS {
            let runs: Vec<Run<'_>> = blocks
                .iter()
                .zip(&next)
                .map(|(blocks, ids)| Run {
                    blocks,
                    from: PROMPT + at,
                    ids,
                    logits: true,
                })
                .collect();
            let began = Instant::now();
            Summarising::step(&mut self.cuda, &runs, &temperatures, &mut summaries)?;
            if at >= WARM {
                took.push(began.elapsed().as_secs_f64());
            }
            next = summaries.iter().map(|summary| [best(summary)]).collect();
        }
        let seconds = median(took);
        let position = 4 * self.shape.kv_heads * self.shape.head_dim * self.shape.layers;
        let remembered = count * (PROMPT + WARM + STEPS / 2) * position;
        let bytes = self.weights + remembered;
        Ok(self.row(&format!("decode {count}"), seconds, count, bytes))
    }

    fn prefill(&mut self) -> Result<String, Box<dyn Error>> {
        let blocks = self.blocks(0);
        let ids: Vec<u32> = (0..PREFILL as u32).collect();
        let mut summaries = Vec::new();
        let mut took = Vec::new();
        for at in 0..WARM + 8 {
            let run = Run {
                blocks: &blocks,
                from: 0,
                ids: &ids,
                logits: true,
            };
            let began = Instant::now();
            Summarising::step(&mut self.cuda, &[run], &[1.0], &mut summaries)?;
            if at >= WARM {
                took.push(began.elapsed().as_secs_f64());
            }
        }
        Ok(self.row(
            &format!("prefill {PREFILL}"),
            median(took),
            PREFILL,
            self.weights,
        ))
    }
}

fn best(summary: &Summary) -> u32 {
    summary.best.first().map_or(0, |(id, _)| *id)
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
