//! What clients write down: each call, when it began and ended, and what they were told.

use domain::query::Status;
use std::time::Duration;
use uuid::Uuid;

/// One call of one client.
#[derive(Clone, Debug)]
pub struct Call {
    /// Which client. Each has one call at a time.
    pub client: usize,
    /// As whom; nil before the client has an account.
    pub person: Uuid,
    /// Since the start of the run.
    pub began: Duration,
    /// The same, when the answer was there or nobody waited any more.
    pub ended: Duration,
    /// What was asked for.
    pub operation: Operation,
    /// What came back.
    pub outcome: Outcome,
}

/// What a client asks for. Texts and addresses are unique for each intention, so that its effect is
/// found in the log however often the call is repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// An account with this address.
    Register {
        /// The address.
        email: String,
    },
    /// One more session.
    SignIn,
    /// A question.
    Submit {
        /// Its text.
        text: String,
        /// How a repeat is recognised.
        handle: Handle,
    },
    /// The end of a question.
    Cancel {
        /// Which.
        query: Uuid,
    },
    /// A new pair of tokens.
    Refresh {
        /// Of this session.
        session: Uuid,
        /// For this refresh id.
        superseded: Uuid,
    },
    /// One query.
    ReadQuery {
        /// Which.
        query: Uuid,
        /// The sequence of the token that was sent along.
        at_least: Option<u64>,
    },
    /// The newest queries.
    ReadQueries {
        /// The sequence of the token that was sent along.
        at_least: Option<u64>,
    },
    /// The living sessions.
    ReadSessions {
        /// The sequence of the token that was sent along.
        at_least: Option<u64>,
    },
}

impl Operation {
    /// Its name in reports.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Register { .. } => "register",
            Self::SignIn => "sign in",
            Self::Submit { handle, .. } => match handle {
                Handle::Id(_) => "submit with id",
                Handle::Key(_) => "submit with key",
                Handle::None => "submit",
            },
            Self::Cancel { .. } => "cancel",
            Self::Refresh { .. } => "refresh",
            Self::ReadQuery { .. } => "read one query",
            Self::ReadQueries { .. } => "list queries",
            Self::ReadSessions { .. } => "list sessions",
        }
    }
}

/// How a repeated question is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handle {
    /// By the client's own id.
    Id(Uuid),
    /// By an `Idempotency-Key`.
    Key(String),
    /// Not: it is asked once.
    None,
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The command is in effect.
    Accepted {
        /// What it made.
        effect: Effect,
        /// The sequence of the consistency token, where there was one.
        token: Option<u64>,
    },
    /// What a read showed.
    Shown(Shown),
    /// Status and code of a final refusal.
    Refused(String),
    /// No answer, or one that leaves open what happened.
    Unknown(String),
}

impl Outcome {
    /// Whether the client knows what happened.
    pub const fn is_known(&self) -> bool {
        !matches!(self, Self::Unknown(_))
    }
}

/// What an accepted command made.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// An account and its first session.
    Account {
        /// The account.
        account: Uuid,
        /// The session.
        session: Uuid,
    },
    /// A session.
    Session(Uuid),
    /// A query, and the answer if it was waited for.
    Query {
        /// The query.
        query: Uuid,
        /// The answer's text.
        answer: Option<String>,
    },
    /// The query has ended.
    Ended,
    /// The session has this refresh id now.
    Rotated(Uuid),
}

/// What a read showed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    /// Queries.
    pub queries: Vec<ShownQuery>,
    /// Ids of sessions, with the time that each was last seen.
    pub sessions: Vec<(Uuid, String)>,
    /// Whether it showed all there is.
    pub complete: bool,
}

/// A query as it was shown.
#[derive(Clone, Debug, PartialEq)]
pub struct ShownQuery {
    /// Which.
    pub query: Uuid,
    /// Its status.
    pub status: Status,
    /// Its answer.
    pub text: Option<String>,
}
