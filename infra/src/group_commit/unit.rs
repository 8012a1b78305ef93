//! What is appended whole or not at all, and which units go together.

use crate::append::{Error, NotSent, Part};
use domain::Timestamp;
use std::collections::{HashMap, HashSet, VecDeque};

/// Parts of one atomic batch; the server takes no more (nats-server 2.12 and newer).
pub(super) const MOST_PARTS: usize = 1_000;
/// Payload of one group in bytes. The server stages a batch before it stores it, and everybody in
/// the group waits for all of it.
const MOST_BYTES: usize = 4 << 20;

/// The commits of one command: one as a rule, several where several aggregates change together.
/// They are stored next to each other, or none is.
#[derive(Clone, Debug)]
pub struct Unit {
    /// The commits, each to another subject.
    pub parts: Vec<Part>,
    /// When nobody waits for it any more.
    pub deadline: Timestamp,
}

impl Unit {
    /// Whether it can be appended at all.
    pub(super) fn check(&self, now: Timestamp) -> Result<(), Error> {
        let mut subjects = HashSet::new();
        let malformed = self.parts.is_empty()
            || self.parts.len() > MOST_PARTS
            || !self.parts.iter().all(|part| subjects.insert(&part.subject));
        if malformed {
            Err(self.not_sent(NotSent::Malformed))
        } else if self.deadline < now {
            Err(self.not_sent(NotSent::TooLate))
        } else {
            Ok(())
        }
    }

    pub(super) fn not_sent(&self, reason: NotSent) -> Error {
        Error::NotSent {
            subject: self.subject(),
            reason,
        }
    }

    /// The subject of its first part, which errors name.
    pub(super) fn subject(&self) -> String {
        let first = self.parts.first();
        first.map(|part| part.subject.clone()).unwrap_or_default()
    }

    fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.payload.len()).sum()
    }
}

/// Takes the next group off the queue, in its order. Of units that share a subject only the first
/// is taken, since the server would hold both against the same last sequence and store both; the
/// others wait for the next group.
pub(super) fn cut<T: AsRef<Unit>>(waiting: &mut VecDeque<T>) -> Vec<T> {
    let (mut group, mut left) = (Vec::new(), VecDeque::new());
    let (mut parts, mut bytes) = (0, 0);
    let mut subjects: HashSet<String> = HashSet::new();
    while let Some(next) = waiting.pop_front() {
        let unit = next.as_ref();
        let full = parts + unit.parts.len() > MOST_PARTS
            || (parts > 0 && bytes + unit.bytes() > MOST_BYTES);
        if full {
            waiting.push_front(next);
            break;
        }
        if unit
            .parts
            .iter()
            .any(|part| subjects.contains(&part.subject))
        {
            left.push_back(next);
            continue;
        }
        parts += unit.parts.len();
        bytes += unit.bytes();
        subjects.extend(unit.parts.iter().map(|part| part.subject.clone()));
        group.push(next);
    }
    left.append(waiting);
    *waiting = left;
    group
}

/// The last sequence of each unit of a group that was stored whole.
pub(super) fn sequences<'a>(
    units: impl Iterator<Item = &'a Unit> + Clone,
    last: u64,
) -> impl Iterator<Item = u64> {
    let parts = |unit: &Unit| unit.parts.len() as u64;
    let all: u64 = units.clone().map(parts).sum();
    units.scan(last.saturating_sub(all), move |seq, unit| {
        *seq += parts(unit);
        Some(*seq)
    })
}

/// What is wrong with a unit of a refused group, as far as the heads of its subjects tell. A head
/// that is behind what is expected proves nothing: it may be read from a replica that lags.
pub(super) fn conflict(unit: &Unit, heads: &HashMap<String, u64>) -> Option<Error> {
    let overtaken = |part: &&Part| heads.get(&part.subject).is_some_and(|h| *h > part.expected);
    unit.parts
        .iter()
        .find(overtaken)
        .map(|part| Error::Conflict {
            subject: part.subject.clone(),
            expected: part.expected,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::HeaderMap;
    use proptest::prelude::*;

    impl AsRef<Self> for Unit {
        fn as_ref(&self) -> &Self {
            self
        }
    }

    fn unit(subjects: &[u8], expected: u64, bytes: usize) -> Unit {
        let part = |subject: &u8| Part {
            subject: format!("s{subject}"),
            expected,
            headers: HeaderMap::new(),
            payload: vec![0; bytes].into(),
        };
        Unit {
            parts: subjects.iter().map(part).collect(),
            deadline: Timestamp::from_millis(10),
        }
    }

    fn subjects(unit: &Unit) -> Vec<String> {
        unit.parts.iter().map(|part| part.subject.clone()).collect()
    }

    #[test]
    fn what_cannot_be_appended_is_told_at_once() {
        let now = Timestamp::from_millis(10);
        assert!(unit(&[1, 2], 0, 1).check(now).is_ok());
        let reason = |unit: Unit, now| match unit.check(Timestamp::from_millis(now)) {
            Err(Error::NotSent { reason, .. }) => Some(reason),
            _ => None,
        };
        assert_eq!(reason(unit(&[], 0, 1), 0), Some(NotSent::Malformed));
        assert_eq!(reason(unit(&[1, 1], 0, 1), 0), Some(NotSent::Malformed));
        assert_eq!(reason(unit(&[1], 0, 1), 11), Some(NotSent::TooLate));
    }

    #[test]
    fn a_group_ends_where_it_gets_too_large() {
        let large = MOST_BYTES * 2 / 3;
        let mut waiting: VecDeque<_> = [unit(&[1], 0, large), unit(&[2], 0, large)].into();
        assert_eq!(cut(&mut waiting).len(), 1);
        let mut waiting: VecDeque<_> = [unit(&[1], 0, MOST_BYTES * 2)].into();
        assert_eq!(cut(&mut waiting).len(), 1, "what is larger goes by itself");
    }

    #[test]
    fn only_what_was_overtaken_is_in_conflict() {
        let heads = HashMap::from([("s1".to_owned(), 7), ("s2".to_owned(), 7)]);
        let at = |unit: Unit| conflict(&unit, &heads).map(|error| error.to_string());
        assert_eq!(at(unit(&[1], 7, 0)), None);
        assert_eq!(at(unit(&[3], 0, 0)), None);
        assert_eq!(at(unit(&[1], 9, 0)), None, "the replica lags");
        assert_eq!(
            at(unit(&[3, 2], 6, 0)).as_deref(),
            Some("s2 is not at sequence 6")
        );
    }

    #[test]
    fn sequences_are_counted_back_from_the_last() {
        let group = [unit(&[1], 0, 0), unit(&[2, 3, 4], 0, 0), unit(&[5], 0, 0)];
        let found: Vec<_> = sequences(group.iter(), 105).collect();
        assert_eq!(found, [101, 104, 105]);
    }

    proptest! {
        #[test]
        fn groups_hold_a_subject_once_and_lose_nothing(
            queue in prop::collection::vec(prop::collection::btree_set(0u8..12, 1..4), 0..40)
        ) {
            let units: Vec<Unit> = queue
                .iter()
                .map(|set| unit(&set.iter().copied().collect::<Vec<_>>(), 0, 1))
                .collect();
            let mut waiting: VecDeque<Unit> = units.clone().into();
            let mut seen = Vec::new();
            while !waiting.is_empty() {
                let group = cut(&mut waiting);
                prop_assert!(!group.is_empty(), "each round makes progress");
                let all: Vec<_> = group.iter().flat_map(subjects).collect();
                let distinct: HashSet<_> = all.iter().collect();
                prop_assert_eq!(distinct.len(), all.len());
                seen.extend(group.iter().map(subjects));
            }
            let mut before: Vec<_> = units.iter().map(subjects).collect();
            before.sort();
            seen.sort();
            prop_assert_eq!(before, seen);
        }
    }
}
