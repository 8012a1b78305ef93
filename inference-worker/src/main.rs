//! The inference worker as a process of its own.

use infra::lifecycle::Lifecycle;
use std::time::Duration;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    infra::telemetry::start("backend-inference-worker", std::io::stdout);
    let lifecycle = Lifecycle::new();
    let config = inference_worker::Config::from_env()?;
    let service = inference_worker::run(config, lifecycle.clone());
    tokio::pin!(service);
    tokio::select! {
        ended = &mut service => ended?,
        signal = Lifecycle::signalled() => {
            signal?;
            lifecycle.begin_stop();
            service.await?;
        }
    }
    lifecycle.stop(Duration::from_secs(25)).await;
    Ok(())
}
