//! `amaima`: the whole system on one machine, its services one by one, and a client in the terminal.

mod down;
mod question;
mod service;
mod up;

use amaima::{admin, bench, models};
use clap::{Parser, Subcommand};
use service::Service;
use std::{path::PathBuf, process::ExitCode};

#[derive(Parser)]
#[command(
    version,
    about = "Amaima: an event-sourced backend for questions and conversations"
)]
struct Cli {
    /// Where everything is kept.
    #[arg(
        long,
        env = "AMAIMA_DATA_DIR",
        default_value = ".amaima",
        global = true
    )]
    data_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start the servers and all services, until Ctrl-C or `amaima down`.
    Up(up::Options),
    /// Stop what `amaima up` started.
    Down(down::Options),
    /// Ask a question and print the answer as it streams.
    Ask(question::Options),
    /// Look into a system that runs, and mend it.
    Admin(admin::Options),
    /// Look into a model's directory: whether it will run here, and what its certainty is worth.
    Models(models::Options),
    /// Measure how fast a model answers on this machine.
    Bench(bench::Options),
    /// Run one service, configured by the environment.
    #[command(flatten)]
    Service(Service),
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    match cli.command {
        Command::Up(options) => up::up(&cli.data_dir, options).await?,
        Command::Down(options) => down::down(&cli.data_dir, &options).await?,
        Command::Ask(options) => question::ask(&cli.data_dir, options).await?,
        Command::Admin(options) => {
            let exit = admin::run(&cli.data_dir, options, &mut std::io::stdout()).await;
            return Ok(exit.into());
        }
        Command::Models(options) => {
            return Ok(models::run(options, &mut std::io::stdout()).await.into());
        }
        Command::Bench(options) => {
            let measuring =
                tokio::task::spawn_blocking(move || bench::run(&options, &mut std::io::stdout()));
            return Ok(measuring.await?.into());
        }
        Command::Service(service) => service.run_alone().await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a line for the person at the terminal. Nobody may be listening any more.
fn say(line: impl AsRef<str>) {
    use std::io::Write;
    writeln!(std::io::stdout(), "{}", line.as_ref()).ok();
}
