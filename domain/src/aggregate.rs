//! What every aggregate is.

use crate::{
    authority::Actor,
    id::{AccountId, CommandId},
    subject::{self, Kind},
    time::Timestamp,
    upcast::Recorded,
};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

/// What a decision may know of the world outside its aggregate.
#[derive(Clone, Debug)]
pub struct Context {
    /// When the command is decided.
    pub now: Timestamp,
    /// Who gave it.
    pub actor: Actor,
    /// The command's own id, from which further ids may be derived.
    pub command_id: CommandId,
}

/// A consistency boundary: one subject in the log, decided about one command at a time.
pub trait Aggregate:
    Default + Clone + std::fmt::Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Its kind, which is part of its subject.
    const KIND: Kind;
    /// Version of the state's shape and of what [`Self::evolve`] makes of events. A snapshot of
    /// another shape is not used; raise it with every change of either.
    const SHAPE: u32;
    /// Its facts.
    type Event: Recorded + Clone + std::fmt::Debug + Send + Sync + 'static;
    /// Its orders. Cloned when a decision is taken again after a conflict.
    type Command: Clone + std::fmt::Debug + Send + Sync + 'static;
    /// The rules that an order can break.
    type Refused: std::error::Error + Send + Sync + 'static;

    /// Decides. A repeat of a command that is already in effect yields no events.
    ///
    /// # Errors
    /// The rule that the command breaks.
    fn decide(
        &self,
        command: Self::Command,
        cx: &Context,
    ) -> Result<Vec<Self::Event>, Self::Refused>;

    /// Folds one event into the state; never fails.
    fn evolve(self, event: &Self::Event) -> Self;

    /// Whose key `events` are sealed with, which have led to this state; `None` for what tells
    /// nothing about a person but ids and times.
    fn person(&self, events: &[Self::Event]) -> Option<AccountId>;

    /// This state after a commit that nobody can read any more, since its person was erased.
    #[must_use]
    fn erased(self) -> Self;

    /// Names one aggregate of this kind.
    fn named(id: Uuid) -> subject::Aggregate {
        subject::Aggregate::new(Self::KIND, id)
    }
}
