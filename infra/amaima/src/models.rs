//! `amaima models`: directories of models, without anything that runs.

mod calibrate;

use crate::admin::{Exit, Output};
use clap::{Args, Subcommand};
use engine::check::{Report, check, machine_memory};
use serde::Serialize;
use std::{fmt, io::Write, num::NonZeroU64, path::PathBuf};

/// Said by the help of every subject.
const EXIT_CODES: &str = "\
Exit codes:
  0  the model runs
  1  it runs, with a warning
  2  it is refused, and usage errors";

const CALIBRATE_EXIT_CODES: &str = "\
Exit codes:
  0  the calibration lowers the error
  1  it does not, and nothing is written
  2  there is none, and usage errors";

/// Positions that are asked about without `--tokens`.
const TOKENS: u64 = 4_096;

/// What is asked.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Options {
    /// One JSON document instead of lines; errors as `{"error": …}`
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, Subcommand)]
enum Subject {
    /// Whether and how a Hugging Face directory will run here, and how much memory it needs
    #[command(after_help = EXIT_CODES)]
    Check(CheckOptions),
    /// Ask a model questions with known answers, and write what its certainty is worth beside it
    #[command(after_help = CALIBRATE_EXIT_CODES)]
    Calibrate(calibrate::Options),
}

#[derive(Debug, Args)]
struct CheckOptions {
    /// The directory: config.json, tokenizer.json, safetensors
    dir: PathBuf,
    /// Read only the headers of the weights, not every number
    #[arg(long)]
    headers: bool,
    /// Tokens of one query, its answer included; 4096, or the context where that is shorter
    #[arg(long)]
    tokens: Option<NonZeroU64>,
    /// Memory that the model may take, such as `16GiB`; without it all that this machine has
    #[arg(long, value_parser = bytes)]
    memory: Option<u64>,
}

/// Answers what was asked. What was found out goes to `out`, errors to standard error.
pub async fn run(options: Options, out: &mut (dyn Write + Send)) -> Exit {
    let mut output = Output::new(out, options.json);
    match options.subject {
        Subject::Check(asked) => run_check(asked, &mut output),
        Subject::Calibrate(asked) => match calibrate::calibrate(asked).await {
            Ok(found) => {
                output.report(&found);
                found.exit()
            }
            Err(error) => {
                output.failed(&error);
                Exit::Ill
            }
        },
    }
}

fn run_check(asked: CheckOptions, output: &mut Output<'_>) -> Exit {
    let model = match check(&asked.dir, !asked.headers) {
        Ok(model) => model,
        Err(error) => {
            output.failed(&error);
            return Exit::Ill;
        }
    };
    let context = model.context as u64;
    let query_tokens = asked.tokens.map_or(TOKENS, NonZeroU64::get).min(context);
    let memory_bytes = asked.memory.or_else(machine_memory);
    let concurrent_queries = memory_bytes.map(|memory| model.queries(memory, query_tokens));
    let found = Found {
        warnings: warnings(&model, asked.tokens, concurrent_queries),
        model,
        memory_bytes,
        query_tokens,
        concurrent_queries,
    };
    output.report(&found);
    Exit::well_if(found.warnings.is_empty())
}

fn warnings(model: &Report, tokens: Option<NonZeroU64>, queries: Option<u64>) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(tokens) = tokens.filter(|tokens| tokens.get() > model.context as u64) {
        let context = model.context;
        warnings.push(format!(
            "{tokens} tokens are more than the context of {context}"
        ));
    }
    match queries {
        None => warnings.push("the machine's memory is not known: name it with --memory".into()),
        Some(0) => warnings.push("the memory is too small for one query beside the weights".into()),
        Some(_) => {}
    }
    if model.chat_template.is_none() {
        warnings.push("there is no chat template: messages are only named by their role".into());
    }
    if !model.ends {
        warnings.push("no id ends an answer: each goes on to its length".into());
    }
    warnings
}

#[derive(Debug, Serialize)]
struct Found {
    #[serde(flatten)]
    model: Report,
    /// Absent where the machine does not tell.
    memory_bytes: Option<u64>,
    query_tokens: u64,
    concurrent_queries: Option<u64>,
    warnings: Vec<String>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = &self.model;
        let types = model
            .types
            .iter()
            .map(|(name, numbers)| format!("{name} {numbers}"));
        let output = if model.tied {
            "the embedding"
        } else {
            "its own"
        };
        let yes = |yes: bool| if yes { "yes" } else { "no" };
        let lines = [
            ("model", model.id.clone()),
            ("architecture", model.architecture.clone()),
            ("parameters", model.parameters.to_string()),
            ("types", types.collect::<Vec<_>>().join(", ")),
            ("layers", model.layers.to_string()),
            ("vocabulary", model.vocabulary.to_string()),
            ("context", format!("{} tokens", model.context)),
            (
                "rope",
                format!("theta {}, scaling {}", model.rope_theta, model.rope_scaling),
            ),
            ("output", output.to_owned()),
            (
                "chat template",
                model.chat_template.unwrap_or("none").to_owned(),
            ),
            ("system message", yes(model.system_message).to_owned()),
            ("weights read", yes(model.weights_read).to_owned()),
            ("weights", size(model.weights_bytes)),
            (
                "keys and values",
                format!("{} per token", size(model.kv_bytes_per_token)),
            ),
            (
                "memory",
                self.memory_bytes.map_or("not known".to_owned(), size),
            ),
        ];
        for (name, value) in lines {
            writeln!(f, "{name:16} {value}")?;
        }
        if let Some(queries) = self.concurrent_queries {
            let tokens = self.query_tokens;
            writeln!(f, "{:16} {queries} of {tokens} tokens at once", "queries")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        Ok(())
    }
}

const UNITS: [(&str, u64); 4] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];

fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = UNITS
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))
        .unwrap_or((text, 1));
    number
        .trim()
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| "expected a whole number of bytes, KiB, MiB, GiB or TiB".to_owned())
}

fn size(bytes: u64) -> String {
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        assert_eq!(bytes("16GiB"), Ok(16 << 30));
        assert_eq!(bytes("512 MiB"), Ok(512 << 20));
        assert_eq!(bytes("1000"), Ok(1_000));
        for wrong in ["", "1.5GiB", "-1", "16GB", "99999999TiB", "GiB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!(size(1_023), "1023 bytes");
        assert_eq!(size(3 << 29), "1.5 GiB");
    }
}
