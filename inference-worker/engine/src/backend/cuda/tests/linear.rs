use super::super::kernels::{FEW, LINEAR, LINEAR_THREADS};
use super::*;

/// Rows of weights, columns, and whether there are biases; rows that no block divides too.
const SIZES: [(usize, usize, bool); 4] = [
    (16, 32, false),
    (40, 96, true),
    (72, 1056, false),
    (100, 2048, true),
];

struct Case {
    rows: usize,
    columns: usize,
    count: usize,
    weight: Vec<u16>,
    input: Vec<u16>,
    bias: Option<Vec<f32>>,
}

impl Case {
    fn new((rows, columns, biased): (usize, usize, bool), count: usize) -> Self {
        let mut random = RandomNumbers::fresh();
        let deviation = (columns as f32).sqrt().recip();
        Self {
            rows,
            columns,
            count,
            weight: random.halves(rows * columns, deviation),
            input: random.halves(count * columns, 1.0),
            bias: biased.then(|| random.numbers(rows, 1.0)),
        }
    }

    /// `[count, rows]`.
    fn expected(&self) -> Vec<f64> {
        let (weight, input) = (widened(&self.weight), widened(&self.input));
        let mut all = Vec::new();
        for input in input.chunks_exact(self.columns) {
            for (row, weight) in weight.chunks_exact(self.columns).enumerate() {
                let product: f64 = weight.iter().zip(input).map(|(a, b)| a * b).sum();
                let bias = self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[row]));
                all.push(product + bias);
            }
        }
        all
    }

    fn launch(&self, mode: &str, out: Argument, block: usize, check: impl Fn(&[Vec<u8>])) {
        let inputs = if self.count > 8 { 16 } else { 8 };
        let outputs = match mode {
            "gated" => self.rows / 2,
            _ => self.rows,
        };
        let each = if mode == "gated" { block / 2 } else { block };
        Launch {
            source: LINEAR,
            shape: SHAPE,
            kernel: &format!("linear_{mode}_{inputs}_{block}"),
            grid: [outputs.div_ceil(each), 1, 1],
            threads: LINEAR_THREADS,
            arguments: vec![
                out,
                halves(&self.weight),
                halves(&self.input),
                self.bias.as_deref().map_or(Argument::Null, floats),
                Argument::Int(self.rows as i32),
                Argument::Int(self.columns as i32),
                Argument::Int(self.count as i32),
            ],
        }
        .check(check);
    }
}

fn cases() -> impl Iterator<Item = Case> {
    let counts = [1, 3, 8, 9, FEW];
    counts
        .into_iter()
        .flat_map(|count| SIZES.map(|size| Case::new(size, count)))
}

#[test]
fn products_are_written_as_bf16() {
    for (at, case) in cases().enumerate() {
        let expected = case.expected();
        let out = poison(expected.len() * 2);
        case.launch("set", out, [16, 32][at % 2], |buffers| {
            let found = widened(&as_halves(&buffers[0]));
            assert_close(found, &expected, (BF16, 1e-4), "set");
        });
    }
}

#[test]
fn products_are_added_to_the_stream() {
    for (at, case) in cases().enumerate() {
        let mut expected = case.expected();
        let stream = RandomNumbers::fresh().numbers(expected.len(), 1.0);
        for (expected, number) in expected.iter_mut().zip(&stream) {
            *expected += f64::from(*number);
        }
        case.launch("add", floats(&stream), [32, 16][at % 2], |buffers| {
            let found = as_floats(&buffers[0]).into_iter().map(f64::from);
            assert_close(found, &expected, (1e-5, 1e-5), "add");
        });
    }
}

#[test]
fn products_are_gated() {
    for (at, case) in cases().enumerate() {
        let each = case.rows / 2;
        let expected: Vec<f64> = case
            .expected()
            .chunks_exact(case.rows)
            .flat_map(|row| {
                let (gates, ups) = row.split_at(each);
                let gated = gates.iter().zip(ups);
                let gated = gated.map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up);
                gated.collect::<Vec<_>>()
            })
            .collect();
        let out = poison(expected.len() * 2);
        case.launch("gated", out, [16, 32][at % 2], |buffers| {
            let found = widened(&as_halves(&buffers[0]));
            assert_close(found, &expected, (BF16, 1e-4), "gated");
        });
    }
}

#[test]
fn scores_do_not_depend_on_who_else_is_there() {
    let all = Case::new((100, 1056, false), FEW);
    let expected = all.expected();
    let together = std::cell::RefCell::new(Vec::new());
    all.launch("scores", poison(expected.len() * 4), 16, |buffers| {
        let found = as_floats(&buffers[0]);
        let numbers = found.iter().map(|number| f64::from(*number));
        assert_close(numbers, &expected, (1e-5, 1e-5), "scores");
        *together.borrow_mut() = found;
    });
    // Nothing is there to compare with where nothing could run.
    for (at, row) in together
        .take()
        .chunks_exact(all.rows)
        .enumerate()
        .step_by(5)
    {
        let alone = Case {
            count: 1,
            weight: all.weight.clone(),
            input: all.input[at * all.columns..][..all.columns].to_vec(),
            bias: None,
            ..all
        };
        alone.launch("scores", poison(all.rows * 4), 32, |buffers| {
            assert_eq!(as_floats(&buffers[0]), row, "input {at} of {FEW}");
        });
    }
}
