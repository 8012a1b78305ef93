//! `amaima ask`.

use crate::{say, up};
use amaima::ask;
use clap::Args;
use std::{io, path::Path};

#[derive(Args)]
pub struct Options {
    /// The question.
    question: String,
    /// The gateway; by default the one that `amaima up` started last in the data directory.
    #[arg(long, env = "AMAIMA_URL")]
    url: Option<String>,
}

pub async fn ask(data_dir: &Path, options: Options) -> anyhow::Result<()> {
    let url = options.url.unwrap_or_else(|| up::last_url(data_dir));
    let user = data_dir.join("local-user.json");
    let query = ask::ask(&options.question, &url, &user, &mut io::stdout()).await?;
    let model = query["model_used"].as_str().unwrap_or("unknown model");
    let latency = query["latency_ms"].as_u64().unwrap_or_default();
    let confidence = match query["confidence"].as_f64() {
        Some(confidence) => format!("{confidence:.2}"),
        None => "unknown".into(),
    };
    say(format!(
        "\n[{model}, {latency} ms, confidence {confidence}]"
    ));
    Ok(())
}
