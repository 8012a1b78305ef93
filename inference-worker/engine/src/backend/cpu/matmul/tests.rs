use std::num::NonZeroUsize;

use super::*;
use crate::model::int8::Int8;

/// Repeatable numbers in (-1, 1).
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// One of each kind.
fn matrices(rows: usize, columns: usize) -> [Matrix; 4] {
    let values = numbers(rows * columns, 7);
    let bf16: Vec<u16> = values.iter().map(|v| (v.to_bits() >> 16) as u16).collect();
    // Numbers from 2^-14 up are of the same form, with another bias and ten bits.
    let f16: Vec<u16> = values
        .iter()
        .map(|v| {
            let bits = (v.abs() + 1e-3).to_bits();
            ((bits >> 13) - (112 << 10)) as u16 | u16::from(*v < 0.0) << 15
        })
        .collect();
    let of = |data| Matrix {
        rows,
        columns,
        data,
    };
    let single = of(Data::F32(values.into()));
    let bytes = of(Data::Int8(Int8::round(&single)));
    [
        single,
        of(Data::F16(f16.into())),
        of(Data::Bf16(bf16.into())),
        bytes,
    ]
}

fn product(
    kernel: Kernel,
    precision: Precision,
    threads: usize,
    matrix: &Matrix,
    inputs: &[f32],
) -> Vec<f32> {
    let mut pool = Pool::new(NonZeroUsize::new(threads)).expect("threads");
    let mut outputs = vec![f32::NAN; inputs.len() / matrix.columns * matrix.rows];
    Multiplier::new(kernel, precision).matrix(&mut pool, matrix, inputs, &mut outputs);
    outputs
}

#[test]
fn every_kernel_agrees_with_a_sum_in_double_precision() {
    for (rows, columns, vectors) in [(1, 1, 1), (5, 13, 2), (64, 256, 13), (333, 100, 4)] {
        let inputs = numbers(columns * vectors, 3);
        for matrix in matrices(rows, columns) {
            let mut weights = vec![0.0; rows * columns];
            for (row, out) in weights.chunks_exact_mut(columns).enumerate() {
                matrix.copy_row(row, out);
            }
            for kernel in Kernel::available() {
                for precision in [Precision::Exact, Precision::Fast] {
                    let outputs = product(kernel, precision, 2, &matrix, &inputs);
                    for (at, output) in outputs.iter().enumerate() {
                        let (vector, row) = (at / rows, at % rows);
                        let weights = &weights[row * columns..][..columns];
                        let inputs = &inputs[vector * columns..][..columns];
                        let products = weights.iter().zip(inputs);
                        let exact: f64 = products.map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                        let size: f32 = weights.iter().map(|w| w.abs()).sum();
                        // Half a step of what inputs below 1 are rounded to.
                        let bound = match (&matrix.data, precision) {
                            (Data::Int8(_), _) => 1e-4 + size / 254.0,
                            (Data::Bf16(_), Precision::Fast) => 1e-4 + size / 512.0,
                            _ => 1e-4,
                        };
                        let error = (f64::from(*output) - exact).abs();
                        assert!(error < f64::from(bound), "{kernel:?} {at}: {error} {bound}");
                    }
                }
            }
        }
    }
}

#[test]
fn an_output_does_not_depend_on_its_company_or_on_threads() {
    let (columns, vectors) = (100, 17);
    let inputs = numbers(columns * vectors, 3);
    for matrix in matrices(333, columns) {
        for kernel in Kernel::available() {
            for precision in [Precision::Exact, Precision::Fast] {
                let together = product(kernel, precision, 3, &matrix, &inputs);
                let alone: Vec<f32> = inputs
                    .chunks_exact(columns)
                    .flat_map(|input| product(kernel, precision, 1, &matrix, input))
                    .collect();
                assert!(together == alone, "{kernel:?} {precision:?}");
            }
        }
    }
}

#[test]
fn kernels_with_fused_multiply_add_give_the_same_bits() {
    let inputs = numbers(100 * 7, 3);
    for matrix in matrices(50, 100) {
        let mut fused = Kernel::available()
            .filter(|kernel| *kernel != Kernel::Portable)
            .map(|kernel| product(kernel, Precision::Exact, 1, &matrix, &inputs));
        if let Some(first) = fused.next() {
            assert!(fused.all(|other| other == first));
        }
    }
}

#[test]
fn parts_follow_each_other_with_their_biases_and_can_be_added() {
    let inputs = numbers(40 * 3, 3);
    let parts: Vec<Projection> = [5, 20]
        .into_iter()
        .zip([None, Some(numbers(20, 9))])
        .map(|(rows, bias)| {
            let [weight, ..] = matrices(rows, 40);
            Projection { weight, bias }
        })
        .collect();
    let kernel = Kernel::detect();
    let each: Vec<Vec<f32>> = parts
        .iter()
        .map(|part| product(kernel, Precision::Exact, 1, &part.weight, &inputs))
        .collect();
    let linear = Linear { parts };
    let mut pool = Pool::new(NonZeroUsize::new(2)).expect("threads");
    let mut outputs = vec![1.0; 3 * 25];
    let mut multiplier = Multiplier::new(kernel, Precision::Exact);
    multiplier.linear(&mut pool, &linear, &inputs, &mut outputs, Then::Add);
    for (vector, outputs) in outputs.chunks_exact(25).enumerate() {
        for (row, output) in outputs.iter().enumerate() {
            let expected = match row.checked_sub(5) {
                None => 1.0 + each[0][vector * 5 + row],
                Some(at) => {
                    let bias = linear.parts[1].bias.as_ref().expect("a bias");
                    1.0 + (each[1][vector * 20 + at] + bias[at])
                }
            };
            assert_eq!(*output, expected, "{vector} {row}");
        }
    }
}
