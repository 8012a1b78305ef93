//! The scheduler with a backend whose scores lie on a device, which may be lost.

use super::tests::{VOCABULARY, collect, request, start_with};
use super::*;
use crate::backend::{Run, Summarising, Summary};
use crate::generation::Finish;
use crate::request::Sampling;

/// Summaries hold so many scores.
const KEPT: usize = 4;

/// The likeliest id is the last one plus one; others follow it in the order of their distance.
#[derive(Default)]
struct Device {
    scores: Vec<Vec<f32>>,
    /// Feeding this id loses the device.
    loses: Option<u32>,
    /// How often all scores were asked for.
    asked: Arc<Mutex<usize>>,
}

impl Backend for Device {
    fn blocks(&self) -> u32 {
        64
    }

    fn step(&mut self, _: &[Run<'_>], _: &mut Vec<f32>) -> Result<(), Error> {
        Err(Error::Backend("only summaries are expected".into()))
    }

    fn summarising(&mut self) -> Option<&mut dyn Summarising> {
        Some(self)
    }
}

impl Summarising for Device {
    fn step(
        &mut self,
        runs: &[Run<'_>],
        temperatures: &[f32],
        summaries: &mut Vec<Summary>,
    ) -> Result<(), Error> {
        self.scores.clear();
        summaries.clear();
        for run in runs {
            let last = *run.ids.last().expect("ids");
            if self.loses == Some(last) {
                return Err(Error::Device("told to be lost".into()));
            }
            if !run.logits {
                continue;
            }
            let behind = |id: usize| (id + VOCABULARY - last as usize - 1) % VOCABULARY;
            let score = |id: usize| -(behind(id) as f32) / 2.0;
            let sum = |by: f32| {
                (0..VOCABULARY)
                    .map(|id| f64::from((score(id) / by).exp()))
                    .sum()
            };
            let temperature = temperatures[self.scores.len()];
            let nearest = (1..=KEPT).map(|ahead| (last as usize + ahead) % VOCABULARY);
            summaries.push(Summary {
                best: nearest.map(|id| (id as u32, score(id))).collect(),
                complete: false,
                sum: sum(1.0),
                tempered: sum(temperature),
                strange: 0,
            });
            self.scores.push((0..VOCABULARY).map(score).collect());
        }
        assert_eq!(
            self.scores.len(),
            temperatures.len(),
            "one for each that wants"
        );
        Ok(())
    }

    fn scores(&mut self, row: usize, scores: &mut Vec<f32>) -> Result<(), Error> {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        scores.clone_from(&self.scores[row]);
        Ok(())
    }
}

#[test]
fn all_scores_are_asked_for_only_where_a_summary_does_not_say_enough() {
    let device = Device::default();
    let asked = Arc::clone(&device.asked);
    let count = || *asked.lock().unwrap_or_else(PoisonError::into_inner);
    let scheduler = start_with(Box::new(device), |_| {});
    let answer = |sampling| {
        let request = Request {
            sampling,
            ..request("a", 5)
        };
        collect(scheduler.submit(request).expect("a place")).0
    };
    assert_eq!(answer(Sampling::GREEDY), "bcdef");
    let narrow = Sampling {
        temperature: 0.01,
        top_k: 2,
        ..Sampling::GREEDY
    };
    assert_eq!(answer(narrow), "bcdef");
    assert_eq!(count(), 0);
    let biased = Request {
        logit_bias: vec![(u32::from(b'x'), 100.0)],
        ..request("a", 3)
    };
    assert_eq!(collect(scheduler.submit(biased).expect("a place")).0, "xyz");
    assert_eq!(count(), 3);
}

#[tokio::test]
async fn a_lost_device_stops_the_engine_and_its_generations_can_go_on_elsewhere() {
    let device = Device {
        loses: Some(u32::from(b'd')),
        ..Device::default()
    };
    let scheduler = start_with(Box::new(device), |_| {});
    let submit = |prompt| scheduler.submit(request(prompt, 9)).expect("a place");
    let both = [submit("a"), submit("A")];
    let ended = tokio::task::spawn_blocking(|| both.map(|one| collect(one).1));
    assert_eq!(
        ended.await.expect("both end"),
        [Finish::Cancelled, Finish::Cancelled]
    );
    let stuck = scheduler.stuck().await;
    assert!(matches!(stuck, Error::Device(_)), "{stuck:?}");
    let refused = scheduler.submit(request("a", 1));
    assert!(matches!(refused, Err(Error::Stopped)), "{refused:?}");
}
