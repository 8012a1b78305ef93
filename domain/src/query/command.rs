use super::{Answer, Route, Submission};
use crate::{
    id::{AccountId, QueryId},
    routing::Unroutable,
    wire::error::Code,
};

/// Orders to a query.
#[derive(Clone, Debug)]
pub enum Command {
    /// Ask.
    Submit {
        /// The query's id.
        query: QueryId,
        /// Who asks.
        owner: AccountId,
        /// What.
        submission: Submission,
        /// Which model it is given to. Where none takes it, it is refused, unless it was asked
        /// before.
        route: Result<Route, Unroutable>,
    },
    /// A worker takes it.
    Start {
        /// The query's id.
        query: QueryId,
        /// The worker's name.
        worker: String,
        /// The model that will answer.
        model: String,
    },
    /// A worker has the whole answer.
    Complete {
        /// The query's id.
        query: QueryId,
        /// The answer.
        answer: Answer,
    },
    /// A worker gives up.
    Fail {
        /// The query's id.
        query: QueryId,
        /// What the client is told.
        code: Code,
        /// In words that may be shown to the client.
        message: String,
    },
    /// No answer is wanted any more, by its owner or by the system.
    Cancel {
        /// The query's id.
        query: QueryId,
    },
}
