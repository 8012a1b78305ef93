//! The query as `disintegrate` wants it: events with the ids that they are found by, the state
//! that decisions are taken from, and the three decisions.

use crate::work::{MODEL, OPERATION, Step, Task, WORKER};
use disintegrate::{Decision, Event, StateMutate, StateQuery};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[expect(
    clippy::enum_variant_names,
    reason = "the names of the variants are what the store has as the events' types"
)]
#[stream(QueryEvent, [QuerySubmitted, QueryStarted, QueryCompleted])]
pub enum DomainEvent {
    /// Somebody asked.
    QuerySubmitted {
        /// The query.
        #[id]
        query_id: Uuid,
        /// Who.
        owner: Uuid,
        /// What.
        text: String,
        /// How it is routed.
        operation: String,
        /// When, in milliseconds since 1970.
        at: i64,
    },
    /// A worker took it.
    QueryStarted {
        /// The query.
        #[id]
        query_id: Uuid,
        /// Which worker.
        worker: String,
        /// The model that answers.
        model: String,
        /// When.
        at: i64,
    },
    /// The answer is whole.
    QueryCompleted {
        /// The query.
        #[id]
        query_id: Uuid,
        /// The answer.
        response_text: String,
        /// Where it comes from.
        model_used: String,
        /// When.
        at: i64,
    },
}

/// How far a query is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Nobody has asked.
    #[default]
    Absent,
    /// Waits for a worker.
    Queued,
    /// A worker has it.
    Processing,
    /// Answered.
    Completed,
}

/// The state that decisions are taken from.
#[derive(Clone, Debug, Default, StateQuery, Serialize, Deserialize)]
#[state_query(QueryEvent)]
pub struct Query {
    #[id]
    query_id: Uuid,
    status: Status,
}

impl StateMutate for Query {
    fn mutate(&mut self, event: Self::Event) {
        self.status = match event {
            QueryEvent::QuerySubmitted { .. } => Status::Queued,
            QueryEvent::QueryStarted { .. } => Status::Processing,
            QueryEvent::QueryCompleted { .. } => Status::Completed,
        };
    }
}

/// One of the three decisions about a query.
#[derive(Clone, Debug)]
pub struct Decide {
    /// Which.
    pub step: Step,
    /// The texts of it.
    pub task: Task,
    /// Now, in milliseconds since 1970.
    pub at: i64,
}

/// A rule that the decision breaks.
#[derive(Debug, thiserror::Error)]
#[error("{step:?} does not follow on {status:?}")]
pub struct Refused {
    step: Step,
    status: Status,
}

impl Decision for Decide {
    type Event = DomainEvent;
    type StateQuery = Query;
    type Error = Refused;

    fn state_query(&self) -> Query {
        Query {
            query_id: self.task.query,
            status: Status::Absent,
        }
    }

    fn process(&self, query: &Query) -> Result<Vec<DomainEvent>, Refused> {
        let (query_id, at) = (self.task.query, self.at);
        let event = match (self.step, query.status) {
            (Step::Submit, Status::Absent) => DomainEvent::QuerySubmitted {
                query_id,
                owner: self.task.owner,
                text: self.task.question.clone(),
                operation: OPERATION.to_owned(),
                at,
            },
            (Step::Start, Status::Queued) => DomainEvent::QueryStarted {
                query_id,
                worker: WORKER.to_owned(),
                model: MODEL.to_owned(),
                at,
            },
            (Step::Complete, Status::Processing) => DomainEvent::QueryCompleted {
                query_id,
                response_text: self.task.answer.clone(),
                model_used: MODEL.to_owned(),
                at,
            },
            (step, status) => return Err(Refused { step, status }),
        };
        Ok(vec![event])
    }
}
