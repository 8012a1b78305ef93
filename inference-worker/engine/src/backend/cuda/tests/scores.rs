use super::super::kernels::{KEPT, SCORES, SORTED, SORTERS, SUMMARY};
use super::*;

struct Found {
    ids: Vec<u32>,
    best: Vec<f32>,
    whole: Vec<f32>,
}

/// Both kernels, one after the other.
fn summarise(scores: &[f32], temperatures: &[f32], check: impl Fn(&Found)) {
    let rows = temperatures.len();
    let vocabulary = scores.len() / rows;
    let parts = vocabulary.div_ceil(SORTED);
    let launch = |kernel, grid, arguments| Launch {
        source: SCORES,
        shape: SHAPE,
        kernel,
        grid,
        threads: SORTERS,
        arguments,
    };
    let arguments = vec![
        poison(rows * parts * KEPT * 8),
        poison(rows * parts * SUMMARY * 4),
        floats(scores),
        floats(temperatures),
        Argument::Int(vocabulary as i32),
    ];
    launch("summarise", [parts, rows, 1], arguments).check(|buffers| {
        let arguments = vec![
            poison(rows * KEPT * 4),
            poison(rows * KEPT * 4),
            poison(rows * SUMMARY * 4),
            Argument::Buffer(buffers[0].clone()),
            Argument::Buffer(buffers[1].clone()),
            floats(temperatures),
            Argument::Int(parts as i32),
        ];
        launch("summarise_parts", [rows, 1, 1], arguments).check(|buffers| {
            let ids = as_floats(&buffers[0]);
            check(&Found {
                ids: ids.into_iter().map(f32::to_bits).collect(),
                best: as_floats(&buffers[1]),
                whole: as_floats(&buffers[2]),
            });
        });
    });
}

#[test]
fn the_highest_scores_and_the_sums_are_found() {
    let mut random = RandomNumbers::fresh();
    for (rows, vocabulary) in [(1, 50), (2, SORTED), (3, 3 * SORTED + 77)] {
        let mut scores = random.numbers(rows * vocabulary, 6.0);
        // Equals among the highest, and an impossible one.
        scores[vocabulary - 1] = 40.0;
        scores[3] = 40.0;
        scores[5] = f32::NEG_INFINITY;
        let temperatures: Vec<f32> = (0..rows).map(|row| [1.0, 0.3, 1.7][row]).collect();
        summarise(&scores, &temperatures, |found| {
            for (row, scores) in scores.chunks_exact(vocabulary).enumerate() {
                let mut order: Vec<usize> = (0..vocabulary).collect();
                order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
                let kept = KEPT.min(vocabulary);
                let expected: Vec<u32> = order[..kept].iter().map(|id| *id as u32).collect();
                assert_eq!(found.ids[row * KEPT..][..kept], expected, "row {row}");
                let best: Vec<f32> = order[..kept].iter().map(|id| scores[*id]).collect();
                assert_eq!(found.best[row * KEPT..][..kept], best, "row {row}");
                let nothing = &found.best[row * KEPT + kept..][..KEPT - kept];
                assert!(nothing.iter().all(|score| *score == f32::NEG_INFINITY));
                let sum = |temperature: f32| -> f64 {
                    let below = scores.iter().map(|score| f64::from(score - best[0]));
                    below
                        .map(|below| (below / f64::from(temperature)).exp())
                        .sum()
                };
                let whole = &found.whole[row * SUMMARY..][..SUMMARY];
                assert_eq!((whole[0], whole[3]), (best[0], 0.0));
                let sums = [sum(1.0), sum(temperatures[row])];
                let found = whole[1..3].iter().map(|sum| f64::from(*sum));
                assert_close(found, &sums, (1e-5, 0.0), "sums");
            }
        });
    }
}

#[test]
fn what_is_not_a_number_is_counted() {
    let mut scores = RandomNumbers::fresh().numbers(2 * 3000, 1.0);
    scores[10] = f32::NAN;
    scores[2990] = -f32::NAN;
    scores[3000..].fill(f32::NEG_INFINITY);
    summarise(&scores, &[1.0, 1.0], |found| {
        assert_eq!(found.whole[3], 2.0);
        assert_eq!(found.whole[SUMMARY], f32::NEG_INFINITY);
        assert_eq!(found.whole[SUMMARY + 3], 0.0);
    });
}
