//! Takes queries from the queue, runs the model, publishes the answer chunk by chunk.
//!
//! One job flows like this: [`job_loop`] pulls it when there is room, [`answer`] reads what the
//! token stream holds already, tells command-svc that it starts, and has the engine go on after
//! the last published token; [`stream_writer`] appends chunks with the expected last sequence, so
//! that a worker which has lost its job cannot interleave. When the answer is whole, it is handed
//! to command-svc as the completing command, and only then the job is acknowledged. A worker that
//! dies leaves a job that is not acknowledged, and the next one goes on with it.

mod answer;
pub mod demo;
mod job_loop;
mod stream_writer;

use engine::{Engine, provider};
use infra::{clock, config, lifecycle::Lifecycle};
use std::{num::NonZeroUsize, path::PathBuf, sync::Arc};
use tracing::info;

const MEBIBYTE: NonZeroUsize = NonZeroUsize::new(1 << 20).expect("a literal above zero");

/// What an inference worker needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The queue and the bus.
    pub nats: config::Nats,
    /// A Hugging Face model directory; the demo model where there is none.
    pub model_dir: Option<PathBuf>,
    /// Where the demo model is unpacked.
    pub cache_dir: PathBuf,
    /// The worker's name, unique among those that run.
    pub name: String,
    /// Queries that it answers side by side.
    pub concurrency: NonZeroUsize,
    /// Threads that compute; all cores where it is not given.
    pub threads: Option<NonZeroUsize>,
    /// Most tokens of one answer.
    pub max_new_tokens: usize,
    /// Tokens computed in one step for all queries together.
    pub step_tokens: NonZeroUsize,
    /// Mebibytes for what the model remembers of all queries.
    pub kv_mib: NonZeroUsize,
}

impl Config {
    /// A worker at this NATS, with the demo model.
    pub fn at(nats: config::Nats) -> Self {
        Self {
            nats,
            model_dir: None,
            cache_dir: std::env::temp_dir(),
            name: format!("worker-{}", &clock::fresh_id().simple().to_string()[20..]),
            concurrency: NonZeroUsize::new(8).unwrap_or(NonZeroUsize::MIN),
            threads: None,
            max_new_tokens: 512,
            // On a few cores a longer step would hold up the answers that stream meanwhile.
            step_tokens: NonZeroUsize::new(256).unwrap_or(NonZeroUsize::MIN),
            kv_mib: NonZeroUsize::new(1024).unwrap_or(NonZeroUsize::MIN),
        }
    }

    /// From the environment: `MODEL_DIR`, `WORKER_NAME`, `WORKER_CONCURRENCY`, `WORKER_THREADS`,
    /// `WORKER_MAX_NEW_TOKENS`, `WORKER_STEP_TOKENS`, `WORKER_KV_MIB`, `WORKER_CACHE_DIR`, and how
    /// to reach NATS.
    ///
    /// # Errors
    /// When a variable cannot be read.
    pub fn from_env() -> Result<Self, config::Error> {
        let default = Self::at(config::Nats::from_env()?);
        let model_dir = config::text("MODEL_DIR", "");
        let threads = config::parsed("WORKER_THREADS", 0)?;
        Ok(Self {
            model_dir: (!model_dir.is_empty()).then(|| PathBuf::from(model_dir)),
            cache_dir: config::parsed("WORKER_CACHE_DIR", default.cache_dir)?,
            name: config::text("WORKER_NAME", &default.name),
            concurrency: config::parsed("WORKER_CONCURRENCY", default.concurrency)?,
            threads: NonZeroUsize::new(threads),
            max_new_tokens: config::parsed("WORKER_MAX_NEW_TOKENS", default.max_new_tokens)?,
            step_tokens: config::parsed("WORKER_STEP_TOKENS", default.step_tokens)?,
            kv_mib: config::parsed("WORKER_KV_MIB", default.kv_mib)?,
            nats: default.nats,
        })
    }
}

/// The worker could not start.
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
    /// The thread that loaded the model died.
    #[error("loading the model was interrupted")]
    Interrupted,
}

/// Runs until the lifecycle stops it: no further jobs then, those in hand are finished.
///
/// # Errors
/// When it cannot start.
pub async fn run(config: Config, lifecycle: Lifecycle) -> Result<(), Error> {
    let client = infra::nats::connect(&config.nats, "backend-inference-worker").await?;
    let context = infra::jetstream::prepare(&client, &config.nats).await?;
    let engine = load(&config).await?;
    let model = engine.model();
    let provider = Arc::new(provider::Local::new(engine.clone()));
    let worker = answer::Worker::new(
        &client,
        provider,
        config.name.clone(),
        config.max_new_tokens,
    );
    info!(
        worker.name = config.name,
        model.id = model.id,
        model.demo = model.demo,
        model.parameters = model.parameters,
        model.context = model.context_length,
        load_ms = model.load_ms,
        concurrency = config.concurrency,
        "inference worker takes jobs"
    );
    job_loop::run(&context, worker, config.concurrency, &lifecycle).await;
    Ok(())
}

async fn load(config: &Config) -> Result<Engine, Error> {
    let dir = match &config.model_dir {
        Some(dir) => dir.clone(),
        None => demo::unpack(&config.cache_dir).map_err(|source| Error::Unpack {
            dir: config.cache_dir.clone(),
            source,
        })?,
    };
    let options = engine::Options {
        threads: config.threads,
        max_active: config.concurrency,
        step_tokens: config.step_tokens,
        kv_bytes: config.kv_mib.saturating_mul(MEBIBYTE),
        ..engine::Options::default()
    };
    let loading = tokio::task::spawn_blocking(move || {
        Engine::load(&dir, options).map_err(|source| Error::Model {
            dir,
            source: Box::new(source),
        })
    });
    loading.await.map_err(|_| Error::Interrupted)?
}
