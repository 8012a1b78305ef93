//! The query as `cqrs-es` wants it.

use crate::work::{MODEL, OPERATION, Step, Task, WORKER};
use cqrs_es::{Aggregate, DomainEvent, event_sink::EventSink};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A query's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Query {
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

/// An order.
#[derive(Debug)]
pub struct Command {
    /// What is ordered.
    pub step: Step,
    /// The texts of it.
    pub task: Task,
    /// Now, in milliseconds since 1970.
    pub at: i64,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// Somebody asked.
    Submitted {
        /// Who.
        owner: Uuid,
        /// What.
        text: String,
        /// How it is routed.
        operation: String,
        /// When.
        at: i64,
    },
    /// A worker took it.
    Started {
        /// Which.
        worker: String,
        /// The model that answers.
        model: String,
        /// When.
        at: i64,
    },
    /// The answer is whole.
    Completed {
        /// The answer.
        response_text: String,
        /// Where it comes from.
        model_used: String,
        /// When.
        at: i64,
    },
}

/// A rule that the order breaks.
#[derive(Debug, thiserror::Error)]
#[error("{step:?} does not follow on {query:?}")]
pub struct Refused {
    step: Step,
    query: Query,
}

impl DomainEvent for Event {
    fn event_type(&self) -> String {
        match self {
            Self::Submitted { .. } => "Submitted",
            Self::Started { .. } => "Started",
            Self::Completed { .. } => "Completed",
        }
        .to_owned()
    }

    fn event_version(&self) -> String {
        "1.0".to_owned()
    }
}

impl Aggregate for Query {
    const TYPE: &'static str = "query";
    type Command = Command;
    type Event = Event;
    type Error = Refused;
    type Services = ();

    async fn handle(
        &mut self,
        command: Command,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), Refused> {
        let Command { step, task, at } = command;
        let event = match (step, *self) {
            (Step::Submit, Self::Absent) => Event::Submitted {
                owner: task.owner,
                text: task.question,
                operation: OPERATION.to_owned(),
                at,
            },
            (Step::Start, Self::Queued) => Event::Started {
                worker: WORKER.to_owned(),
                model: MODEL.to_owned(),
                at,
            },
            (Step::Complete, Self::Processing) => Event::Completed {
                response_text: task.answer,
                model_used: MODEL.to_owned(),
                at,
            },
            (step, query) => return Err(Refused { step, query }),
        };
        sink.write(event, self).await;
        Ok(())
    }

    fn apply(&mut self, event: Event) {
        *self = match event {
            Event::Submitted { .. } => Self::Queued,
            Event::Started { .. } => Self::Processing,
            Event::Completed { .. } => Self::Completed,
        };
    }
}
