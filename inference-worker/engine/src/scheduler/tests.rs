//! The scheduler with a backend whose next id is always the last one plus one.

use std::time::{Duration, Instant};

use super::*;
use crate::backend::Run;
use crate::generation::{Finish, Item, Usage};
use crate::tokenizer::tests::{byte_level, tokenizer};

pub(super) const VOCABULARY: usize = 512;
/// Feeding this id panics.
const PANICS: u32 = 510;
/// Feeding this id fails.
const FAILS: u32 = 511;

#[derive(Default)]
struct Seen {
    /// First block and number of ids of every run, step by step.
    steps: Vec<Vec<(u32, usize)>>,
}

#[derive(Clone, Default)]
struct Counting(Arc<Mutex<Seen>>);

impl Counting {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Counting {
    fn blocks(&self) -> u32 {
        64
    }

    fn step(&mut self, runs: &[Run<'_>], logits: &mut Vec<f32>) -> Result<(), Error> {
        let step = runs.iter().map(|run| (run.blocks[0].0, run.ids.len()));
        self.seen().steps.push(step.collect());
        logits.clear();
        for run in runs {
            let last = *run.ids.last().expect("ids");
            assert!(last != PANICS, "told to panic");
            if last == FAILS {
                return Err(Error::Backend("told to fail".into()));
            }
            if run.logits {
                let start = logits.len();
                logits.resize(start + VOCABULARY, 0.0);
                logits[start + (last as usize + 1) % VOCABULARY] = 10.0;
            }
        }
        Ok(())
    }
}

/// Whether no generation is held any more.
fn idle(scheduler: &Scheduler) -> bool {
    let queue = scheduler.inbox.queue();
    queue.arrived.len() + queue.taken.len() + queue.active == 0
}

fn start(change: impl FnOnce(&mut Options)) -> (Scheduler, Counting) {
    let backend = Counting::default();
    (start_with(Box::new(backend.clone()), change), backend)
}

pub(super) fn start_with(
    backend: Box<dyn Backend>,
    change: impl FnOnce(&mut Options),
) -> Scheduler {
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
    let scheduler = Scheduler::start(backend, tokenizer(byte_level()), &card, &options);
    scheduler.expect("a thread")
}

pub(super) fn request(prompt: &str, max_new_tokens: usize) -> Request {
    Request::new(prompt.bytes().map(u32::from).collect(), max_new_tokens)
}

pub(super) fn collect(mut generation: Generation) -> (String, Finish, Usage) {
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
    let (scheduler, _backend) = start(|_| {});
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
    let named = Request {
        stop_ids: vec![u32::from(b'd')],
        ..request("a", 9)
    };
    assert_eq!(run(named), ("bc".into(), Finish::Stop, usage(1, 2)));
    let ended = Request {
        prompt: vec![255],
        ..request("", 9)
    };
    assert_eq!(run(ended), ("Hi".into(), Finish::Stop, usage(1, 1)));
    assert!(idle(&scheduler), "every generation is forgotten");
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
fn a_long_prompt_and_a_running_generation_share_their_steps() {
    let (scheduler, backend) = start(|options| {
        options.max_active = nonzero(2);
        options.step_tokens = nonzero(4);
    });
    // The backend waits for this lock, so that both are there from the second step on.
    let seen = backend.seen();
    let short = scheduler.submit(request("a", 6)).expect("a place");
    let long = scheduler
        .submit(request(&"b".repeat(12), 1))
        .expect("a place");
    drop(seen);
    assert_eq!(collect(short).0, "bcdefg");
    assert_eq!(collect(long), ("c".into(), Finish::Length, usage(12, 1)));
    let steps = backend.seen().steps.clone();
    assert_eq!(steps.len(), 6, "{steps:?}");
    let chunks: Vec<usize> = steps
        .iter()
        .filter_map(|step| Some(step.get(1)?.1))
        .collect();
    assert_eq!(chunks, [3, 3, 3, 3], "{steps:?}");
    assert!(steps.iter().all(|step| step[0].1 == 1), "{steps:?}");
}

#[test]
fn a_generation_with_a_known_beginning_skips_it_under_its_own_salt_only() {
    let (scheduler, backend) = start(|_| {});
    let prompt = "x".repeat(40);
    let computed = |cache_salt| {
        let before = backend.seen().steps.len();
        let request = Request {
            cache_salt,
            ..request(&prompt, 2)
        };
        let answer = collect(scheduler.submit(request).expect("a place"));
        assert_eq!(answer, ("yz".into(), Finish::Length, usage(40, 2)));
        let steps = &backend.seen().steps[before..];
        steps.iter().flatten().map(|run| run.1).sum::<usize>()
    };
    assert_eq!([computed(1), computed(1), computed(2)], [41, 9, 41]);
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
    wait_for("the release", || idle(&scheduler));
    assert_eq!(
        collect(generation),
        ("b".into(), Finish::Cancelled, usage(1, 1))
    );

    drop(paused(request("a", 9)));
    wait_for("the release", || idle(&scheduler));

    let deadline = Some(Instant::now() + Duration::from_millis(300));
    let generation = paused(Request {
        deadline,
        ..request("a", 9)
    });
    wait_for("the release", || idle(&scheduler));
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
    let (scheduler, _backend) = start(|_| {});
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
    assert!(idle(&scheduler));
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
    // The other fields are tested where they are checked.
    let cases = [
        ("prompt", request("", 3)),
        (
            "generated",
            Request {
                generated: vec![1; 4],
                ..request("a", 3)
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

#[test]
fn a_step_that_does_not_end_ends_every_generation_and_refuses_others() {
    let limit = Duration::from_millis(300);
    let (scheduler, backend) = start(|options| {
        options.stream_capacity = nonzero(1);
        options.max_active = nonzero(1);
        options.step_limit = limit;
    });
    let mut active = scheduler.submit(request("a", 9)).expect("a place");
    wait_for("a step", || !backend.seen().steps.is_empty());
    // The backend waits for this lock, so that the next step does not end.
    let seen = backend.seen();
    assert!(matches!(
        active.blocking_next(),
        Some(Item::Token { id: 98, .. })
    ));
    let waiting = scheduler.submit(request("b", 9)).expect("a place");
    let stuck = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime")
        .block_on(scheduler.stuck());
    let text = "a step did not end within 300ms";
    assert_eq!(stuck.to_string(), text);
    let finish = Finish::Error(text.into());
    assert_eq!(
        collect(active),
        (String::new(), finish.clone(), usage(1, 1))
    );
    assert_eq!(collect(waiting), (String::new(), finish, usage(1, 0)));
    let refused = scheduler.submit(request("c", 9)).expect_err("a refusal");
    assert!(matches!(refused, Error::Stuck { limit: shown } if shown == limit));
    // Should the step end after all, the thread does too.
    drop(seen);
    wait_for("the thread's end", || {
        let thread = scheduler.thread.as_ref();
        thread.is_some_and(JoinHandle::is_finished)
    });
    assert!(idle(&scheduler));
}

#[test]
fn dropping_the_scheduler_does_not_wait_for_a_step_that_does_not_end() {
    let (scheduler, backend) = start(|options| {
        options.step_limit = Duration::from_millis(300);
    });
    let seen = backend.seen();
    let generation = scheduler.submit(request("a", 9)).expect("a place");
    drop(scheduler);
    assert!(matches!(
        collect(generation).1,
        Finish::Error(_) | Finish::Cancelled
    ));
    drop(seen);
}

#[test]
fn many_steps_may_take_longer_than_one_step_may() {
    let limit = Duration::from_millis(500);
    let (scheduler, _backend) = start(|options| options.step_limit = limit);
    let began = Instant::now();
    while began.elapsed() < 2 * limit + limit / 4 {
        let answer = collect(scheduler.submit(request("a", 9)).expect("a place"));
        assert_eq!(answer.1, Finish::Length);
    }
}
