//! Which model a new query is given to: the rules of [`domain::routing`] over what workers have
//! registered.

pub mod file;

use domain::{
    account::Tier,
    query::{Route, Submission},
    routing::{Asked, Models, Rules, Unroutable},
    wire::worker::HEARTBEAT_MILLIS,
};
use infra::workers::Workers;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Decisions that are remembered at most.
const REMEMBERED: usize = 4_096;

/// Decides about queries.
#[derive(Debug)]
pub struct Router {
    rules: Rules,
    workers: Workers,
    given: Mutex<VecDeque<(Instant, String)>>,
}

impl Router {
    /// By these rules, over these workers.
    pub fn new(rules: Rules, workers: Workers) -> Self {
        Self {
            rules,
            workers,
            given: Mutex::default(),
        }
    }

    /// Whether [`Self::route`] wants the tier of whoever asks.
    pub fn asks_for_tier(&self) -> bool {
        self.rules.ask_for_tier()
    }

    /// Which model this is given to now.
    ///
    /// # Errors
    /// When none takes it.
    pub fn route(&self, submission: &Submission, tier: Option<Tier>) -> Result<Route, Unroutable> {
        let workers = self.workers.present();
        let models = Models::new(&workers, &self.given());
        self.rules.route(&Asked::new(submission, tier), &models)
    }

    /// A query was given to a model: until its worker tells, one place fewer is free.
    pub fn note(&self, model: String) {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if given.len() >= REMEMBERED {
            given.pop_front();
        }
        given.push_back((Instant::now(), model));
    }

    /// How many each model was given since its workers must have told what they had.
    fn given(&self) -> BTreeMap<String, u32> {
        let told = Duration::from_millis(HEARTBEAT_MILLIS);
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        while given.front().is_some_and(|(at, _)| at.elapsed() >= told) {
            given.pop_front();
        }
        let mut counts = BTreeMap::new();
        for (_, model) in &*given {
            match counts.get_mut(model) {
                Some(count) => *count += 1,
                None => {
                    counts.insert(model.clone(), 1);
                }
            }
        }
        counts
    }
}
