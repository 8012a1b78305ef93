//! The providers of this crate keep the promises that all providers make.

use std::time::Duration;

use engine::conformance::Kit;
use engine::model::Shape;
use engine::provider::{Local, Sim, SimSettings};
use engine::{Engine, Options};

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_on_the_cpu_conforms() {
    // No id ends an answer, so that its length does.
    let dir = tempfile::tempdir().expect("a directory");
    let tiny = Shape::named("tiny").expect("a shape");
    tiny.write(dir.path(), 1).expect("a model");
    let options = Options {
        // An answer that nobody reads does not go on.
        stream_capacity: std::num::NonZeroUsize::new(4).expect("above zero"),
        ..Options::default()
    };
    let provider = Local::new(Engine::load(dir.path(), options).expect("an engine"));
    let kit = Kit {
        questions: &["abc", "why", "Sun"],
        endless: "on and on",
        max_new_tokens: 24,
    };
    kit.check(&provider).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simulation_conforms() {
    let provider = Sim::new(SimSettings {
        tokens: 200,
        first: Duration::from_millis(5),
        between: Duration::from_millis(5),
    });
    let kit = Kit {
        questions: &["one two three", "four five", "six"],
        endless: "on and on",
        max_new_tokens: 1_000,
    };
    kit.check(&provider).await;
}
