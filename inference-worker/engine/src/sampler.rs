//! Chooses the next token from the logits.
//!
//! The random number for a token depends on the seed and the token's index alone (a counter-based
//! generator: Salmon et al., 2011, <https://doi.org/10.1145/2063384.2063405>), so there is no
//! state to lose when a generation is interrupted and resumed.

use crate::error::Error;
use crate::generation::Sampling;

/// A chosen token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Its id.
    pub id: u32,
    /// Natural logarithm of its probability under the unmodified logits.
    pub logprob: f32,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    /// Proportional to the probability, 1 for the likeliest.
    weight: f32,
}

/// Holds memory between choices and nothing else.
#[derive(Debug, Default)]
pub struct Sampler {
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// Chooses the generation's `index`th token, counting from 0 and resumed ones too.
    ///
    /// # Errors
    /// [`Error::Backend`] when there are no logits, or they hold a NaN or no finite maximum.
    pub fn choose(
        &mut self,
        logits: &[f32],
        sampling: &Sampling,
        index: u64,
    ) -> Result<Choice, Error> {
        let likeliest = likeliest(logits)?;
        let highest = logits[likeliest];
        let id = match sampling.temperature == 0.0 {
            true => likeliest as u32,
            false => self.draw(logits, highest, sampling, uniform(sampling.seed, index)),
        };
        let sum: f64 = logits
            .iter()
            .map(|logit| f64::from((logit - highest).exp()))
            .sum();
        let logprob = f64::from(logits[id as usize] - highest) - sum.ln();
        Ok(Choice {
            id,
            logprob: logprob as f32,
        })
    }

    fn draw(&mut self, logits: &[f32], highest: f32, sampling: &Sampling, uniform: f64) -> u32 {
        let temperature = sampling.temperature;
        let weigh = |logit: f32| ((logit - highest) / temperature).exp();
        self.candidates.clear();
        self.candidates
            .extend((0..).zip(logits).map(|(id, logit)| Candidate {
                id,
                weight: weigh(*logit),
            }));
        self.keep_top_k(sampling.top_k as usize);
        if sampling.top_p < 1.0 {
            self.keep_top_p(f64::from(sampling.top_p));
        }
        let mut left = uniform * self.total();
        for candidate in &self.candidates {
            left -= f64::from(candidate.weight);
            if left < 0.0 {
                return candidate.id;
            }
        }
        // Rounding can leave a rest after the last one.
        self.candidates.last().map_or(0, |candidate| candidate.id)
    }

    fn total(&self) -> f64 {
        self.candidates
            .iter()
            .map(|candidate| f64::from(candidate.weight))
            .sum()
    }

    fn keep_top_k(&mut self, k: usize) {
        if 0 < k && k < self.candidates.len() {
            self.candidates
                .select_nth_unstable_by(k - 1, likelier_first);
            self.candidates.truncate(k);
            self.candidates.sort_unstable_by(likelier_first);
        }
    }

    fn keep_top_p(&mut self, p: f64) {
        let total = self.total();
        // All candidates below this weight together hold less than 1 - p, so the nucleus is among
        // the others, and only those few need sorting.
        let negligible = total * (1.0 - p) / self.candidates.len() as f64;
        self.candidates
            .retain(|candidate| f64::from(candidate.weight) >= negligible);
        self.candidates.sort_unstable_by(likelier_first);
        let mut left = p * total;
        let kept = self.candidates.iter().position(|candidate| {
            left -= f64::from(candidate.weight);
            left <= 0.0
        });
        if let Some(last) = kept {
            self.candidates.truncate(last + 1);
        }
    }
}

/// The highest logit's place, the first among equals.
fn likeliest(logits: &[f32]) -> Result<usize, Error> {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if logit.is_nan() {
            return Err(Error::Backend(format!(
                "the logit of id {id} is not a number"
            )));
        }
        if *logit > logits[best] {
            best = id;
        }
    }
    match logits.get(best) {
        Some(highest) if highest.is_finite() => Ok(best),
        highest => Err(Error::Backend(format!("the highest logit is {highest:?}"))),
    }
}

fn likelier_first(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id))
}

/// A number in [0, 1), the same for the same arguments.
fn uniform(seed: u64, index: u64) -> f64 {
    let key = [seed as u32, (seed >> 32) as u32];
    let [low, high, ..] = philox([index as u32, (index >> 32) as u32, 0, 0], key);
    let bits = u64::from(high) << 32 | u64::from(low);
    // The upper 53 bits are what an f64 holds exactly.
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// Philox4x32-10.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [
            key[0].wrapping_add(0x9E37_79B9),
            key[1].wrapping_add(0xBB67_AE85),
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, 2.0, -30.0];

    fn draws(sampling: Sampling, count: u64) -> BTreeMap<u32, u64> {
        let mut sampler = Sampler::default();
        let mut seen = BTreeMap::new();
        for index in 0..count {
            let choice = sampler.choose(&LOGITS, &sampling, index).expect("a choice");
            *seen.entry(choice.id).or_default() += 1;
        }
        seen
    }

    #[test]
    fn philox_matches_the_known_answers_of_random123() {
        assert_eq!(
            philox([0; 4], [0; 2]),
            [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]
        );
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]
        );
    }

    #[test]
    fn greedy_takes_the_first_of_the_likeliest_and_reports_its_raw_probability() {
        let choice = Sampler::default()
            .choose(&LOGITS, &Sampling::GREEDY, 0)
            .expect("a choice");
        let sum: f64 = LOGITS.iter().map(|logit| f64::from(*logit).exp()).sum();
        assert_eq!(choice.id, 1);
        assert!((f64::from(choice.logprob) - (2.0 - sum.ln())).abs() < 1e-6);
    }

    #[test]
    fn the_logprob_ignores_the_sampling() {
        let sampling = Sampling {
            temperature: 0.3,
            top_p: 0.5,
            top_k: 2,
            seed: 1,
        };
        let choice = Sampler::default()
            .choose(&LOGITS, &sampling, 0)
            .expect("a choice");
        let greedy = Sampler::default()
            .choose(&LOGITS, &Sampling::GREEDY, 0)
            .expect("a choice");
        assert_eq!(choice.logprob, greedy.logprob);
    }

    #[test]
    fn draws_follow_the_distribution() {
        let sampling = Sampling {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            seed: 42,
        };
        let seen = draws(sampling, 20_000);
        let sum: f64 = LOGITS.iter().map(|logit| f64::from(*logit).exp()).sum();
        for id in 0..4 {
            let expected = f64::from(LOGITS[id as usize]).exp() / sum;
            let share = seen[&id] as f64 / 20_000.0;
            assert!(
                (share - expected).abs() < 0.015,
                "id {id}: {share} {expected}"
            );
        }
    }

    #[test]
    fn top_k_and_top_p_keep_only_the_likeliest() {
        let all = Sampling {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            seed: 7,
        };
        let kept = |sampling| draws(sampling, 500).into_keys().collect::<Vec<_>>();
        assert_eq!(kept(Sampling { top_k: 1, ..all }), [1]);
        assert_eq!(kept(Sampling { top_k: 3, ..all }), [1, 2, 3]);
        assert_eq!(kept(Sampling { top_p: 0.01, ..all }), [1]);
        // The two likeliest hold 0.80 of the probability.
        assert_eq!(kept(Sampling { top_p: 0.75, ..all }), [1, 3]);
        assert_eq!(kept(Sampling { top_p: 0.85, ..all }), [1, 2, 3]);
        assert_eq!(
            kept(Sampling {
                temperature: 1e-30,
                ..all
            }),
            [1, 3]
        );
    }

    #[test]
    fn logits_that_are_no_distribution_are_refused() {
        for logits in [
            &[][..],
            &[0.0, f32::NAN],
            &[f32::INFINITY],
            &[f32::NEG_INFINITY],
        ] {
            let result = Sampler::default().choose(logits, &Sampling::GREEDY, 0);
            assert!(
                matches!(result, Err(Error::Backend(_))),
                "{logits:?}: {result:?}"
            );
        }
    }
}
