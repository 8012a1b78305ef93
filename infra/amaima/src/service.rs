//! The four services: each alone, as in a cluster, or side by side in `amaima up`.

use anyhow::Context;
use clap::Subcommand;
use infra::lifecycle::Lifecycle;
use std::time::Duration;

/// How long work in hand may take when a service stops.
pub const GRACE: Duration = Duration::from_secs(25);

/// A service, by the name of its subcommand.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Service {
    /// Take commands and write the log (NATS_URL).
    CommandSvc,
    /// Fold the log into read models and answer questions (NATS_URL, DATABASE_URL).
    ProjectionSvc,
    /// Answer queries with a model (NATS_URL, MODEL_DIR).
    InferenceWorker,
    /// Serve REST and sockets (NATS_URL, HTTP_ADDR, METRICS_ADDR, JWT_SECRET).
    Gateway,
}

impl Service {
    /// Runs it until SIGINT or SIGTERM.
    pub async fn run_alone(self) -> anyhow::Result<()> {
        let lifecycle = Lifecycle::new();
        infra::telemetry::start(self.name(), std::io::stdout);
        let running = self.run(lifecycle.clone());
        tokio::pin!(running);
        tokio::select! {
            ended = &mut running => ended?,
            signal = Lifecycle::signalled() => {
                signal?;
                lifecycle.begin_stop();
                running.await?;
            }
        }
        lifecycle.stop(GRACE).await;
        Ok(())
    }

    fn name(self) -> &'static str {
        match self {
            Self::CommandSvc => "backend-command-svc",
            Self::ProjectionSvc => "backend-projection-svc",
            Self::InferenceWorker => "backend-inference-worker",
            Self::Gateway => "backend-gateway",
        }
    }

    async fn run(self, lifecycle: Lifecycle) -> anyhow::Result<()> {
        match self {
            Self::CommandSvc => {
                command_svc::run(command_svc::Config::from_env()?, lifecycle).await?;
            }
            Self::ProjectionSvc => {
                projection_svc::run(projection_svc::Config::from_env()?, lifecycle).await?;
            }
            Self::InferenceWorker => {
                inference_worker::run(inference_worker::Config::from_env()?, lifecycle).await?;
            }
            Self::Gateway => gateway::run(gateway::Config::from_env()?, lifecycle).await?,
        }
        Ok(())
    }
}

/// The configurations of all four.
pub struct Configs {
    pub commands: command_svc::Config,
    pub projections: projection_svc::Config,
    pub worker: inference_worker::Config,
    pub gateway: gateway::Config,
}

impl Configs {
    /// Runs all four in this life, and returns when all have ended or one has failed.
    pub async fn run(self, lifecycle: &Lifecycle) -> anyhow::Result<()> {
        let each = || lifecycle.clone();
        let ran = tokio::try_join!(
            async {
                command_svc::run(self.commands, each())
                    .await
                    .context("command-svc")
            },
            async {
                projection_svc::run(self.projections, each())
                    .await
                    .context("projection-svc")
            },
            async {
                inference_worker::run(self.worker, each())
                    .await
                    .context("inference-worker")
            },
            async { gateway::run(self.gateway, each()).await.context("gateway") },
        );
        ran.map(|_| ())
    }
}
