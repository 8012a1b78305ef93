//! Takes queries from the queue, runs the model, publishes the answer chunk by chunk.
//!
//! One job flows like this: [`job_loop`] takes it from one of the [`lanes`] when one of the
//! [`models`] has room for it, [`answer`] reads what the token stream holds already, tells command-svc that it starts, and has the engine go on after
//! the last published token; [`stream_writer`] appends chunks with the expected last sequence, so
//! that a worker which has lost its job cannot interleave. When the answer is whole, it is handed
//! to command-svc as the completing command, and only then the job is acknowledged. A worker that
//! dies leaves a job that is not acknowledged, and the next one goes on with it.

mod answer;
mod config;
pub mod demo;
mod job_loop;
mod lanes;
mod loading;
mod metrics;
mod models;
pub mod providers;
mod registration;
mod stream_writer;

pub use config::Config;
pub use loading::{Need, TooLarge};

use answer::Worker;
use engine::Engine;
use futures_util::future::{pending, select_all};
use infra::{lifecycle::Lifecycle, telemetry};
use loading::Loaded;
use models::Models;
use std::{net::SocketAddr, path::PathBuf};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// The worker could not start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error(transparent)]
    Nats(#[from] infra::nats::Error),
    /// Streams or buckets are not as they must be.
    #[error(transparent)]
    Prepare(#[from] infra::jetstream::Error),
    /// The model cannot be loaded.
    #[error("the model in {dir} cannot be loaded")]
    Model {
        /// Its directory.
        dir: PathBuf,
        /// Why.
        source: Box<engine::Error>,
    },
    /// The demo model cannot be unpacked.
    #[error("the demo model cannot be unpacked to {dir}")]
    Unpack {
        /// Where to.
        dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The providers cannot be asked.
    #[error(transparent)]
    Providers(#[from] providers::Error),
    /// Nobody can be told of metrics.
    #[error("metrics cannot be served at {addr}")]
    Metrics {
        /// Where.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Two directories hold the same model.
    #[error("two directories of MODEL_DIR hold a model called {0}; jobs could not tell them apart")]
    SameModel(String),
    /// The models do not fit.
    #[error("{0}")]
    TooLarge(TooLarge),
    /// The thread that loaded the models died.
    #[error("loading the models was interrupted")]
    Interrupted,
    /// A model does not come back from a step; only a new process can begin afresh.
    #[error("the model {model} hangs, so this worker ends")]
    Stuck {
        /// Which.
        model: String,
        /// Since when.
        source: engine::Error,
    },
}

/// Runs until the lifecycle stops it: no further jobs then, those in hand are finished or handed
/// over.
///
/// # Errors
/// When it cannot start, and [`Error::Stuck`] when a model hangs: its queries have ended by then, and
/// whoever supervises the process starts it again.
pub async fn run(config: Config, lifecycle: Lifecycle) -> Result<(), Error> {
    let client = infra::nats::connect(&config.nats, "backend-inference-worker").await?;
    let context = infra::jetstream::prepare(&client, &config.nats).await?;
    if let Some(addr) = config.metrics_addr {
        let served = metrics::serve(addr, &lifecycle).await;
        served.map_err(|source| Error::Metrics { addr, source })?;
    }
    let Loaded { served, engines } = loading::load(&config).await?;
    let models = Models::new(served);
    let worker = Worker::new(
        &client,
        models.clone(),
        config.name.clone(),
        config.max_new_tokens,
    );
    info!(worker.name = config.name, "inference worker takes jobs");
    let (draining, ended) = (lifecycle.soft(), CancellationToken::new());
    let working = async {
        job_loop::run(&context, worker, config.drain, &lifecycle).await;
        ended.cancel();
    };
    let telling = registration::run(&client, &config.name, &models, draining, ended.clone());
    let both = async { tokio::join!(working, telling) };
    tokio::pin!(both);
    tokio::select! {
        _ = &mut both => Ok(()),
        stuck = stuck(&engines) => {
            let reason = telemetry::chain(&stuck);
            error!(reason, worker.name = config.name, "a model hangs: the worker stops");
            // Its answers have ended with an error; that is told before the process ends.
            lifecycle.begin_stop();
            both.await;
            Err(stuck)
        }
    }
}

/// Completes when one of the models hangs.
async fn stuck(engines: &[Engine]) -> Error {
    let each = engines.iter().map(|engine| {
        Box::pin(async {
            let source = engine.stuck().await;
            let model = engine.model().id.clone();
            Error::Stuck { model, source }
        })
    });
    match engines.is_empty() {
        true => pending().await,
        false => select_all(each).await.0,
    }
}
