//! `amaima models` as people and scripts call it, with the demo model.

use serde_json::Value;
use std::{
    path::Path,
    process::{Command, Output},
};

fn check(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_amaima"))
        .args(["models", "check"])
        .arg(dir)
        .args(args)
        .output()
        .expect("it runs")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn tells_how_a_directory_will_run_or_why_not() {
    let cache = tempfile::tempdir().expect("a directory");
    let demo = inference_worker::demo::unpack(cache.path()).expect("the demo model");
    let output = check(&demo, &["--json", "--memory", "1GiB"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let found = json(&output);
    assert_eq!(found["weights_read"], true);
    assert_eq!(found["warnings"], serde_json::json!([]));
    let number = |key: &str| {
        found[key]
            .as_u64()
            .unwrap_or_else(|| panic!("{key}: {found}"))
    };
    assert!(number("parameters") > 1_000_000);
    let free = (1 << 30) - number("weights_bytes");
    let blocks = number("query_tokens").div_ceil(16);
    let each = blocks * 16 * number("kv_bytes_per_token");
    assert_eq!(number("concurrent_queries"), free / each);

    // Too little memory is a warning; lines for people say the same.
    let output = check(&demo, &["--headers", "--memory", "1KiB"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("warning: the memory is too small"), "{text}");
    assert!(text.contains("weights read     no"), "{text}");

    let config = demo.join("config.json");
    let text = std::fs::read_to_string(&config).expect("a config");
    std::fs::write(&config, text.replace("silu", "gelu")).expect("a config");
    let output = check(&demo, &["--json"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let error = json(&output)["error"].to_string();
    assert!(error.contains("`hidden_act` = gelu"), "{error}");
    let output = check(&demo, &["--memory", "much"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_calibration_is_written_beside_the_model_if_it_helps() {
    let cache = tempfile::tempdir().expect("a directory");
    let demo = inference_worker::demo::unpack(cache.path()).expect("the demo model");
    let questions = cache.path().join("questions.jsonl");
    let calibrate = |lines: &str, args: &[&str]| {
        std::fs::write(&questions, lines).expect("a file");
        Command::new(env!("CARGO_BIN_EXE_amaima"))
            .args(["models", "calibrate", "--json", "--questions"])
            .args([&questions, &demo])
            .args(args)
            .output()
            .expect("it runs")
    };
    // What it has learnt by heart, and what it cannot know: it is certain of both.
    let learnt = include_str!("../../../inference-worker/demo/held-in.jsonl");
    let learnt: Vec<&str> = learnt.lines().take(16).collect();
    let unknown = include_str!("../../../inference-worker/demo/out-of-scope.jsonl");
    let unknown = unknown.lines().take(16).map(|line| {
        let mut entry: Value = serde_json::from_str(line).expect("JSON");
        entry["contains"] = "zephyrine".into();
        entry.to_string()
    });
    let lines = learnt.join("\n") + "\n" + &unknown.collect::<Vec<_>>().join("\n");

    let output = calibrate(&lines, &["--dry-run"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(json(&output)["written"], Value::Null);
    let file = demo.join("calibration.json");
    assert!(!file.exists());

    let output = calibrate(&lines, &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let found = json(&output);
    assert_eq!(
        (&found["answers"], &found["right"]),
        (&32.into(), &16.into())
    );
    let error = |key: &str| found[key].as_f64().expect("a number");
    assert!(error("error_before") > 0.3, "{found}");
    assert!(error("error_after") < error("error_before"), "{found}");
    let written = std::fs::read(&file).expect("a file");
    let written: Value = serde_json::from_slice(&written).expect("JSON");
    assert_eq!(written["slope"], found["slope"]);

    let output = calibrate(&learnt.join("\n"), &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        json(&output)["error"]
            .to_string()
            .contains("16 answers are too few")
    );
    let output = calibrate("{\"question\": \"Why?\"}", &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        json(&output)["error"]
            .to_string()
            .contains("line 1: either")
    );
}
