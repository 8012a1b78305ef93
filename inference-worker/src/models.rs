//! The models of this worker, and which of them have room.

use domain::{Timestamp, wire::worker};
use engine::provider::Provider;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};
use tokio::sync::Notify;

/// Tokens that a job is taken to ask with, until it has been opened and its model has begun.
const PROMPT_TOKENS: usize = 512;

/// All models of this worker, in the order in which they are preferred. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Models {
    served: Arc<[Arc<Served>]>,
    changed: Arc<Notify>,
}

/// A model that answers.
#[derive(Debug)]
pub(crate) struct Served {
    provider: Arc<dyn Provider>,
    loaded_at: Timestamp,
    places: usize,
    taken: AtomicUsize,
    /// Tokens of one job at most, as far as that is known before.
    job_tokens: usize,
    /// Tokens of jobs in hand that the provider's own count does not hold yet.
    promised: AtomicUsize,
}

/// A place of a model, for as long as it is held.
#[derive(Debug)]
pub(crate) struct Place {
    served: Arc<Served>,
    changed: Arc<Notify>,
    promised: usize,
}

impl Served {
    /// With so many places, for answers of so many tokens.
    pub(crate) fn new(
        provider: Arc<dyn Provider>,
        loaded_at: Timestamp,
        places: usize,
        max_new_tokens: usize,
    ) -> Self {
        let context = provider.card().context.unwrap_or(usize::MAX);
        Self {
            provider,
            loaded_at,
            places,
            taken: AtomicUsize::new(0),
            job_tokens: max_new_tokens.saturating_add(PROMPT_TOKENS).min(context),
            promised: AtomicUsize::new(0),
        }
    }

    /// The model's id.
    pub(crate) fn id(&self) -> &str {
        &self.provider.card().model
    }

    /// Who answers.
    pub(crate) fn provider(&self) -> &Arc<dyn Provider> {
        &self.provider
    }

    /// Whether one more job would begin at once: a place is free, and memory for its whole life.
    fn has_room(&self) -> bool {
        let free = self.free_tokens();
        self.taken.load(Relaxed) < self.places && free.is_none_or(|free| free >= self.job_tokens)
    }

    /// Tokens that there is memory for beside all that is in hand.
    fn free_tokens(&self) -> Option<usize> {
        let free = self.provider.load().free_tokens?;
        Some(free.saturating_sub(self.promised.load(Relaxed)))
    }

    /// As others are told of it.
    fn registered(&self) -> worker::Model {
        let card = self.provider.card();
        let short = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        worker::Model {
            id: card.model.clone(),
            provider: card.provider.clone(),
            loaded_at: self.loaded_at,
            context: card.context.map(short),
            abilities: worker::Abilities {
                logprobs: card.abilities.logprobs,
                format: card.abilities.formats,
                resume: card.abilities.resume,
                demo: card.abilities.demo,
            },
            places: short(self.places),
            free_places: short(self.places.saturating_sub(self.taken.load(Relaxed))),
            free_tokens: self.free_tokens().map(|free| free as u64),
        }
    }
}

impl Models {
    pub(crate) fn new(served: Vec<Served>) -> Self {
        Self {
            served: served.into_iter().map(Arc::new).collect(),
            changed: Arc::default(),
        }
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Served>> {
        self.served.iter()
    }

    /// The model with this id.
    pub(crate) fn named(&self, id: &str) -> Option<&Arc<Served>> {
        self.iter().find(|served| served.id() == id)
    }

    /// Those that have room for a job.
    pub(crate) fn with_room(&self) -> Vec<&Arc<Served>> {
        self.iter().filter(|served| served.has_room()).collect()
    }

    /// Takes a place, also where there is no room: the provider has whoever is one too many wait.
    pub(crate) fn take(&self, served: &Arc<Served>) -> Place {
        served.taken.fetch_add(1, Relaxed);
        served.promised.fetch_add(served.job_tokens, Relaxed);
        Place {
            served: served.clone(),
            changed: self.changed.clone(),
            promised: served.job_tokens,
        }
    }

    /// Completes when room may have come since the last time.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Jobs in hand.
    pub(crate) fn in_hand(&self) -> usize {
        self.iter().map(|served| served.taken.load(Relaxed)).sum()
    }

    /// As others are told of them.
    pub(crate) fn registered(&self) -> Vec<worker::Model> {
        self.iter().map(|served| served.registered()).collect()
    }
}

impl Place {
    /// Whose.
    pub(crate) fn served(&self) -> &Arc<Served> {
        &self.served
    }

    /// The provider has begun, and counts by itself what this job takes.
    pub(crate) fn begun(&mut self) {
        let promised = std::mem::take(&mut self.promised);
        if promised > 0 {
            self.served.promised.fetch_sub(promised, Relaxed);
            self.changed.notify_one();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.served.promised.fetch_sub(self.promised, Relaxed);
        self.served.taken.fetch_sub(1, Relaxed);
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::{
        Error,
        provider::{Abilities, Answer, Card, ChatRequest, Load, Sim, SimSettings},
    };

    /// An engine's numbers without an engine.
    #[derive(Debug)]
    struct Holding(Card, AtomicUsize);

    impl Provider for Holding {
        fn card(&self) -> &Card {
            &self.0
        }

        fn load(&self) -> Load {
            Load {
                running: 0,
                free_tokens: Some(self.1.load(Relaxed)),
            }
        }

        fn answer(&self, _: ChatRequest) -> Result<Answer, Error> {
            Err(Error::Stopped)
        }
    }

    #[test]
    fn a_model_takes_what_fits_and_not_only_as_many_as_it_has_places() {
        let card = Card {
            model: "m".into(),
            provider: "engine".into(),
            context: Some(600),
            abilities: Abilities::default(),
        };
        let holding = Arc::new(Holding(card, AtomicUsize::new(1_300)));
        let sim = Arc::new(Sim::new(SimSettings::default()));
        let at = Timestamp::from_millis(0);
        let models = Models::new(vec![
            Served::new(holding.clone(), at, 8, 512),
            Served::new(sim, at, 1, 512),
        ]);
        let ids = || {
            let free = models.with_room();
            free.iter().map(|served| served.id()).collect::<Vec<_>>()
        };
        assert_eq!(ids(), ["m", Sim::MODEL]);
        let both: Vec<_> = models.iter().map(|served| models.take(served)).collect();
        assert_eq!(ids(), ["m"], "the other one has a single place");
        // A job may take the whole context, and there is memory for two.
        let mut second = models.take(models.named("m").unwrap());
        assert_eq!(ids(), [""; 0]);
        let told = models.registered();
        assert_eq!((told[0].places, told[0].free_places), (8, 6));
        assert_eq!(
            (told[0].free_tokens, told[1].free_tokens),
            (Some(100), None)
        );
        // It has begun with less than it was promised.
        holding.1.store(1_250, Relaxed);
        second.begun();
        second.begun();
        assert_eq!(ids(), ["m"]);
        assert_eq!(models.in_hand(), 3);
        drop((both, second));
        assert_eq!(models.in_hand(), 0);
        assert_eq!(ids(), ["m", Sim::MODEL]);
        assert_eq!(models.registered()[0].free_tokens, Some(1_250));
    }
}
