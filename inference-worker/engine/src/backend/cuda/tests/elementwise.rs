use super::super::kernels::{ELEMENTWISE, ROW_THREADS};
use super::*;

fn launch<'a>(kernel: &'a str, blocks: usize, arguments: Vec<Argument>) -> Launch<'a> {
    Launch {
        source: ELEMENTWISE,
        shape: SHAPE,
        kernel,
        grid: [blocks, 1, 1],
        threads: ROW_THREADS,
        arguments,
    }
}

#[test]
fn embed_copies_the_rows_of_the_ids() {
    let mut random = RandomNumbers::fresh();
    let (hidden, vocabulary) = (352, 19);
    let table = random.halves(vocabulary * hidden, 1.0);
    let ids: Vec<usize> = (0..5).map(|_| random.below(vocabulary)).collect();
    let arguments = vec![
        poison(ids.len() * hidden * 4),
        halves(&table),
        ints(&ids),
        Argument::Int(hidden as i32),
    ];
    launch("embed", ids.len(), arguments).check(|buffers| {
        let rows = ids.iter().flat_map(|id| &table[id * hidden..][..hidden]);
        let expected: Vec<f32> = rows.map(|bits| bf16_to_f32(*bits)).collect();
        assert_eq!(as_floats(&buffers[0]), expected);
    });
}

#[test]
fn rms_norm_divides_by_the_root_mean_square_of_the_rows_asked_for() {
    let mut random = RandomNumbers::fresh();
    for (hidden, rows) in [(32, None), (1056, Some([3, 0, 3])), (4096, Some([1, 2, 0]))] {
        let (stream, weight) = (random.numbers(4 * hidden, 3.0), random.numbers(hidden, 1.0));
        let eps = 1e-5;
        let count = rows.map_or(4, |rows| rows.len());
        let arguments = vec![
            poison(count * hidden * 2),
            floats(&stream),
            floats(&weight),
            rows.map_or(Argument::Null, |rows| ints(&rows)),
            Argument::Int(hidden as i32),
            Argument::Float(eps),
        ];
        let chosen = rows.map_or(vec![0, 1, 2, 3], |rows| rows.to_vec());
        let mut expected = Vec::new();
        for row in chosen {
            let row = &stream[row * hidden..][..hidden];
            let squares: f64 = row.iter().map(|number| f64::from(*number).powi(2)).sum();
            let root = (squares / hidden as f64 + f64::from(eps)).sqrt();
            let numbers = row.iter().zip(&weight);
            expected.extend(numbers.map(|(number, by)| f64::from(*number) / root * f64::from(*by)));
        }
        launch("rms_norm", count, arguments).check(|buffers| {
            let found = widened(&as_halves(&buffers[0]));
            assert_close(found, &expected, (BF16, 1e-6), "rms_norm");
        });
    }
}

fn silu(number: f64) -> f64 {
    number / (1.0 + (-number).exp())
}

#[test]
fn gate_multiplies_the_ups_with_the_silu_of_the_gates() {
    let mut random = RandomNumbers::fresh();
    for (rows, each, blocks) in [(1, 32, 1), (3, 416, 2), (2, 1024, 7)] {
        let gate_up = random.halves(rows * 2 * each, 4.0);
        let arguments = vec![
            poison(rows * each * 2),
            halves(&gate_up),
            Argument::Int(each as i32),
            Argument::Int(rows as i32),
        ];
        let expected: Vec<f64> = widened(&gate_up)
            .chunks_exact(2 * each)
            .flat_map(|row| {
                let (gates, ups) = row.split_at(each);
                let gated = gates.iter().zip(ups).map(|(gate, up)| silu(*gate) * up);
                gated.collect::<Vec<_>>()
            })
            .collect();
        launch("gate", blocks, arguments).check(|buffers| {
            let found = widened(&as_halves(&buffers[0]));
            assert_close(found, &expected, (BF16, 1e-6), "gate");
        });
    }
}

#[test]
fn biases_are_added_to_every_row() {
    let mut random = RandomNumbers::fresh();
    let (rows, width) = (3, 160);
    let bias = random.numbers(width, 1.0);
    let with_bias = |numbers: &[f64]| -> Vec<f64> {
        let numbers = numbers.iter().zip(bias.iter().cycle());
        numbers
            .map(|(number, by)| number + f64::from(*by))
            .collect()
    };
    let sizes = || [Argument::Int(width as i32), Argument::Int(rows as i32)];

    let short = random.halves(rows * width, 1.0);
    let expected = with_bias(&widened(&short));
    let mut arguments = vec![halves(&short), floats(&bias)];
    arguments.extend(sizes());
    launch("add_bias", 1, arguments).check(|buffers| {
        let found = widened(&as_halves(&buffers[0]));
        assert_close(found, &expected, (BF16, 1e-6), "add_bias");
    });

    let long = random.numbers(rows * width, 1.0);
    let expected = with_bias(&long.iter().map(|n| f64::from(*n)).collect::<Vec<_>>());
    let mut arguments = vec![floats(&long), floats(&bias)];
    arguments.extend(sizes());
    launch("add_bias_stream", 2, arguments).check(|buffers| {
        let found = as_floats(&buffers[0]).into_iter().map(f64::from);
        assert_close(found, &expected, (1e-6, 1e-6), "add_bias_stream");
    });
}
