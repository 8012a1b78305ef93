//! `amaima down`.

use crate::say;
use amaima::stack::{self, wait_for};
use anyhow::Context;
use clap::Args;
use std::{path::Path, time::Duration};

/// The services' work in hand, then the servers.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Args)]
pub struct Options {
    /// Delete all data as well.
    #[arg(long)]
    wipe: bool,
}

pub async fn down(data_dir: &Path, options: &Options) -> anyhow::Result<()> {
    match stack::holder(data_dir)? {
        Some(holder) => {
            holder
                .terminate()
                .with_context(|| format!("process {} cannot be stopped", holder.pid()))?;
            wait_for("the end of amaima up", PATIENCE, || async {
                match stack::holder(data_dir) {
                    Ok(None) => Ok(()),
                    Ok(Some(holder)) => Err(format!("process {} runs", holder.pid())),
                    Err(error) => Err(error.to_string()),
                }
            })
            .await?;
            say(format!("stopped process {}", holder.pid()));
        }
        None => say(format!("nothing runs on {}", data_dir.display())),
    }
    if options.wipe && data_dir.exists() {
        stack::wipe(data_dir).await?;
        say(format!("deleted {}", data_dir.display()));
    }
    Ok(())
}
