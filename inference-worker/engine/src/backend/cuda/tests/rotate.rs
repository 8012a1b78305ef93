use super::super::kernels::{HEADS_TOGETHER, ROTATE, WARPS_THREADS};
use super::*;
use crate::kv::BLOCK;

/// Where keys and values lie in the memory of one head in one block, as rotate.cu has it.
pub(super) fn key_place(shape: Shape, position: usize, component: usize) -> usize {
    let (tile, column) = (position / 2 % 2, position / 4 * 2 + position % 2);
    let (chunk, lane) = (component / 32, column * 4 + component % 32 / 8);
    ((tile * (shape.head_dim / 32) + chunk) * 32 + lane) * 8 + component % 8
}

pub(super) fn value_place(position: usize, component: usize) -> usize {
    let lane = component % 8 * 4 + position / 4;
    (component / 16 * 32 + lane) * 8 + component / 8 % 2 * 4 + position % 4
}

pub(super) const SHAPES: [Shape; 4] = [
    shape(64, 2, 1, true),
    shape(64, 14, 2, false),
    shape(128, 3, 3, true),
    shape(128, 8, 2, false),
];

const fn shape(head_dim: usize, q_heads: usize, kv_heads: usize, qk_norm: bool) -> Shape {
    Shape {
        head_dim,
        q_heads,
        kv_heads,
        qk_norm,
    }
}

#[test]
fn every_position_and_component_has_a_place_of_its_own() {
    for shape in SHAPES {
        let both = [
            &|position, component| key_place(shape, position, component),
            &value_place as &dyn Fn(usize, usize) -> usize,
        ];
        for place in both {
            let all = (0..BLOCK).flat_map(|position| {
                (0..shape.head_dim).map(move |component| (position, component))
            });
            let mut places: Vec<usize> = all.map(|(p, c)| place(p, c)).collect();
            places.sort_unstable();
            assert!(places.into_iter().eq(0..BLOCK * shape.head_dim));
        }
    }
}

#[test]
fn heads_are_normalised_and_turned_and_remembered() {
    for shape in SHAPES {
        check(shape);
    }
}

fn check(shape: Shape) {
    let mut random = RandomNumbers::fresh();
    let (dim, q, kv) = (shape.head_dim, shape.q(), shape.kv());
    let (rows, blocks, positions) = (5, 3, 40);
    let (eps, scale) = (1e-6, 0.17);
    let qkv = random.halves(rows * (q + 2 * kv), 2.0);
    let norms = [random.numbers(dim, 1.0), random.numbers(dim, 1.0)];
    let angles = random.numbers(positions * dim / 2, 3.0);
    let cosines: Vec<f32> = angles.iter().map(|angle| angle.cos()).collect();
    let sines: Vec<f32> = angles.iter().map(|angle| angle.sin()).collect();
    let position: Vec<usize> = (0..rows).map(|_| random.below(positions)).collect();
    let places = random.order(blocks * BLOCK)[..rows - 1].to_vec();

    let mut queries = vec![0.0; rows * q];
    let untouched = vec![f64::NAN; blocks * kv * BLOCK];
    let (mut keys, mut values) = (untouched.clone(), untouched);
    let wide = widened(&qkv);
    for (row, numbers) in wide.chunks_exact(q + 2 * kv).enumerate() {
        for (head, numbers) in numbers.chunks_exact(dim).enumerate() {
            let at = |of: usize| row * q + of * dim;
            let (kind, of) = match head {
                head if head < shape.q_heads => (0, head),
                head if head < shape.q_heads + shape.kv_heads => (1, head - shape.q_heads),
                head => (2, head - shape.q_heads - shape.kv_heads),
            };
            let mut numbers = numbers.to_vec();
            if shape.qk_norm && kind < 2 {
                let squares: f64 = numbers.iter().map(|number| number * number).sum();
                let root = (squares / dim as f64 + f64::from(eps)).sqrt();
                for (number, by) in numbers.iter_mut().zip(&norms[kind]) {
                    *number *= f64::from(*by) / root;
                }
            }
            if kind < 2 {
                for pair in 0..dim / 2 {
                    let turn = position[row] * dim / 2 + pair;
                    let (cosine, sine) = (f64::from(cosines[turn]), f64::from(sines[turn]));
                    let (first, second) = (numbers[pair], numbers[pair + dim / 2]);
                    numbers[pair] = first * cosine - second * sine;
                    numbers[pair + dim / 2] = second * cosine + first * sine;
                }
            }
            if kind == 0 {
                for (query, number) in queries[at(of)..].iter_mut().zip(&numbers) {
                    *query = number * f64::from(scale);
                }
            } else if let Some(place) = places.get(row) {
                let start = (place / BLOCK * shape.kv_heads + of) * BLOCK * dim;
                for (component, number) in numbers.iter().enumerate() {
                    let within = place % BLOCK;
                    match kind {
                        1 => keys[start + key_place(shape, within, component)] = *number,
                        _ => values[start + value_place(within, component)] = *number,
                    }
                }
            }
        }
    }

    let mut all_places = ints(&places);
    if let Argument::Buffer(bytes) = &mut all_places {
        bytes.extend((-1i32).to_le_bytes());
    }
    let heads = shape.q_heads + 2 * shape.kv_heads;
    Launch {
        source: ROTATE,
        shape,
        kernel: "rotate",
        grid: [rows, heads.div_ceil(HEADS_TOGETHER), 1],
        threads: WARPS_THREADS,
        arguments: vec![
            poison(queries.len() * 2),
            poison(keys.len() * 2),
            poison(values.len() * 2),
            halves(&qkv),
            floats(&norms[0]),
            floats(&norms[1]),
            floats(&cosines),
            floats(&sines),
            ints(&position),
            all_places,
            Argument::Float(eps),
            Argument::Float(scale),
        ],
    }
    .check(|buffers| {
        let found: Vec<_> = buffers[..3]
            .iter()
            .map(|b| widened(&as_halves(b)))
            .collect();
        assert_close(found[0].iter().copied(), &queries, (BF16, 1e-2), "queries");
        for (found, expected) in [(&found[1], &keys), (&found[2], &values)] {
            for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
                let close = (found - expected).abs() <= BF16 * expected.abs() + 1e-2;
                assert!(
                    close || found.is_nan() && expected.is_nan(),
                    "{shape:?}: place {at} has {found}, expected {expected}"
                );
            }
        }
    });
}
