//! Loading the models of a worker, once it is known that they fit into memory together.

use crate::{Config, Error, demo, models::Served, providers};
use domain::subject;
use engine::{
    Engine,
    check::{Report, check, machine_memory},
    provider::Local,
};
use infra::{clock, metrics};
use std::{fmt, num::NonZeroUsize, path::Path, sync::Arc, time::Duration};
use tracing::{info, warn};

const MEBIBYTE: NonZeroUsize = NonZeroUsize::new(1 << 20).expect("a literal above zero");

/// What answers in this worker.
#[derive(Default)]
pub(crate) struct Loaded {
    pub(crate) served: Vec<Served>,
    /// Those that compute here.
    pub(crate) engines: Vec<Engine>,
}

/// Memory that a model takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The model.
    id: String,
    /// Bytes of its weights.
    weights: u64,
    /// Bytes of the keys and values of all its queries.
    kv: u64,
}

impl Need {
    fn bytes(&self) -> u64 {
        self.weights.saturating_add(self.kv)
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, weights, kv) = (&self.id, mebibytes(self.weights), mebibytes(self.kv));
        write!(f, "{id} {weights} of weights and {kv} of keys and values")
    }
}

/// Models that do not fit into memory together.
#[derive(Debug)]
pub struct TooLarge {
    needs: Vec<Need>,
    memory: u64,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self
            .needs
            .iter()
            .map(Need::bytes)
            .fold(0, u64::saturating_add);
        let each: Vec<String> = self.needs.iter().map(Need::to_string).collect();
        write!(
            f,
            "the models take {} ({}), and this machine has {}: serve fewer of them (MODEL_DIR), or leave less for keys and values (WORKER_KV_MIB)",
            mebibytes(all),
            each.join(", "),
            mebibytes(self.memory)
        )
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

/// Loads every model of the worker, in the order of their directories. Where there is no directory
/// the providers answer, and where there are no providers the demo model. They do not stand beside
/// directories: what people say would leave the machine whenever its own models have no room.
pub(crate) async fn load(config: &Config) -> Result<Loaded, Error> {
    match &config.providers {
        Some(settings) if config.model_dirs.is_empty() => {
            return Ok(Loaded {
                served: vec![elsewhere(settings, config)?],
                engines: vec![],
            });
        }
        Some(_) => warn!("MODEL_DIR is set: the models there answer, and no provider is asked"),
        None => {}
    }
    let config = config.clone();
    tokio::task::spawn_blocking(move || load_all(&config))
        .await
        .map_err(|_| Error::Interrupted)?
}

fn elsewhere(settings: &providers::Settings, config: &Config) -> Result<Served, Error> {
    let provider = providers::make(settings)?;
    let card = provider.card();
    info!(
        model.id = card.model,
        model.provider = card.provider,
        model.demo = card.abilities.demo,
        concurrency = config.concurrency,
        "a model answers"
    );
    Ok(Served::new(
        provider,
        clock::now(),
        config.concurrency.get(),
        config.max_new_tokens,
    ))
}

fn load_all(config: &Config) -> Result<Loaded, Error> {
    let mut dirs = config.model_dirs.clone();
    if dirs.is_empty() {
        let dir = demo::unpack(&config.cache_dir).map_err(|source| Error::Unpack {
            dir: config.cache_dir.clone(),
            source,
        })?;
        dirs.push(dir);
    }
    let mut needs = vec![];
    for dir in &dirs {
        let report = check(dir, false).map_err(|source| model(dir, source))?;
        needs.push(need(&report, config));
    }
    check_ids(&needs)?;
    let weights: Vec<u64> = needs.iter().map(|need| need.weights).collect();
    if let Some(memory) = machine_memory() {
        check_memory(needs, memory)?;
    }
    let mut loaded = Loaded::default();
    for (dir, weights) in dirs.iter().zip(weights) {
        let (served, engine) = load_one(dir, weights, config)?;
        loaded.served.push(served);
        loaded.engines.push(engine);
    }
    Ok(loaded)
}

fn load_one(dir: &Path, weights_bytes: u64, config: &Config) -> Result<(Served, Engine), Error> {
    let options = engine::Options {
        compute_on: config.compute_on,
        kernel_cache: Some(config.cache_dir.join("kernels")),
        threads: config.threads,
        max_active: config.concurrency,
        step_tokens: config.step_tokens,
        kv_bytes: config.kv_mib.saturating_mul(MEBIBYTE),
        step_limit: config.step_limit,
        ..engine::Options::default()
    };
    let engine = Engine::load(dir, options).map_err(|source| model(dir, source))?;
    let card = engine.model();
    metrics::model_loaded(&card.id, Duration::from_millis(card.load_ms), weights_bytes);
    info!(
        model.id = card.id,
        model.demo = card.demo,
        model.parameters = card.parameters,
        model.context = card.context_length,
        load_ms = card.load_ms,
        concurrency = config.concurrency,
        "a model answers"
    );
    let served = Served::new(
        Arc::new(Local::new(engine.clone())),
        clock::now(),
        config.concurrency.get(),
        config.max_new_tokens,
    );
    Ok((served, engine))
}

fn model(dir: &Path, source: engine::Error) -> Error {
    Error::Model {
        dir: dir.to_owned(),
        source: Box::new(source),
    }
}

fn need(model: &Report, config: &Config) -> Need {
    let bytes = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let queries = bytes(config.concurrency.get()).saturating_mul(bytes(model.context));
    let kv = queries.saturating_mul(model.kv_bytes_per_token);
    Need {
        id: model.id.clone(),
        weights: model.weights_bytes,
        kv: kv.min(bytes(config.kv_mib.saturating_mul(MEBIBYTE).get())),
    }
}

/// A job names its model by its id alone, and waits in a lane of its name.
fn check_ids(needs: &[Need]) -> Result<(), Error> {
    let lane = |need: &Need| subject::token(&need.id);
    for (index, need) in needs.iter().enumerate() {
        if needs[..index].iter().any(|other| lane(other) == lane(need)) {
            return Err(Error::SameModel(need.id.clone()));
        }
    }
    Ok(())
}

fn check_memory(needs: Vec<Need>, memory: u64) -> Result<(), Error> {
    let all = needs.iter().map(Need::bytes).fold(0, u64::saturating_add);
    match all <= memory {
        true => Ok(()),
        false => Err(Error::TooLarge(TooLarge { needs, memory })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(id: &str, weights: u64, kv: u64) -> Need {
        Need {
            id: id.into(),
            weights,
            kv,
        }
    }

    #[test]
    fn models_that_do_not_fit_together_are_refused_with_the_numbers() {
        let needs = vec![
            need("a", 3 << 20, 1 << 20),
            need("b", 5 << 20, (1 << 20) - 1),
        ];
        assert!(check_memory(needs.clone(), (10 << 20) - 1).is_ok());
        let refused = check_memory(needs, (10 << 20) - 2).unwrap_err().to_string();
        assert_eq!(
            refused,
            "the models take 10 MiB (a 3 MiB of weights and 1 MiB of keys and values, b 5 MiB of weights and 1 MiB of keys and values), and this machine has 10 MiB: serve fewer of them (MODEL_DIR), or leave less for keys and values (WORKER_KV_MIB)"
        );
        assert!(check_memory(vec![need("a", u64::MAX, 1)], u64::MAX - 1).is_err());
    }

    #[test]
    fn two_models_of_one_name_are_refused() {
        assert!(check_ids(&[need("a", 1, 1), need("b", 1, 1)]).is_ok());
        let same = check_ids(&[need("a", 1, 1), need("b", 1, 1), need("a", 2, 2)]);
        assert!(matches!(same, Err(Error::SameModel(id)) if id == "a"));
        // Both wait as `org-m`.
        let alike = check_ids(&[need("org/m", 1, 1), need("org-m", 1, 1)]);
        assert!(matches!(alike, Err(Error::SameModel(id)) if id == "org-m"));
    }
}
