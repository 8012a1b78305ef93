//! What operators ask the services, beside what clients ask.

use crate::Timestamp;
use serde::{Deserialize, Serialize};

/// A question or an order to whoever owns the projections, on [`crate::subject::ADMIN_PROJECTIONS`].
/// Nobody answers where nobody owns them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Projections {
    /// How they are. Answered with [`Reply::Status`].
    Status,
    /// Build another generation beside the live one.
    Rebuild {
        /// Make it live as soon as it has caught up.
        flip: bool,
    },
    /// The same from the copy of the log as far as that goes, and from the log behind it.
    RebuildFromCopy {
        /// Make it live as soon as it has caught up.
        flip: bool,
    },
    /// Delete the generation that is being built, or give up going back.
    Abandon,
    /// Make the generation that is being built live as soon as it has caught up.
    Flip,
    /// Bring the previous generation up to date, then make it live again.
    Rollback,
    /// Parked commits. Answered with [`Reply::Parked`].
    Parked {
        /// Those after this sequence.
        after: u64,
        /// At most so many, 1 to 500.
        limit: u32,
    },
    /// Project parked commits after all, in order. Answered with [`Reply::Retried`].
    Retry {
        /// Those of one aggregate and of what it shares commands with; otherwise all.
        subject: Option<String>,
    },
    /// Leave one parked commit out for good, then project those that waited for it. Answered with
    /// [`Reply::Retried`].
    Skip {
        /// Which.
        seq: u64,
        /// Who decided that.
        who: String,
        /// For what reason.
        why: String,
    },
}

/// The answer to [`Projections`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Reply {
    /// How they are.
    Status(Status),
    /// It begins; [`Projections::Status`] tells how it goes on.
    Begun,
    /// Parked commits.
    Parked {
        /// In the order of the log.
        commits: Vec<Parked>,
        /// How many there are in all.
        total: u64,
    },
    /// What came of trying again.
    Retried {
        /// Commits that are in the rows now.
        projected: u64,
        /// Commits that are parked still.
        left: u64,
        /// Commits that failed again, each the first of its aggregate.
        failed: Vec<Parked>,
    },
    /// It makes no sense now.
    Refused {
        /// Why, for people.
        reason: String,
    },
    /// The database did not do it in time.
    Unavailable {
        /// Why, for people.
        reason: String,
    },
}

/// How the projections are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The verdict.
    pub health: Health,
    /// What the verdict rests on, for people.
    pub reasons: Vec<String>,
    /// Last sequence of the log; `None` while it cannot be read.
    pub head: Option<u64>,
    /// How long ago the owner's loop gave a sign of life.
    pub heartbeat_age_ms: u64,
    /// Name of the instance that owns the live generation.
    pub owner: String,
    /// Version of the views in the program that answers.
    pub version: u32,
    /// The live one first.
    pub generations: Vec<Generation>,
}

/// A verdict for monitors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// All is well.
    Healthy,
    /// It works, and somebody has to look at it.
    Degraded,
    /// It does not work.
    Ill,
}

/// One generation of the read models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// What it is at the moment.
    pub state: State,
    /// Its number.
    pub number: u64,
    /// Version of its views.
    pub version: u32,
    /// Sequence of each lane.
    pub lanes: Vec<u64>,
    /// What all lanes have.
    pub seq: u64,
    /// How many commits of the log it does not have.
    pub lag: u64,
    /// Commits per second over the last seconds.
    pub rate: f64,
    /// Seconds until it has caught up, at this rate; `None` where that cannot be said.
    pub eta_secs: Option<f64>,
    /// Whether it becomes live once it has caught up.
    pub flips: bool,
    /// Number of its parked commits.
    pub parked: u64,
    /// Number of commits that somebody decided to leave out.
    pub skipped: u64,
}

/// What a generation is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Answers questions.
    Live,
    /// Is being built, or waits to become live.
    Next,
    /// Was live before.
    Previous,
}

/// A commit that is not in the rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// Its sequence in the log.
    pub seq: u64,
    /// Its aggregate's subject.
    pub subject: String,
    /// Why it is parked.
    pub reason: String,
    /// Since when.
    pub at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_answers_are_read_back() {
        for order in [
            Projections::Status,
            Projections::Rebuild { flip: true },
            Projections::RebuildFromCopy { flip: false },
            Projections::Retry { subject: None },
            Projections::Skip {
                seq: 4,
                who: "mia".into(),
                why: "a test".into(),
            },
        ] {
            let json = serde_json::to_string(&order).unwrap();
            assert_eq!(serde_json::from_str::<Projections>(&json).unwrap(), order);
        }
        let reply = Reply::Status(Status {
            health: Health::Healthy,
            reasons: vec![],
            head: Some(4),
            heartbeat_age_ms: 5,
            owner: "projection-1".into(),
            version: 1,
            generations: vec![],
        });
        let json = serde_json::to_string(&reply).unwrap();
        assert!(
            json.starts_with(r#"{"answer":"status","health":"healthy""#),
            "{json}"
        );
        assert_eq!(serde_json::from_str::<Reply>(&json).unwrap(), reply);
        assert!(Health::Ill > Health::Degraded);
    }
}
