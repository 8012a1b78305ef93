//! command-svc as a process of its own.

use infra::lifecycle::Lifecycle;
use std::time::Duration;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    infra::telemetry::start("backend-command-svc", std::io::stdout);
    let lifecycle = Lifecycle::new();
    let service = command_svc::run(command_svc::Config::from_env()?, lifecycle.clone());
    tokio::select! {
        ended = service => ended?,
        signal = Lifecycle::signalled() => signal?,
    }
    lifecycle.stop(Duration::from_secs(25)).await;
    Ok(())
}
