//! What an inference worker needs to know.

use crate::providers;
use engine::ComputeOn;
use infra::{clock, config};
use std::{
    net::SocketAddr,
    num::{NonZeroU64, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

/// Far more than a long step of a large model takes on few cores.
const STEP_LIMIT_SECS: NonZeroU64 = NonZeroU64::new(60).expect("a literal above zero");

/// The settings of one worker.
#[derive(Clone, Debug)]
pub struct Config {
    /// The queue and the bus.
    pub nats: config::Nats,
    /// Hugging Face model directories, each served by an engine of its own. The first one answers
    /// what no model is named for, as long as it has room.
    pub model_dirs: Vec<PathBuf>,
    /// Who answers where there is no directory; the demo model where there is nobody either.
    pub providers: Option<providers::Settings>,
    /// Where the demo model is unpacked.
    pub cache_dir: PathBuf,
    /// The worker's name, unique among those that run.
    pub name: String,
    /// Queries that each model answers side by side.
    pub concurrency: NonZeroUsize,
    /// What computes: an NVIDIA device, or the processor.
    pub compute_on: ComputeOn,
    /// Threads that compute, for each model; all cores where it is not given.
    pub threads: Option<NonZeroUsize>,
    /// Most tokens of one answer.
    pub max_new_tokens: usize,
    /// Tokens computed in one step for all queries of a model together.
    pub step_tokens: NonZeroUsize,
    /// Mebibytes for what each model remembers of all its queries.
    pub kv_mib: NonZeroUsize,
    /// Where Prometheus scrapes a worker in a process of its own; nowhere where it is not given.
    pub metrics_addr: Option<SocketAddr>,
    /// How long answers in hand may take when the worker stops; those that take longer go on at
    /// another worker.
    pub drain: Duration,
    /// How long a model may take for one step; then the worker ends.
    pub step_limit: Duration,
}

impl Config {
    /// A worker at this NATS, with the demo model.
    pub fn at(nats: config::Nats) -> Self {
        const fn some(value: usize) -> NonZeroUsize {
            NonZeroUsize::new(value).expect("a literal above zero")
        }
        Self {
            nats,
            model_dirs: vec![],
            providers: None,
            cache_dir: std::env::temp_dir(),
            name: format!("worker-{}", &clock::fresh_id().simple().to_string()[20..]),
            concurrency: some(8),
            compute_on: ComputeOn::default(),
            threads: None,
            max_new_tokens: 512,
            // On a few cores a longer step would hold up the answers that stream meanwhile.
            step_tokens: some(256),
            kv_mib: some(1024),
            metrics_addr: None,
            drain: Duration::from_secs(15),
            step_limit: Duration::from_secs(STEP_LIMIT_SECS.get()),
        }
    }

    /// From the environment: `MODEL_DIR` (one directory, or several separated as in `PATH`),
    /// `WORKER_NAME`, `WORKER_CONCURRENCY`, `WORKER_DEVICE` (`cpu`, `auto` or `cuda`),
    /// `WORKER_THREADS`, `WORKER_MAX_NEW_TOKENS`, `WORKER_STEP_TOKENS`, `WORKER_KV_MIB`,
    /// `WORKER_CACHE_DIR`, `WORKER_DRAIN_SECS`, `WORKER_STEP_LIMIT_SECS`, `WORKER_METRICS_ADDR`,
    /// those of [`providers::Settings::from_env`], and how to reach NATS.
    ///
    /// # Errors
    /// When a variable cannot be read.
    pub fn from_env() -> Result<Self, config::Error> {
        let default = Self::at(config::Nats::from_env()?);
        let model_dirs = config::text("MODEL_DIR", "");
        let threads = config::parsed("WORKER_THREADS", 0)?;
        let drain = config::parsed("WORKER_DRAIN_SECS", default.drain.as_secs())?;
        let step_limit = config::parsed("WORKER_STEP_LIMIT_SECS", STEP_LIMIT_SECS)?;
        Ok(Self {
            model_dirs: std::env::split_paths(&model_dirs)
                .filter(|dir| !dir.as_os_str().is_empty())
                .collect(),
            providers: providers::Settings::from_env()?,
            cache_dir: config::parsed("WORKER_CACHE_DIR", default.cache_dir)?,
            name: config::text("WORKER_NAME", &default.name),
            concurrency: config::parsed("WORKER_CONCURRENCY", default.concurrency)?,
            compute_on: config::parsed("WORKER_DEVICE", default.compute_on)?,
            threads: NonZeroUsize::new(threads),
            max_new_tokens: config::parsed("WORKER_MAX_NEW_TOKENS", default.max_new_tokens)?,
            step_tokens: config::parsed("WORKER_STEP_TOKENS", default.step_tokens)?,
            kv_mib: config::parsed("WORKER_KV_MIB", default.kv_mib)?,
            metrics_addr: config::optional("WORKER_METRICS_ADDR")?,
            drain: Duration::from_secs(drain),
            step_limit: Duration::from_secs(step_limit.get()),
            nats: default.nats,
        })
    }
}
