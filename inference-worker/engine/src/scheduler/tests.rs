//! The scheduler with a backend whose next id is always the last one plus one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::*;
use crate::backend::Sequence;
use crate::generation::{Finish, Item, Sampling, Usage};
use crate::tokenizer::tests::{byte_level, tokenizer};

const VOCABULARY: usize = 512;
/// Feeding this id panics.
const PANICS: u32 = 510;
/// Feeding this id fails.
const FAILS: u32 = 511;

#[derive(Default)]
struct Seen {
    open: BTreeMap<u64, usize>,
    /// Sequence and number of ids of every step.
    steps: Vec<(u64, usize)>,
}

#[derive(Clone, Default)]
struct Counting(Arc<Mutex<Seen>>);

impl Counting {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Counting {
    fn open(&mut self, positions: usize) -> Result<Sequence, Error> {
        let mut seen = self.seen();
        let number = seen.steps.len() as u64 * 100 + seen.open.len() as u64;
        seen.open.insert(number, positions);
        Ok(Sequence(number))
    }

    fn extend(
        &mut self,
        sequence: Sequence,
        ids: &[u32],
        logits: Option<&mut Vec<f32>>,
    ) -> Result<(), Error> {
        self.seen().steps.push((sequence.0, ids.len()));
        let last = *ids.last().expect("ids");
        assert!(last != PANICS, "told to panic");
        if last == FAILS {
            return Err(Error::Backend("told to fail".into()));
        }
        if let Some(logits) = logits {
            logits.clear();
            logits.resize(VOCABULARY, 0.0);
            logits[(last as usize + 1) % VOCABULARY] = 10.0;
        }
        Ok(())
    }

    fn close(&mut self, sequence: Sequence) {
        self.seen().open.remove(&sequence.0);
    }
}

fn start(change: impl FnOnce(&mut Options)) -> (Scheduler, Counting) {
    let mut options = Options::default();
    change(&mut options);
    let card = ModelCard {
        id: "counting".into(),
        architecture: String::new(),
        parameters: 0,
        context_length: 1_000,
        vocabulary: VOCABULARY,
        demo: false,
        load_ms: 0,
    };
    let backend = Counting::default();
    let boxed = Box::new(backend.clone());
    let scheduler = Scheduler::start(boxed, tokenizer(byte_level()), &card, &options);
    (scheduler.expect("a thread"), backend)
}

fn request(prompt: &str, max_new_tokens: usize) -> Request {
    Request {
        prompt: prompt.bytes().map(u32::from).collect(),
        generated: Vec::new(),
        sampling: Sampling::GREEDY,
        max_new_tokens,
        stop: Vec::new(),
        deadline: None,
        cancel: CancellationToken::new(),
    }
}

fn collect(mut generation: Generation) -> (String, Finish, Usage) {
    let mut answer = String::new();
    while let Some(item) = generation.blocking_next() {
        match item {
            Item::Token { text, .. } => answer.push_str(&text),
            Item::End {
                finish,
                text,
                usage,
                ..
            } => {
                assert_eq!(generation.blocking_next(), None, "nothing follows the end");
                return (answer + &text, finish, usage);
            }
        }
    }
    panic!("a stream without an end")
}

fn usage(prompt_tokens: usize, completion_tokens: usize) -> Usage {
    Usage {
        prompt_tokens,
        completion_tokens,
    }
}

/// Waits for what another thread is about to do.
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::yield_now();
    }
}

fn nonzero(value: usize) -> std::num::NonZeroUsize {
    std::num::NonZeroUsize::new(value).expect("above zero")
}

#[test]
fn a_generation_ends_by_length_by_stop_string_or_by_the_end_of_sequence_id() {
    let (scheduler, backend) = start(|_| {});
    let run = |request| collect(scheduler.submit(request).expect("a place"));
    assert_eq!(
        run(request("a", 3)),
        ("bcd".into(), Finish::Length, usage(1, 3))
    );
    assert_eq!(
        run(request("a", 0)),
        (String::new(), Finish::Length, usage(1, 0))
    );
    let stopped = Request {
        stop: vec!["de".into()],
        ..request("a", 9)
    };
    assert_eq!(run(stopped), ("bc".into(), Finish::Stop, usage(1, 4)));
    let held = Request {
        stop: vec!["dx".into()],
        ..request("a", 3)
    };
    assert_eq!(run(held), ("bcd".into(), Finish::Length, usage(1, 3)));
    let ended = Request {
        prompt: vec![255],
        ..request("", 9)
    };
    assert_eq!(run(ended), ("Hi".into(), Finish::Stop, usage(1, 1)));
    assert!(backend.seen().open.is_empty(), "every sequence is closed");
}

#[test]
fn a_resumed_generation_goes_on_where_it_was_cut() {
    let (scheduler, _backend) = start(|_| {});
    let resumed = |generated: &str, stop: &str| {
        let generated = generated.bytes().map(u32::from).collect();
        let request = Request {
            generated,
            stop: vec![stop.into()],
            ..request("a", 5)
        };
        collect(scheduler.submit(request).expect("a place"))
    };
    assert_eq!(
        resumed("bc", "x"),
        ("def".into(), Finish::Length, usage(1, 5))
    );
    // "c" was held back as the beginning of "cx", and comes out now.
    assert_eq!(
        resumed("bc", "cx"),
        ("cdef".into(), Finish::Length, usage(1, 5))
    );
    assert_eq!(
        resumed("bcdef", "x"),
        (String::new(), Finish::Length, usage(1, 5))
    );
    assert_eq!(
        resumed("bcd", "cd"),
        (String::new(), Finish::Stop, usage(1, 3))
    );
}

#[test]
fn a_long_prompt_and_a_running_generation_take_turns() {
    let (scheduler, backend) = start(|options| options.prefill_chunk = nonzero(3));
    let first = scheduler.submit(request("a", 6)).expect("a place");
    let second = scheduler
        .submit(request(&"b".repeat(12), 1))
        .expect("a place");
    assert_eq!(collect(first).1, Finish::Length);
    assert_eq!(collect(second).1, Finish::Length);
    let steps = backend.seen().steps.clone();
    let long: Vec<usize> = steps
        .iter()
        .filter(|s| s.0 != steps[0].0)
        .map(|s| s.1)
        .collect();
    let short = steps.len() - long.len();
    assert_eq!((long, short), (vec![3, 3, 3, 3], 6));
    // Once both run, no two chunks of the long one follow each other before the short one ends.
    let began = steps
        .iter()
        .position(|s| s.0 != steps[0].0)
        .expect("the long one");
    let together = &steps[began..steps.len().min(began + 4)];
    let ended = steps
        .iter()
        .rposition(|s| s.0 == steps[0].0)
        .expect("the short one");
    for (at, pair) in together.windows(2).enumerate() {
        assert!(began + at >= ended || pair[0].0 != pair[1].0, "{steps:?}");
    }
}

#[test]
fn a_slow_consumer_pauses_only_its_own_generation() {
    let (scheduler, backend) = start(|options| options.stream_capacity = nonzero(2));
    let slow = scheduler.submit(request("a", 20)).expect("a place");
    wait_for("two steps", || backend.seen().steps.len() == 2);
    let other = collect(scheduler.submit(request("k", 5)).expect("a place"));
    assert_eq!(other, ("lmnop".into(), Finish::Length, usage(1, 5)));
    assert_eq!(backend.seen().steps.len(), 7, "the slow one did not move");
    assert_eq!(collect(slow).1, Finish::Length);
}

#[test]
fn cancelling_dropping_and_the_deadline_end_a_paused_generation() {
    let (scheduler, backend) = start(|options| options.stream_capacity = nonzero(1));
    let paused = |request: Request| {
        let before = backend.seen().steps.len();
        let generation = scheduler.submit(request).expect("a place");
        wait_for("a step", || backend.seen().steps.len() > before);
        generation
    };
    let cancelled = request("a", 9);
    let cancel = cancelled.cancel.clone();
    let generation = paused(cancelled);
    cancel.cancel();
    wait_for("the release", || backend.seen().open.is_empty());
    assert_eq!(
        collect(generation),
        ("b".into(), Finish::Cancelled, usage(1, 1))
    );

    drop(paused(request("a", 9)));
    wait_for("the release", || backend.seen().open.is_empty());

    let deadline = Some(Instant::now() + Duration::from_millis(300));
    let generation = paused(Request {
        deadline,
        ..request("a", 9)
    });
    wait_for("the release", || backend.seen().open.is_empty());
    assert_eq!(
        collect(generation),
        ("b".into(), Finish::Timeout, usage(1, 1))
    );
}

#[test]
fn a_full_queue_is_busy_and_waiting_ones_can_end_without_a_step() {
    let (scheduler, backend) = start(|options| {
        options.stream_capacity = nonzero(1);
        options.max_active = nonzero(1);
        options.max_waiting = 2;
    });
    let active = scheduler.submit(request("a", 9)).expect("a place");
    wait_for("a step", || !backend.seen().steps.is_empty());
    let waiting = request("b", 9);
    let cancel = waiting.cancel.clone();
    let waiting = scheduler.submit(waiting).expect("a place");
    let late = Request {
        deadline: Some(Instant::now()),
        ..request("c", 9)
    };
    assert_eq!(
        collect(scheduler.submit(late).expect("a place")).1,
        Finish::Timeout
    );
    let third = scheduler.submit(request("d", 1)).expect("a place");
    assert!(matches!(
        scheduler.submit(request("e", 9)),
        Err(Error::Busy { waiting: 2 })
    ));

    cancel.cancel();
    assert_eq!(
        collect(waiting),
        (String::new(), Finish::Cancelled, usage(1, 0))
    );
    drop(active);
    assert_eq!(collect(third), ("e".into(), Finish::Length, usage(1, 1)));
}

#[test]
fn a_failing_step_ends_only_its_own_generation() {
    let (scheduler, backend) = start(|_| {});
    let well = scheduler.submit(request("a", 9)).expect("a place");
    for (id, expected) in [(FAILS, "told to fail"), (PANICS, "panicked")] {
        let request = Request {
            prompt: vec![id],
            ..request("", 9)
        };
        match collect(scheduler.submit(request).expect("a place")).1 {
            Finish::Error(reason) => assert!(reason.contains(expected), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        collect(well),
        ("bcdefghij".into(), Finish::Length, usage(1, 9))
    );
    assert!(backend.seen().open.is_empty());
}

#[test]
fn dropping_the_scheduler_cancels_what_runs_and_what_waits() {
    let (scheduler, backend) = start(|options| {
        options.stream_capacity = nonzero(1);
        options.max_active = nonzero(1);
    });
    let active = scheduler.submit(request("a", 9)).expect("a place");
    wait_for("a step", || !backend.seen().steps.is_empty());
    let waiting = scheduler.submit(request("b", 9)).expect("a place");
    drop(scheduler);
    assert_eq!(
        collect(active),
        ("b".into(), Finish::Cancelled, usage(1, 1))
    );
    assert_eq!(
        collect(waiting),
        (String::new(), Finish::Cancelled, usage(1, 0))
    );
}

#[test]
fn requests_out_of_range_are_refused_with_the_field() {
    let (scheduler, _backend) = start(|_| {});
    let sampling = |temperature, top_p| Sampling {
        temperature,
        top_p,
        top_k: 0,
        seed: 0,
    };
    let good = request("a", 3);
    let cases = [
        ("prompt", request("", 3)),
        (
            "prompt",
            Request {
                prompt: vec![512],
                ..good.clone()
            },
        ),
        (
            "generated",
            Request {
                generated: vec![512],
                ..good.clone()
            },
        ),
        (
            "generated",
            Request {
                generated: vec![1; 4],
                ..good.clone()
            },
        ),
        (
            "temperature",
            Request {
                sampling: sampling(-1.0, 1.0),
                ..good.clone()
            },
        ),
        (
            "temperature",
            Request {
                sampling: sampling(f32::NAN, 1.0),
                ..good.clone()
            },
        ),
        (
            "top_p",
            Request {
                sampling: sampling(1.0, 0.0),
                ..good.clone()
            },
        ),
        (
            "stop",
            Request {
                stop: vec![String::new()],
                ..good.clone()
            },
        ),
    ];
    for (expected, request) in cases {
        match scheduler.submit(request) {
            Err(Error::Request { field, .. }) => assert_eq!(field, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
    let long = scheduler.submit(request("a", 1_000));
    assert!(matches!(
        long,
        Err(Error::TooLong {
            prompt: 1,
            max_new: 1_000,
            context: 1_000
        })
    ));
}
