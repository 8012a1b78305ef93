//! What should be done when a time has come.
//!
//! A timer is one message on a subject of its own in the stream [`crate::subject::TIMERS`], which
//! the server puts on another subject when it is due. Setting it again moves it. It fires at least
//! once, not early, and perhaps late: what it does has to be right whenever that is.

use crate::id::QueryId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The name of a timer, which is also its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "timer", content = "id", rename_all = "snake_case")]
pub enum Timer {
    /// The life of a query: what has not ended by then is failed.
    QueryLife(QueryId),
}

impl Timer {
    const QUERY_LIFE: &str = "query_life";

    const fn kind(&self) -> &'static str {
        match self {
            Self::QueryLife(_) => Self::QUERY_LIFE,
        }
    }

    const fn id(&self) -> Uuid {
        match self {
            Self::QueryLife(query) => query.uuid(),
        }
    }

    /// Where it is set: `timer.set.<kind>.<id>`.
    pub fn set_subject(&self) -> String {
        format!("timer.set.{}.{}", self.kind(), self.id().hyphenated())
    }

    /// Where it is found once it is due: `timer.due.<kind>.<id>`.
    pub fn due_subject(&self) -> String {
        format!("timer.due.{}.{}", self.kind(), self.id().hyphenated())
    }

    /// Reads [`Self::due_subject`] back; `None` for anything else.
    pub fn parse_due(subject: &str) -> Option<Self> {
        let (kind, id) = subject.strip_prefix("timer.due.")?.split_once('.')?;
        let id = Uuid::try_parse(id).ok()?;
        match kind {
            Self::QUERY_LIFE => Some(Self::QueryLife(QueryId::new(id))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_subjects_name_it() {
        let timer = Timer::QueryLife(QueryId::new(Uuid::from_u128(7)));
        assert_eq!(
            timer.set_subject(),
            "timer.set.query_life.00000000-0000-0000-0000-000000000007"
        );
        assert_eq!(Timer::parse_due(&timer.due_subject()), Some(timer));
        assert_eq!(Timer::parse_due(&timer.set_subject()), None);
        assert_eq!(Timer::parse_due("timer.due.query_life.seven"), None);
        assert_eq!(
            Timer::parse_due("timer.due.tea.00000000-0000-0000-0000-000000000007"),
            None
        );
    }
}
