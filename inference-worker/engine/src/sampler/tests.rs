//! Choices against their definition, computed naively in f64.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::request::Request;

const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, 2.0, -30.0];
const WARM: Sampling = Sampling {
    temperature: 1.0,
    ..Sampling::GREEDY
};

pub(super) fn after(sampling: Sampling, prompt: &[u32], generated: &[u32]) -> Choosing {
    Choosing::new(&Request {
        sampling,
        generated: generated.to_vec(),
        ..Request::new(prompt.to_vec(), 0)
    })
}

fn choose(logits: &[f32], choosing: &Choosing) -> Choice {
    Sampler::default()
        .choose(logits, choosing, None)
        .expect("a choice")
}

/// How often each id is chosen among so many.
fn draws(logits: &[f32], sampling: Sampling, count: u64) -> BTreeMap<u32, u64> {
    let mut sampler = Sampler::default();
    let mut choosing = after(sampling, &[], &[]);
    let mut seen = BTreeMap::new();
    for index in 0..count {
        choosing.index = index;
        let choice = sampler.choose(logits, &choosing, None).expect("a choice");
        *seen.entry(choice.id).or_default() += 1;
    }
    seen
}

#[test]
fn greedy_takes_the_first_of_the_likeliest_and_reports_its_raw_probability() {
    let choice = choose(&LOGITS, &after(Sampling::GREEDY, &[], &[]));
    let sum: f64 = LOGITS.iter().map(|logit| f64::from(*logit).exp()).sum();
    assert_eq!(choice.id, 1);
    assert!((f64::from(choice.logprob) - (2.0 - sum.ln())).abs() < 1e-6);
}

#[test]
fn log_probabilities_ignore_everything_that_is_asked_for() {
    let request = Request {
        sampling: Sampling {
            temperature: 0.3,
            top_p: 0.5,
            top_k: 2,
            min_p: 0.9,
            repetition_penalty: 3.0,
            presence_penalty: 1.0,
            frequency_penalty: 1.0,
            seed: 1,
        },
        logit_bias: vec![(2, 100.0)],
        top_logprobs: 20,
        generated: vec![1, 1, 3],
        ..Request::new(vec![1], 9)
    };
    let choice = choose(&LOGITS, &Choosing::new(&request));
    let sum: f64 = LOGITS.iter().map(|logit| f64::from(*logit).exp()).sum();
    let raw = |id: u32| f64::from(LOGITS[id as usize]) - sum.ln();
    assert_eq!(choice.id, 2);
    assert!((f64::from(choice.logprob) - raw(2)).abs() < 1e-6);
    let ids: Vec<u32> = choice.top_logprobs.iter().map(|top| top.id).collect();
    assert_eq!(ids, [1, 3, 2, 0, 4]);
    for top in choice.top_logprobs {
        assert!((f64::from(top.logprob) - raw(top.id)).abs() < 1e-5);
    }
}

#[test]
fn draws_follow_the_distribution() {
    let sampling = Sampling { seed: 42, ..WARM };
    let seen = draws(&LOGITS, sampling, 20_000);
    let sum: f64 = LOGITS.iter().map(|logit| f64::from(*logit).exp()).sum();
    for id in 0..4 {
        let expected = f64::from(LOGITS[id as usize]).exp() / sum;
        let share = seen[&id] as f64 / 20_000.0;
        // Six standard deviations at the least: below 0.0036 each.
        assert!(
            (share - expected).abs() < 0.022,
            "id {id}: {share} {expected}"
        );
    }
}

#[test]
fn truncation_keeps_only_the_likeliest() {
    let all = Sampling { seed: 7, ..WARM };
    let kept = |sampling| {
        draws(&LOGITS, sampling, 500)
            .into_keys()
            .collect::<Vec<_>>()
    };
    assert_eq!(kept(Sampling { top_k: 1, ..all }), [1]);
    assert_eq!(kept(Sampling { top_k: 3, ..all }), [1, 2, 3]);
    assert_eq!(kept(Sampling { top_p: 0.01, ..all }), [1]);
    // The two likeliest hold 0.80 of the probability.
    assert_eq!(kept(Sampling { top_p: 0.75, ..all }), [1, 3]);
    assert_eq!(kept(Sampling { top_p: 0.85, ..all }), [1, 2, 3]);
    // Id 2 has 0.37 of the likeliest one's probability, id 0 has 0.14.
    assert_eq!(kept(Sampling { min_p: 0.4, ..all }), [1, 3]);
    assert_eq!(kept(Sampling { min_p: 0.3, ..all }), [1, 2, 3]);
    assert_eq!(kept(Sampling { min_p: 1.0, ..all }), [1, 3]);
    let cold = Sampling {
        temperature: 1e-30,
        ..all
    };
    assert_eq!(kept(cold), [1, 3]);
}

#[test]
fn penalties_are_those_of_their_definitions() {
    let logits = [3.0, -1.0, 0.5, 0.0];
    let adjusted = |sampling, prompt: &[u32], generated: &[u32]| {
        let mut logits = logits;
        after(sampling, prompt, generated).adjust(&mut logits);
        logits
    };
    let repetition = Sampling {
        repetition_penalty: 2.0,
        ..WARM
    };
    assert_eq!(adjusted(repetition, &[0], &[1, 1]), [1.5, -2.0, 0.5, 0.0]);
    let presence = Sampling {
        presence_penalty: 0.5,
        ..WARM
    };
    assert_eq!(adjusted(presence, &[0], &[1, 1]), [3.0, -1.5, 0.5, 0.0]);
    let frequency = Sampling {
        frequency_penalty: 0.5,
        ..WARM
    };
    assert_eq!(
        adjusted(frequency, &[0, 0], &[1, 1, 3]),
        [3.0, -2.0, 0.5, -0.5]
    );
    // Greedy choices follow them too.
    let strong = Sampling {
        frequency_penalty: 2.0,
        ..Sampling::GREEDY
    };
    assert_eq!(choose(&logits, &after(strong, &[], &[0])).id, 0);
    assert_eq!(choose(&logits, &after(strong, &[], &[0, 0])).id, 2);
}

#[test]
fn logits_that_are_no_distribution_are_refused() {
    let biased = Choosing::new(&Request {
        logit_bias: vec![(0, 1.0)],
        ..Request::new(vec![0], 1)
    });
    for logits in [
        &[][..],
        &[0.0, f32::NAN],
        &[f32::INFINITY],
        &[f32::NEG_INFINITY],
    ] {
        for choosing in [&biased, &after(WARM, &[], &[])] {
            let result = Sampler::default().choose(logits, choosing, None);
            assert!(
                matches!(result, Err(Error::Backend(_))),
                "{logits:?}: {result:?}"
            );
        }
    }
}

/// Ids in falling order of probability with their probabilities, the lower id first among equals.
fn reference(logits: &[f32], sampling: &Sampling) -> Vec<(u32, f64)> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut all: Vec<(u32, f64)> = (0..)
        .zip(logits)
        .map(|(id, logit)| {
            let scaled = (f64::from(*logit) - f64::from(highest)) / f64::from(sampling.temperature);
            (id, scaled.exp())
        })
        .collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all
}

/// What [`Sampler::keep`] must keep at the least and may keep at the most: the definition with its
/// bounds moved by the rounding of f32.
fn bounds(logits: &[f32], sampling: &Sampling) -> [usize; 2] {
    const ROUNDING: f64 = 1e-4;
    let all = reference(logits, sampling);
    [1.0 + ROUNDING, 1.0 - ROUNDING].map(|moved| {
        let min_p = f64::from(sampling.min_p) * moved;
        // Where an f32 begins to lose bits, and where it is 0.
        let floor = if moved > 1.0 { 1e-36 } else { 1e-46 };
        let mut kept: Vec<f64> = all
            .iter()
            .map(|(_, weight)| *weight)
            .filter(|weight| *weight >= min_p.min(1.0) && *weight > floor)
            .collect();
        if sampling.top_k > 0 {
            kept.truncate(sampling.top_k as usize);
        }
        let nucleus = f64::from(sampling.top_p) * kept.iter().sum::<f64>() / moved;
        let mut sum = 0.0;
        let needed = kept.iter().take_while(|weight| {
            let before = sum;
            sum += **weight;
            before < nucleus
        });
        needed.count()
    })
}

fn any_logits() -> impl Strategy<Value = Vec<f32>> {
    let logit = prop_oneof![
        8 => -8.0f32..8.0,
        // Ties, and what a mask leaves.
        2 => (-3i8..3).prop_map(f32::from),
        1 => Just(f32::NEG_INFINITY),
    ];
    let some = proptest::collection::vec(logit, 1..60);
    some.prop_filter("one is possible", |all| all.iter().any(|l| l.is_finite()))
}

fn any_sampling() -> impl Strategy<Value = Sampling> {
    (
        0.1f32..3.0,
        prop_oneof![Just(1.0f32), 0.01f32..1.0],
        0u32..20,
        prop_oneof![Just(0.0f32), 0.0f32..=1.0],
        any::<u64>(),
    )
        .prop_map(|(temperature, top_p, top_k, min_p, seed)| Sampling {
            temperature,
            top_p,
            top_k,
            min_p,
            seed,
            ..Sampling::GREEDY
        })
}

proptest! {
    #[test]
    fn what_is_kept_is_what_the_definitions_keep(logits in any_logits(), sampling in any_sampling()) {
        let mut sampler = Sampler::default();
        let highest = Highest::of(&logits).expect("a finite one");
        sampler.keep(&logits, highest.logit, &sampling);
        let mut kept: Vec<u32> = sampler.candidates.iter().map(|candidate| candidate.id).collect();
        let [least, most] = bounds(&logits, &sampling);
        prop_assert!((least..=most).contains(&kept.len()), "{} of {least}..={most}", kept.len());
        // Rounding may exchange candidates of nearly the same weight, never others.
        kept.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
        let all = reference(&logits, &sampling);
        let weight = |id: u32| all.iter().find(|each| each.0 == id).map_or(0.0, |each| each.1);
        for (found, (_, exact)) in kept.iter().zip(&all) {
            prop_assert!((weight(*found) - exact).abs() <= 1e-4 * exact);
        }
    }

    #[test]
    fn an_impossible_token_is_never_chosen(
        logits in any_logits(), sampling in any_sampling(), generated in proptest::collection::vec(0u32..60, 0..20),
        repetition_penalty in 0.5f32..2.0, presence_penalty in -2.0f32..2.0,
    ) {
        let sampling = Sampling { repetition_penalty, presence_penalty, ..sampling };
        let request = Request { sampling, generated, top_logprobs: 5, ..Request::new(vec![0], 20) };
        let choice = choose(&logits, &Choosing::new(&request));
        prop_assert!(logits[choice.id as usize].is_finite() && choice.logprob.is_finite());
        prop_assert!(choice.top_logprobs.iter().all(|top| top.logprob.is_finite()));
    }

    #[test]
    fn the_top_is_the_head_of_the_sorted_whole(logits in any_logits(), count in 0usize..=20) {
        let mut sorted: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        sorted.retain(|(_, logit)| logit.is_finite());
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        sorted.truncate(count);
        let top: Vec<(u32, f32)> = top(&logits, count);
        let same = |(a, b): (&(u32, f32), &(u32, f32))| a.0 == b.0 && a.1 == b.1;
        prop_assert!(top.len() == sorted.len() && top.iter().zip(&sorted).all(same), "{top:?} {sorted:?}");
    }

    /// Ids are chosen one after another; resumed anywhere, the rest is the same.
    #[test]
    fn resumed_choices_equal_uninterrupted_ones(
        logits in any_logits(), sampling in any_sampling(), cut in 0usize..12,
        (repetition_penalty, presence_penalty, frequency_penalty) in (0.5f32..2.0, -2.0f32..2.0, -2.0f32..2.0),
        bias in -5.0f32..5.0,
    ) {
        let sampling = Sampling { repetition_penalty, presence_penalty, frequency_penalty, ..sampling };
        let request = |generated: Vec<u32>| Request {
            sampling,
            logit_bias: vec![(0, bias)],
            top_logprobs: 2,
            generated,
            ..Request::new(vec![0, 2], 12)
        };
        let mut sampler = Sampler::default();
        let mut go_on = |mut choosing: Choosing, count: usize| -> Vec<Choice> {
            (0..count)
                .map(|_| {
                    let choice = sampler.choose(&logits, &choosing, None).expect("a choice");
                    choosing.push(choice.id);
                    choice
                })
                .collect()
        };
        let whole = go_on(Choosing::new(&request(vec![])), 12);
        let published = whole[..cut].iter().map(|choice| choice.id).collect();
        let rest = go_on(Choosing::new(&request(published)), 12 - cut);
        prop_assert_eq!(&rest[..], &whole[cut..]);
    }
}
