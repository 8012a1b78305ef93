//! Fitting a calibration, and how far certainties are from the truth.

use super::{Calibration, log_odds, sigmoid};

/// Answers that it takes at least.
pub const LEAST: usize = 20;
/// Ranges of certainty of equal width that [`error`] compares.
pub const BINS: usize = 10;
/// Each part is rated by what was fitted to the others.
const PARTS: usize = 5;
/// Newton's method is there long before.
const STEPS: usize = 100;
/// Of the slope's and the offset's squares in what is minimised: without it there is no minimum
/// where the certainty separates right from wrong.
const RIDGE: f64 = 1e-3;

/// An answer whose rightness is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rated {
    /// Geometric mean probability of its tokens.
    pub certainty: f64,
    /// Whether it is what was expected.
    pub right: bool,
}

/// A calibration and what it is worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fitted {
    /// Fitted to all answers.
    pub calibration: Calibration,
    /// Expected calibration error of the bare certainties.
    pub before: f64,
    /// Of calibrated ones: each answer rated by a calibration that was fitted without it.
    pub after: f64,
}

/// Answers tell nothing about certainties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFitted {
    /// Too few.
    #[error("{0} answers are too few: at least {LEAST}")]
    TooFew(usize),
    /// All alike.
    #[error("all {0} answers are right: some must be wrong to tell them apart")]
    AllRight(usize),
    /// All alike.
    #[error("all {0} answers are wrong: some must be right to tell them apart")]
    AllWrong(usize),
}

/// Fits a calibration.
///
/// # Errors
/// Where the answers are too few or all alike.
pub fn fit(answers: &[Rated]) -> Result<Fitted, NotFitted> {
    let count = answers.len();
    if count < LEAST {
        return Err(NotFitted::TooFew(count));
    }
    match answers.iter().filter(|answer| answer.right).count() {
        0 => return Err(NotFitted::AllWrong(count)),
        right if right == count => return Err(NotFitted::AllRight(count)),
        _ => {}
    }
    let rated = (0..PARTS).flat_map(|part| {
        let others: Vec<Rated> = pick(answers, |at| at % PARTS != part);
        let calibration = curve(&others);
        let own = pick(answers, |at| at % PARTS == part).into_iter();
        own.map(move |answer| Rated {
            certainty: calibration.apply(answer.certainty),
            ..answer
        })
    });
    Ok(Fitted {
        calibration: curve(answers),
        before: error(answers),
        after: error(&rated.collect::<Vec<_>>()),
    })
}

fn pick(answers: &[Rated], wanted: impl Fn(usize) -> bool) -> Vec<Rated> {
    let numbered = answers.iter().enumerate();
    let picked = numbered.filter(|(at, _)| wanted(*at));
    picked.map(|(_, answer)| *answer).collect()
}

/// Expected calibration error: over [`BINS`] ranges of certainty, how far the mean certainty is from
/// the share of right answers, weighted by answers.
pub fn error(answers: &[Rated]) -> f64 {
    let mut bins = [(0.0, 0.0); BINS];
    for answer in answers {
        let place = (answer.certainty * BINS as f64) as usize;
        let (certainty, right) = &mut bins[place.min(BINS - 1)];
        *certainty += answer.certainty;
        *right += f64::from(u8::from(answer.right));
    }
    let apart: f64 = bins
        .iter()
        .map(|(certainty, right)| (certainty - right).abs())
        .sum();
    apart / answers.len().max(1) as f64
}

/// The curve of greatest likelihood, by Newton's method.
fn curve(answers: &[Rated]) -> Calibration {
    // Platt's targets: as if there were one right and one wrong answer more.
    let right = answers.iter().filter(|answer| answer.right).count() as f64;
    let wrong = answers.len() as f64 - right;
    let (high, low) = ((right + 1.0) / (right + 2.0), 1.0 / (wrong + 2.0));
    let (mut slope, mut offset) = (0.0, ((right + 1.0) / (wrong + 1.0)).ln());
    for _ in 0..STEPS {
        let (mut by_slope, mut by_offset) = (RIDGE * slope, RIDGE * offset);
        let (mut slopes, mut both, mut offsets) = (RIDGE, 0.0, RIDGE);
        for answer in answers {
            let x = log_odds(answer.certainty);
            let rated = sigmoid(slope * x + offset);
            let (miss, weight) = match answer.right {
                true => (rated - high, rated * (1.0 - rated)),
                false => (rated - low, rated * (1.0 - rated)),
            };
            by_slope += miss * x;
            by_offset += miss;
            slopes += weight * x * x;
            both += weight * x;
            offsets += weight;
        }
        let determinant = slopes * offsets - both * both;
        let step = (
            (offsets * by_slope - both * by_offset) / determinant,
            (slopes * by_offset - both * by_slope) / determinant,
        );
        // A long step from a flat place may overshoot.
        let length = step.0.hypot(step.1);
        let shorter = if length > 1.0 { 1.0 / length } else { 1.0 };
        slope -= step.0 * shorter;
        offset -= step.1 * shorter;
        if length < 1e-10 {
            break;
        }
    }
    match slope < 0.0 {
        // The less certain answers are right more often: the order is kept, and all are alike.
        true => Calibration {
            slope: 0.0,
            offset: ((right + 1.0) / (wrong + 1.0)).ln(),
        },
        false => Calibration { slope, offset },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Answers with these certainties, of each of which this share is right.
    fn answers(groups: &[(f64, usize, usize)]) -> Vec<Rated> {
        let each = groups.iter().flat_map(|&(certainty, right, of)| {
            (0..of).map(move |n| Rated {
                certainty,
                right: n < right,
            })
        });
        // Parts are taken by place: neighbours go to different ones.
        each.collect()
    }

    #[test]
    fn what_is_too_certain_is_put_right() {
        let answers = answers(&[(0.99, 60, 100), (0.95, 40, 100), (0.8, 10, 100)]);
        assert!(
            (error(&answers) - (0.39 * 100.0 + 0.55 * 100.0 + 0.7 * 100.0) / 300.0).abs() < 1e-9
        );
        let fitted = fit(&answers).unwrap();
        assert!(fitted.before > 0.5 && fitted.after < 0.1, "{fitted:?}");
        let rated = fitted.calibration.apply(0.95);
        assert!((0.3..0.5).contains(&rated), "{rated}");
    }

    #[test]
    fn what_tells_nothing_is_refused_and_what_misleads_is_flattened() {
        assert_eq!(fit(&answers(&[(0.9, 1, 19)])), Err(NotFitted::TooFew(19)));
        assert_eq!(
            fit(&answers(&[(0.9, 20, 20)])),
            Err(NotFitted::AllRight(20))
        );
        assert_eq!(fit(&answers(&[(0.9, 0, 20)])), Err(NotFitted::AllWrong(20)));
        let fitted = fit(&answers(&[(0.9, 5, 50), (0.3, 45, 50)])).unwrap();
        assert_eq!(fitted.calibration.slope, 0.0);
        assert!((fitted.calibration.apply(0.9) - 0.5).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn any_answers_give_a_curve_that_keeps_their_order(
            answers in proptest::collection::vec((0.0f64..=1.0, any::<bool>()), LEAST..80),
        ) {
            let answers: Vec<Rated> = answers
                .into_iter()
                .map(|(certainty, right)| Rated { certainty, right })
                .collect();
            if let Ok(Fitted { calibration, before, after }) = fit(&answers) {
                prop_assert!(calibration.slope >= 0.0 && calibration.slope.is_finite());
                prop_assert!(calibration.offset.is_finite());
                prop_assert!((0.0..=1.0).contains(&before) && (0.0..=1.0).contains(&after));
                prop_assert!((0.0..=1.0).contains(&calibration.apply(0.5)));
            }
        }
    }
}
