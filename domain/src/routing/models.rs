//! The models that workers have registered, each once.

use super::asked::{Asked, Obstacle};
use crate::wire::worker::{Abilities, Model, Registration};
use std::collections::BTreeMap;

/// What can be chosen from.
#[derive(Clone, Debug, Default)]
pub struct Models<'a> {
    /// By id.
    pub(super) taking: BTreeMap<&'a str, Candidate>,
    /// What only workers have that take nothing more.
    pub(super) leaving: BTreeMap<&'a str, Candidate>,
}

/// A model, whoever has it. A job may come to any of its workers, so that it can do what all of
/// them can.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) context: Option<u32>,
    pub(super) abilities: Abilities,
    pub(super) places: u64,
    /// Free places less what was given to it since; below 0 as many wait.
    pub(super) free: i64,
    /// By each worker, what there is room for.
    room: Vec<Room>,
}

#[derive(Clone, Copy, Debug)]
struct Room {
    places: u32,
    tokens: Option<u64>,
}

impl<'a> Models<'a> {
    /// What these workers have. `given` is how many queries each model was given lately that its
    /// workers cannot have told yet.
    pub fn new(workers: &'a [Registration], given: &BTreeMap<String, u32>) -> Self {
        let mut this = Self::default();
        for worker in workers {
            for model in &worker.models {
                let known = match worker.draining {
                    true => &mut this.leaving,
                    false => &mut this.taking,
                };
                known
                    .entry(model.id.as_str())
                    .and_modify(|known| known.add(model))
                    .or_insert_with(|| Candidate::new(model));
            }
        }
        for (id, candidate) in &mut this.taking {
            candidate.free -= i64::from(given.get(*id).copied().unwrap_or(0));
        }
        this
    }

    /// Whether there is nothing but demo models and simulations.
    pub(super) fn only_demo(&self) -> bool {
        self.taking.values().all(|model| model.abilities.demo)
    }
}

impl Candidate {
    fn new(model: &Model) -> Self {
        let mut this = Self {
            context: model.context,
            abilities: model.abilities,
            places: 0,
            free: 0,
            room: Vec::new(),
        };
        this.add(model);
        this
    }

    fn add(&mut self, model: &Model) {
        self.context = match (self.context, model.context) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let (all, each) = (&mut self.abilities, model.abilities);
        all.logprobs &= each.logprobs;
        all.format &= each.format;
        all.resume &= each.resume;
        all.demo |= each.demo;
        self.places += u64::from(model.places);
        self.free += i64::from(model.free_places);
        self.room.push(Room {
            places: model.free_places,
            tokens: model.free_tokens,
        });
    }

    /// What stands against it, if anything does.
    pub(super) fn obstacle(&self, asked: &Asked<'_>) -> Option<Obstacle> {
        asked.needs.obstacle(self.abilities, self.context)
    }

    /// Whether some worker has a place for it now, and memory.
    pub(super) fn is_free(&self, asked: &Asked<'_>) -> bool {
        self.free > 0 && self.has_memory(asked)
    }

    /// Whether some worker with a place has memory for it now.
    pub(super) fn has_memory(&self, asked: &Asked<'_>) -> bool {
        // An answer ends where the context does.
        let wanted = asked.tokens.min(self.length().into());
        let fits = |room: &Room| room.tokens.is_none_or(|tokens| tokens >= wanted);
        self.room.iter().any(|room| room.places > 0 && fits(room))
    }

    /// Whether prompt and answer fit by all appearances.
    pub(super) fn seems_to_fit(&self, asked: &Asked<'_>) -> bool {
        self.context
            .is_none_or(|context| u64::from(context) >= asked.tokens)
    }

    /// Where it is not known it is taken for long: providers of large models do not tell.
    pub(super) fn length(&self) -> u32 {
        self.context.unwrap_or(u32::MAX)
    }
}
