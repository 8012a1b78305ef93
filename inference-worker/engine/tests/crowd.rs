//! Many at once, of several users, in memory for a few of them: each gets their part, and all
//! memory comes back.

use std::num::NonZeroUsize;
use std::ops::RangeInclusive;

use engine::bench::{Load, Until, run};
use engine::kv::BLOCK;
use engine::model::{Config, Shape};
use engine::{Engine, Error, Options};

fn nonzero(value: usize) -> NonZeroUsize {
    NonZeroUsize::new(value).expect("above zero")
}

const CONTEXT: usize = 512;

/// A tiny model with memory for six generations of the whole context, and sixteen places.
fn engine() -> Engine {
    let dir = tempfile::tempdir().expect("a directory");
    let tiny = Shape::named("tiny").expect("a shape");
    tiny.write(dir.path(), 11).expect("a model");
    let config = Config::load(dir.path()).expect("a config");
    let block = engine::backend::cpu::block_bytes(&config);
    let options = Options {
        max_context: Some(nonzero(CONTEXT)),
        kv_bytes: nonzero(6 * CONTEXT / BLOCK * block),
        max_active: nonzero(16),
        max_waiting: 64,
        step_tokens: nonzero(64),
        ..Options::default()
    };
    Engine::load(dir.path(), options).expect("an engine")
}

fn load() -> Load {
    Load {
        // The first of five users asks as often as all others together.
        clients: (0..64)
            .map(|c| if c < 32 { 0 } else { 1 + c % 4 })
            .collect(),
        until: Until::Requests(600),
        prompt_tokens: 1..=300,
        answer_tokens: 1..=100,
        cancelled: 0.2,
        seed: 3,
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "it tells what it has measured")]
fn a_crowd_shares_fairly_and_leaves_no_block_behind() {
    let engine = engine();
    let measured = run(&engine, &load()).expect("a run");
    println!("{measured:#?}");
    assert_eq!((measured.failed, &measured.failure), (0, &None));
    assert_eq!(measured.answered + measured.cancelled, 600);
    assert!((60..=180).contains(&measured.cancelled), "{measured:?}");
    assert_eq!((measured.blocks, measured.leaked_blocks), (192, 0));
    assert_eq!(measured.users, 5);
    assert!(measured.worst_user_share > 0.8, "{measured:?}");
}

#[test]
fn what_cannot_be_measured_is_refused_with_the_numbers() {
    let engine = engine();
    let refused = |load| run(&engine, &load).expect_err("a refusal");
    let long = refused(Load {
        prompt_tokens: 1..=CONTEXT,
        ..load()
    });
    let text = "512 prompt tokens and 100 new ones do not fit into 512 positions";
    assert_eq!(long.to_string(), text);
    for (expected, load) in [
        (
            "clients",
            Load {
                clients: vec![],
                ..load()
            },
        ),
        (
            "prompt_tokens",
            Load {
                prompt_tokens: 0..=3,
                ..load()
            },
        ),
        (
            "answer_tokens",
            Load {
                answer_tokens: RangeInclusive::new(3, 2),
                ..load()
            },
        ),
        (
            "cancelled",
            Load {
                cancelled: f64::NAN,
                ..load()
            },
        ),
    ] {
        match refused(load) {
            Error::Request { field, .. } => assert_eq!(field, expected),
            other => panic!("{expected}: {other}"),
        }
    }
}
