//! Brings messages that arrive by two ways, more than once and in any order, into one sequence.

use domain::wire::token::Message;
use std::collections::BTreeMap;

/// So many messages may wait for an earlier one. What does not fit is dropped, which leaves a gap
/// that the history fills.
const WAITING: usize = 4_096;

/// The sequence so far.
#[derive(Debug, Default)]
pub(crate) struct Merge {
    /// The last one that was popped.
    last: u32,
    waiting: BTreeMap<u32, Message>,
    dropped: bool,
}

impl Merge {
    /// Takes a message, unless it is known.
    pub(crate) fn offer(&mut self, message: Message) {
        if message.seq <= self.last {
            return;
        }
        if self.waiting.len() >= WAITING && message.seq != self.last + 1 {
            self.dropped = true;
            return;
        }
        self.waiting.entry(message.seq).or_insert(message);
    }

    /// Takes everything that the stream holds, in order. Messages missing at its beginning have
    /// expired (contract §6); then only the terminal is told, if there is one.
    pub(crate) fn history(&mut self, messages: Vec<Message>) {
        self.dropped = false;
        let expired = messages
            .first()
            .is_some_and(|first| first.seq > self.last + 1);
        if !expired {
            for message in messages {
                if message.seq > self.last {
                    self.waiting.entry(message.seq).or_insert(message);
                }
            }
            return;
        }
        self.waiting.clear();
        let ended = messages.last().is_some_and(Message::is_terminal);
        for message in messages {
            if !ended || message.is_terminal() {
                self.waiting.insert(message.seq, message);
            }
        }
        if let Some((first, _)) = self.waiting.first_key_value() {
            self.last = first - 1;
        }
    }

    /// The next message, if it is there.
    pub(crate) fn pop(&mut self) -> Option<Message> {
        let message = self.waiting.remove(&(self.last + 1))?;
        self.last += 1;
        Some(message)
    }

    /// Whether a message is missing that others wait for.
    pub(crate) fn has_gap(&self) -> bool {
        let waits = self.waiting.keys().next();
        self.dropped || waits.is_some_and(|seq| *seq != self.last + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{
        Timestamp,
        id::AccountId,
        wire::token::{Body, Chunk, Terminal},
    };
    use proptest::prelude::*;

    fn message(seq: u32, count: u32) -> Message {
        let body = if seq == 1 {
            Body::Queued {
                owner: AccountId::new(uuid::Uuid::from_u128(1)),
            }
        } else if seq == count {
            Body::Terminal(Terminal::Cancelled)
        } else {
            Body::Chunk(Chunk {
                text: seq.to_string(),
                ids: vec![],
                logprob: 0.0,
                compute_ms: 0,
                model: None,
                tokens: vec![],
            })
        };
        Message {
            seq,
            at: Timestamp::from_millis(0),
            body,
            log_seq: None,
        }
    }

    /// What arrives: one live message, or the history up to one.
    #[derive(Clone, Debug)]
    enum Arrival {
        Live(u32),
        History(u32),
    }

    fn arrivals() -> impl Strategy<Value = (u32, Vec<Arrival>)> {
        (1u32..40).prop_flat_map(|count| {
            let arrival = prop_oneof![
                (1..=count).prop_map(Arrival::Live),
                (0..=count).prop_map(Arrival::History),
            ];
            (Just(count), prop::collection::vec(arrival, 0..120))
        })
    }

    proptest! {
        #[test]
        fn every_seq_comes_once_and_in_order((count, arrivals) in arrivals()) {
            let mut merge = Merge::default();
            let mut told = vec![];
            for arrival in arrivals {
                match arrival {
                    Arrival::Live(seq) => merge.offer(message(seq, count)),
                    Arrival::History(upto) => {
                        merge.history((1..=upto).map(|seq| message(seq, count)).collect());
                    }
                }
                told.extend(std::iter::from_fn(|| merge.pop()).map(|message| message.seq));
                let dense: Vec<u32> = (1..).take(told.len()).collect();
                prop_assert_eq!(&told, &dense);
            }
            // The whole history closes every gap that is left.
            merge.history((1..=count).map(|seq| message(seq, count)).collect());
            told.extend(std::iter::from_fn(|| merge.pop()).map(|message| message.seq));
            prop_assert_eq!(told, (1..=count).collect::<Vec<_>>());
            prop_assert!(!merge.has_gap());
        }
    }

    #[test]
    fn what_is_out_of_order_waits_and_shows_as_a_gap() {
        let mut merge = Merge::default();
        merge.offer(message(2, 9));
        assert!(merge.has_gap());
        assert!(merge.pop().is_none());
        merge.offer(message(1, 9));
        assert!(!merge.has_gap());
        assert_eq!(merge.pop().map(|m| m.seq), Some(1));
    }

    #[test]
    fn of_a_partly_expired_stream_only_the_end_is_told() {
        let mut merge = Merge::default();
        merge.offer(message(9, 9));
        merge.history((4..=9).map(|seq| message(seq, 9)).collect());
        assert_eq!(merge.pop().map(|m| m.seq), Some(9));
        assert!(!merge.has_gap());
    }

    #[test]
    fn what_does_not_fit_is_read_again() {
        let mut merge = Merge::default();
        for seq in 2..WAITING as u32 + 10 {
            merge.offer(message(seq, 9_999));
        }
        let whole: Vec<Message> = (1..WAITING as u32 + 10)
            .map(|seq| message(seq, 9_999))
            .collect();
        merge.offer(message(1, 9_999));
        let first = std::iter::from_fn(|| merge.pop()).count();
        assert!(merge.has_gap() && first < whole.len());
        merge.history(whole.clone());
        assert_eq!(
            first + std::iter::from_fn(|| merge.pop()).count(),
            whole.len()
        );
    }
}
