//! Chooses the next token from the logits.
//!
//! A choice depends on the logits, the request and the ids so far ([`Choosing`]), and on the random
//! number of its index, which is why a resumed generation goes on as an uninterrupted one.

mod choosing;
mod random;
mod summarised;

pub use choosing::Choosing;

pub(crate) use self::random::uniform;
use crate::error::Error;
use crate::generation::TopLogprob;
use crate::grammar::Mask;
use crate::request::Sampling;

/// A chosen token.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Its id.
    pub id: u32,
    /// Natural logarithm of its probability under the unmodified logits.
    pub logprob: f32,
    /// The likeliest tokens under the unmodified logits, as many as were asked for; those that
    /// are impossible are left out.
    pub top_logprobs: Vec<TopLogprob>,
}

impl Choice {
    /// Of the chosen id and the likeliest ones with their logits, the highest logit, and the sum of
    /// exp(logit - highest) over all.
    fn told(
        chosen: (u32, f32),
        top: impl IntoIterator<Item = (u32, f32)>,
        highest: f32,
        sum: f64,
    ) -> Self {
        let log_sum = sum.ln();
        let logprob = |logit: f32| (f64::from(logit - highest) - log_sum) as f32;
        let (id, logit) = chosen;
        Self {
            id,
            logprob: logprob(logit),
            top_logprobs: top
                .into_iter()
                .map(|(id, logit)| TopLogprob {
                    id,
                    logprob: logprob(logit),
                })
                .collect(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    id: u32,
    /// Proportional to the probability, 1 for the likeliest; above 0.
    weight: f32,
}

/// Holds memory between choices and nothing else.
#[derive(Debug, Default)]
pub struct Sampler {
    candidates: Vec<Candidate>,
    adjusted: Vec<f32>,
}

impl Sampler {
    /// Chooses the generation's next token, one of those in `allowed` where there is such a mask.
    ///
    /// # Errors
    /// [`Error::Backend`] when there are no logits, or they hold a NaN or no finite maximum.
    pub fn choose(
        &mut self,
        logits: &[f32],
        choosing: &Choosing,
        allowed: Option<&Mask>,
    ) -> Result<Choice, Error> {
        let likeliest = Highest::of(logits)?;
        let id = if choosing.is_neutral() && allowed.is_none() {
            self.pick(logits, likeliest, choosing)
        } else {
            let mut adjusted = std::mem::take(&mut self.adjusted);
            adjusted.clear();
            adjusted.extend_from_slice(logits);
            choosing.adjust(&mut adjusted);
            if let Some(mask) = allowed {
                mask.apply(&mut adjusted);
            }
            let picked =
                Highest::of(&adjusted).map(|highest| self.pick(&adjusted, highest, choosing));
            self.adjusted = adjusted;
            picked?
        };
        let sum: f64 = logits
            .iter()
            .map(|logit| f64::from((logit - likeliest.logit).exp()))
            .sum();
        let top = top(logits, choosing.top_logprobs);
        let chosen = (id, logits[id as usize]);
        Ok(Choice::told(chosen, top, likeliest.logit, sum))
    }

    fn pick(&mut self, logits: &[f32], highest: Highest, choosing: &Choosing) -> u32 {
        let sampling = &choosing.sampling;
        if sampling.temperature == 0.0 {
            return highest.id;
        }
        self.keep(logits, highest.logit, sampling);
        self.draw(uniform(sampling.seed, choosing.index))
    }

    /// Fills `candidates` with what may be drawn.
    fn keep(&mut self, logits: &[f32], highest: f32, sampling: &Sampling) {
        self.weigh((0..).zip(logits.iter().copied()), highest, sampling);
        self.narrow(sampling);
    }

    /// Fills `candidates` with what has a chance and is likely enough.
    fn weigh(
        &mut self,
        logits: impl Iterator<Item = (u32, f32)>,
        highest: f32,
        sampling: &Sampling,
    ) {
        let Sampling {
            temperature, min_p, ..
        } = *sampling;
        let weighed = logits.map(|(id, logit)| Candidate {
            id,
            weight: ((logit - highest) / temperature).exp(),
        });
        self.candidates.clear();
        self.candidates.extend(
            weighed.filter(|candidate| candidate.weight > 0.0 && candidate.weight >= min_p),
        );
    }

    /// Leaves of all candidates, in the order of their ids, those that may be drawn.
    fn narrow(&mut self, sampling: &Sampling) {
        self.keep_top_k(sampling.top_k as usize);
        if sampling.top_p < 1.0 {
            self.keep_top_p(f64::from(sampling.top_p));
        }
    }

    fn draw(&self, uniform: f64) -> u32 {
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
        self.cut(p * total);
    }

    /// Keeps the first candidates that weigh this much together; false, and all, where all weigh
    /// less.
    fn cut(&mut self, mut left: f64) -> bool {
        let last = self.candidates.iter().position(|candidate| {
            left -= f64::from(candidate.weight);
            left <= 0.0
        });
        if let Some(last) = last {
            self.candidates.truncate(last + 1);
        }
        last.is_some()
    }
}

/// The highest logit, the first among equals.
#[derive(Debug, Clone, Copy)]
struct Highest {
    id: u32,
    logit: f32,
}

impl Highest {
    fn of(logits: &[f32]) -> Result<Self, Error> {
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
            Some(highest) if highest.is_finite() => Ok(Self {
                id: best as u32,
                logit: *highest,
            }),
            highest => Err(Error::Backend(format!("the highest logit is {highest:?}"))),
        }
    }
}

/// The `count` highest logits in falling order, the lower id first among equals.
fn top(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut top: Vec<(u32, f32)> = Vec::with_capacity(count);
    if count == 0 {
        return top;
    }
    for (id, logit) in (0..).zip(logits) {
        let full = top.len() == count;
        if logit.is_infinite() || full && top.last().is_some_and(|last| last.1 >= *logit) {
            continue;
        }
        top.truncate(count - 1);
        let place = top.partition_point(|other| other.1 >= *logit);
        top.insert(place, (id, *logit));
    }
    top
}

fn likelier_first(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id))
}

#[cfg(test)]
mod tests;
