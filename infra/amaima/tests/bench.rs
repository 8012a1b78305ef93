//! `amaima bench` as people and scripts call it.

use serde_json::Value;
use std::process::{Command, Output};

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_amaima"))
        .arg("bench")
        .args(args)
        .output()
        .expect("it runs")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn measures_random_weights_and_a_directory() {
    let output = bench(&[
        "--shape",
        "tiny",
        "--json",
        "--users",
        "2",
        "--requests",
        "40",
        "--prompt",
        "5-90",
        "--answer",
        "8-30",
        "--cancel",
        "20",
        "--active",
        "3",
    ]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let found = json(&output);
    assert_eq!(found["model"]["id"], "random-tiny");
    let number = |key: &str| {
        let number = found[key].as_f64();
        number.unwrap_or_else(|| panic!("{key}: {found}"))
    };
    assert!((number("answered") + number("cancelled") - 40.0).abs() < 0.5);
    assert!(number("cancelled") > 0.5, "{found}");
    for key in [
        "answer_tokens_s",
        "prompt_tokens_s",
        "memory_bytes_s",
        "floor_ms",
        "achieved_over_floor",
    ] {
        assert!(number(key) > 0.0, "{key}: {found}");
    }
    // The embedding, and in each of two layers q and o, k and v, and the MLP; two bytes each.
    let weights = 512 * 64 + 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128);
    assert_eq!(found["weight_bytes_per_step"], 2 * weights);
    assert_eq!(found["leaked_blocks"], 0);
    let first = &found["first_token_ms"];
    assert!(first["p50"].as_f64() <= first["p99"].as_f64(), "{found}");

    let cache = tempfile::tempdir().expect("a directory");
    let demo = inference_worker::demo::unpack(cache.path()).expect("the demo model");
    let demo = demo.to_str().expect("a path");
    let output = bench(&[
        demo,
        "--seconds",
        "1",
        "--concurrency",
        "2",
        "--answer",
        "9",
    ]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("achieved / floor"), "{text}");
    assert!(text.contains("0 failed"), "{text}");
}

#[test]
fn what_cannot_be_measured_is_refused_with_the_reason() {
    let output = bench(&["--shape", "tiny", "--prompt", "5000", "--json"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let error = json(&output)["error"].to_string();
    assert!(
        error.contains("5000 prompt tokens and 64 new ones"),
        "{error}"
    );
    for wrong in [
        &["--shape", "gigantic"][..],
        &[],
        &["somewhere", "--shape", "tiny"],
        &["--shape", "tiny", "--concurrency", "0"],
        &["--shape", "tiny", "--answer", "9-3"],
        &["/there/is/no/such/directory"],
    ] {
        let output = bench(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {output:?}");
        assert!(!output.stderr.is_empty(), "{wrong:?}");
    }
}
