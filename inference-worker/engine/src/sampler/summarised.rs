//! Choosing from a summary of the scores, by the same rules as from all of them.

use super::{Choice, Choosing, Sampler, uniform};
use crate::backend::Summary;
use crate::error::Error;

impl Sampler {
    /// The choice that [`choose`](Self::choose) would make without a mask, up to the rounding of
    /// sums; none where the summary does not say which one that is.
    ///
    /// # Errors
    /// As [`choose`](Self::choose).
    pub fn choose_summarised(
        &mut self,
        summary: &Summary,
        choosing: &Choosing,
    ) -> Result<Option<Choice>, Error> {
        let highest = match summary.best.first() {
            _ if summary.strange > 0 => {
                let count = summary.strange;
                return Err(Error::Backend(format!("{count} logits are not numbers")));
            }
            Some((_, highest)) if highest.is_finite() => *highest,
            highest => {
                return Err(Error::Backend(format!("the highest logit is {highest:?}")));
            }
        };
        let enough = summary.complete || choosing.top_logprobs <= summary.best.len();
        if !choosing.is_neutral() || !enough {
            return Ok(None);
        }
        let Some(id) = self.pick_summarised(summary, highest, choosing) else {
            return Ok(None);
        };
        let chosen = summary.best.iter().find(|(other, _)| *other == id);
        Ok(chosen.map(|chosen| {
            let top = summary.best.iter().copied().take(choosing.top_logprobs);
            Choice::told(*chosen, top, highest, summary.sum)
        }))
    }

    fn pick_summarised(
        &mut self,
        summary: &Summary,
        highest: f32,
        choosing: &Choosing,
    ) -> Option<u32> {
        let sampling = &choosing.sampling;
        if sampling.temperature == 0.0 {
            return summary.best.first().map(|(id, _)| *id);
        }
        self.weigh(summary.best.iter().copied(), highest, sampling);
        let whole = summary.complete || self.candidates.len() < summary.best.len();
        let top_k = sampling.top_k as usize;
        if whole || 0 < top_k && top_k < summary.best.len() {
            // All that may be drawn is here. Draws go through it in the order of the ids.
            self.candidates
                .sort_unstable_by_key(|candidate| candidate.id);
            self.narrow(sampling);
        } else if sampling.top_p < 1.0 && sampling.min_p <= 0.0 && top_k == 0 {
            // The nucleus is the beginning of the falling order, if it ends within.
            if !self.cut(f64::from(sampling.top_p) * summary.tempered) {
                return None;
            }
        } else {
            return None;
        }
        Some(self.draw(uniform(sampling.seed, choosing.index)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::after;
    use super::*;
    use crate::request::Sampling;

    const KEPT: usize = 8;

    fn summary(logits: &[f32], temperature: f32) -> Summary {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let logit = |id: u32| logits[id as usize];
        order.sort_by(|a, b| logit(*b).total_cmp(&logit(*a)).then(a.cmp(b)));
        let sum = |temperature: f32| {
            let below = logits
                .iter()
                .map(|other| (other - logit(order[0])) / temperature);
            below.map(|below| f64::from(below).exp()).sum()
        };
        let best = order.iter().take(KEPT).map(|id| (*id, logit(*id)));
        Summary {
            best: best.collect(),
            complete: logits.len() < KEPT,
            sum: sum(1.0),
            tempered: sum(temperature),
            strange: 0,
        }
    }

    #[test]
    fn what_is_chosen_is_what_all_scores_would_give() {
        let base = Sampling {
            temperature: 0.7,
            ..Sampling::GREEDY
        };
        // Whether a summary says enough, for each way to sample.
        let ways = [
            (Sampling::GREEDY, true),
            (base, false),
            (Sampling { top_k: 5, ..base }, true),
            (
                Sampling {
                    top_k: 5,
                    top_p: 0.8,
                    ..base
                },
                true,
            ),
            (Sampling { top_k: 30, ..base }, false),
            (Sampling { top_p: 0.6, ..base }, true),
            (
                Sampling {
                    top_p: 0.999_999,
                    ..base
                },
                false,
            ),
            (Sampling { min_p: 0.3, ..base }, true),
            (
                Sampling {
                    min_p: 0.3,
                    top_p: 0.5,
                    ..base
                },
                true,
            ),
        ];
        let logits: Vec<f32> = (0..50u32)
            .map(|id| -((id * 37 % 50) as f32) * 0.4)
            .collect();
        let mut sampler = Sampler::default();
        for (sampling, enough) in ways {
            for seed in 0..50 {
                let sampling = Sampling { seed, ..sampling };
                let mut choosing = after(sampling, &[], &[]);
                choosing.top_logprobs = 3;
                let temperature = if sampling.temperature > 0.0 { 0.7 } else { 1.0 };
                let brief = summary(&logits, temperature);
                let found = sampler.choose_summarised(&brief, &choosing);
                let all = sampler.choose(&logits, &choosing, None);
                let (found, all) = (found.expect("no error"), all.expect("a choice"));
                let Some(found) = found else {
                    assert!(!enough, "{sampling:?}");
                    continue;
                };
                assert!(enough, "{sampling:?}");
                assert_eq!(found.id, all.id, "{sampling:?}");
                assert!((found.logprob - all.logprob).abs() < 1e-6);
                let ids = |choice: &Choice| -> Vec<u32> {
                    choice.top_logprobs.iter().map(|top| top.id).collect()
                };
                assert_eq!(ids(&found), ids(&all));
            }
        }
    }

    #[test]
    fn adjusted_scores_and_scores_that_are_not_numbers_are_told_apart() {
        let mut sampler = Sampler::default();
        let penalised = Sampling {
            presence_penalty: 1.0,
            ..Sampling::GREEDY
        };
        let mut brief = summary(&[1.0, 2.0], 1.0);
        let found = sampler.choose_summarised(&brief, &after(penalised, &[1], &[]));
        assert!(matches!(found, Ok(None)), "{found:?}");
        brief.strange = 1;
        let refused = sampler.choose_summarised(&brief, &after(Sampling::GREEDY, &[], &[]));
        assert!(matches!(refused, Err(Error::Backend(_))), "{refused:?}");
    }
}
