//! DuckDB, which reads what `amaima admin export` writes and shares no code with it.

use amaima::stack::{Pinned, Programs, Progress, Wheel};
use anyhow::{Context, ensure};
use serde_json::Value;
use std::process::Stdio;
use tokio::process::Command;

static DUCKDB: Pinned = Pinned {
    program: "duckdb",
    package: "duckdb-cli",
    version: "1.5.6",
    packed: "duckdb_cli/duckdb",
    wheels: [
        Wheel {
            arch: "x86_64",
            platform: "manylinux2014_x86_64",
            sha256: "9797555bd39095d730eb0d0b3bf29e95e148c96a4cdce1e363f01c7bf7003a44",
        },
        Wheel {
            arch: "aarch64",
            platform: "manylinux2014_aarch64",
            sha256: "9b03301a14310a4ef7f86386e87b36954fe099ed762c8a81f94f7bd0ba073542",
        },
    ],
};

/// The rows of a statement, each an object. `$FILE` in it stands for the file.
///
/// # Errors
/// When DuckDB is not to be had, or refuses.
pub async fn ask(statement: &str, file: &std::path::Path) -> anyhow::Result<Vec<Value>> {
    let programs = Programs::default();
    let duckdb = programs.pinned(&DUCKDB, &Progress::default()).await?;
    let statement = statement.replace("$FILE", &format!("'{}'", file.display()));
    let output = Command::new(duckdb)
        .args(["-init", "/dev/null", "-json", "-c"])
        .arg(format!("SET TimeZone = 'UTC'; {statement}"))
        .stdin(Stdio::null())
        .output()
        .await?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{statement}: {error}");
    serde_json::from_slice(&output.stdout).with_context(|| {
        let text = String::from_utf8_lossy(&output.stdout);
        format!("{statement}: {text} {error}")
    })
}
