use std::collections::{HashMap, VecDeque};

/// What became of a message that the server delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// Nothing of this subject is in work: begin with it.
    Begin,
    /// It waits for earlier ones of its subject.
    Waits,
    /// We have it already; the newer delivery is the one to acknowledge.
    Known,
}

/// Messages that were delivered and are not settled: one of each subject in work, the others
/// waiting in the order of the log.
#[derive(Debug)]
pub(super) struct InHand<M> {
    subjects: HashMap<String, VecDeque<(u64, M)>>,
    count: usize,
}

impl<M> InHand<M> {
    pub fn new() -> Self {
        Self {
            subjects: HashMap::new(),
            count: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    /// Takes a message. The first in a subject's queue is the one in work.
    pub fn deliver(&mut self, subject: &str, seq: u64, message: M) -> Delivery {
        let queue = self.subjects.entry(subject.to_owned()).or_default();
        if let Some(known) = queue.iter_mut().find(|(known, _)| *known == seq) {
            known.1 = message;
            return Delivery::Known;
        }
        self.count += 1;
        // The one in work stays first, even if an earlier one is delivered again after it.
        let waiting = queue.iter().skip(1);
        let before = waiting.take_while(|(other, _)| *other < seq).count();
        let place = if queue.is_empty() { 0 } else { 1 + before };
        queue.insert(place, (seq, message));
        if queue.len() == 1 {
            Delivery::Begin
        } else {
            Delivery::Waits
        }
    }

    /// Takes out the one of this subject that was in work; the next one is [`Self::current`] then.
    pub fn settle(&mut self, subject: &str) -> Option<M> {
        let queue = self.subjects.get_mut(subject)?;
        let (_, settled) = queue.pop_front()?;
        self.count -= 1;
        if queue.is_empty() {
            self.subjects.remove(subject);
        }
        Some(settled)
    }

    /// The one of this subject that is in work, or should be.
    pub fn current(&self, subject: &str) -> Option<&M> {
        self.subjects
            .get(subject)?
            .front()
            .map(|(_, message)| message)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &M> {
        self.subjects.values().flatten().map(|(_, message)| message)
    }

    /// Takes out all that wait.
    pub fn drop_waiting(&mut self) -> Vec<M> {
        let waiting = self
            .subjects
            .values_mut()
            .flat_map(|queue| queue.drain(1..));
        let waiting: Vec<M> = waiting.map(|(_, message)| message).collect();
        self.count -= waiting.len();
        waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_each_subject_is_in_work_in_order() {
        let mut hand = InHand::new();
        assert_eq!(hand.deliver("a", 1, "a1"), Delivery::Begin);
        assert_eq!(hand.deliver("a", 4, "a4"), Delivery::Waits);
        assert_eq!(hand.deliver("b", 2, "b2"), Delivery::Begin);
        assert_eq!(hand.deliver("a", 3, "a3"), Delivery::Waits);
        assert_eq!(hand.deliver("a", 4, "a4 again"), Delivery::Known);
        assert_eq!(hand.deliver("a", 1, "a1 again"), Delivery::Known);
        assert_eq!(hand.len(), 4);
        assert_eq!(
            hand.settle("a"),
            Some("a1 again"),
            "the newest delivery is acknowledged"
        );
        assert_eq!(hand.current("a"), Some(&"a3"));
        assert_eq!(hand.settle("a"), Some("a3"));
        assert_eq!(hand.settle("a"), Some("a4 again"));
        assert_eq!(hand.current("a"), None);
        assert_eq!(hand.settle("a"), None);
        assert_eq!(hand.all().collect::<Vec<_>>(), [&"b2"]);
    }

    #[test]
    fn what_waits_can_be_given_back() {
        let mut hand = InHand::new();
        for seq in 1..4 {
            hand.deliver("a", seq, seq);
        }
        assert_eq!(hand.drop_waiting(), [2, 3]);
        assert_eq!((hand.len(), hand.current("a")), (1, Some(&1)));
    }
}
