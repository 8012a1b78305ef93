//! The writing end of a generation's stream. The scheduler's thread writes tokens; it or the
//! watchdog ends the stream, whichever comes first, and nothing is written after that.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::detokenizer::Detokenizer;
use crate::generation::{Finish, Item, Usage};
use crate::sampler::Choice;

/// Nothing is computed while its lock is held, so that nobody waits for a step.
pub(super) struct Outlet(Mutex<Option<Open>>);

/// A stream that has not ended.
struct Open {
    items: mpsc::Sender<Item>,
    detokenizer: Detokenizer,
    usage: Usage,
    compute: Duration,
}

/// What became of a token.
pub(super) struct Sent {
    /// Whether it completed a stop string.
    pub(super) stopped: bool,
    /// Tokens generated with it, resumed ones included.
    pub(super) generated: usize,
}

impl Outlet {
    /// The detokenizer knows the resumed ids already, and `usage` counts them.
    pub(super) fn new(items: mpsc::Sender<Item>, detokenizer: Detokenizer, usage: Usage) -> Self {
        Self(Mutex::new(Some(Open {
            items,
            detokenizer,
            usage,
            compute: Duration::ZERO,
        })))
    }

    /// A panic while the lock is held leaves at worst an empty stream.
    fn open(&self) -> MutexGuard<'_, Option<Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a token can be sent and a place is left for the end. Only the scheduler sends, so
    /// room does not vanish.
    pub(super) fn has_room(&self) -> bool {
        self.open()
            .as_ref()
            .is_some_and(|open| open.items.capacity() >= 2)
    }

    /// Whether nobody reads it any more, or it has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.open()
            .as_ref()
            .is_none_or(|open| open.items.is_closed())
    }

    /// So much time more was spent on it.
    pub(super) fn computed(&self, took: Duration) {
        if let Some(open) = &mut *self.open() {
            open.compute += took;
        }
    }

    /// Sends a token; `None` where the stream has ended.
    pub(super) fn send(&self, choice: Choice) -> Option<Sent> {
        let mut open = self.open();
        let open = open.as_mut()?;
        open.usage.completion_tokens += 1;
        let piece = open.detokenizer.push(choice.id);
        // There is room; a consumer that has gone is noticed before the next step.
        let _ = open.items.try_send(Item::Token {
            id: choice.id,
            text: piece.text,
            logprob: choice.logprob,
            top_logprobs: choice.top_logprobs,
        });
        Some(Sent {
            stopped: piece.stopped,
            generated: open.usage.completion_tokens,
        })
    }

    /// Ends the stream, unless it has ended.
    pub(super) fn end(&self, finish: Finish) {
        let Some(mut open) = self.open().take() else {
            return;
        };
        let end = Item::End {
            finish,
            text: open.detokenizer.finish(),
            usage: open.usage,
            compute: open.compute,
        };
        // The reserved place is free; a consumer that has gone needs no end.
        let _ = open.items.try_send(end);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::tokenizer::tests::{byte_level, tokenizer};

    /// One thread sends, two end it.
    #[test]
    fn whoever_ends_it_first_the_end_is_one_and_the_last() {
        let tokenizer = tokenizer(byte_level());
        for round in 0..300 {
            let (items, mut receiver) = mpsc::channel(64);
            let detokenizer = Detokenizer::new(Arc::clone(&tokenizer), vec![]);
            let outlet = Outlet::new(items, detokenizer, Usage::default());
            let sent = std::thread::scope(|scope| {
                let sender = scope.spawn(|| {
                    let choice = |id| Choice {
                        id,
                        logprob: 0.0,
                        top_logprobs: vec![],
                    };
                    let sent = (97..107).map_while(|id| outlet.send(choice(id)));
                    let count = sent.count();
                    outlet.end(Finish::Length);
                    count
                });
                scope.spawn(|| outlet.end(Finish::Cancelled));
                sender.join().expect("no panic")
            });
            assert!(outlet.is_closed() && !outlet.has_room());
            let mut items = Vec::new();
            while let Ok(item) = receiver.try_recv() {
                items.push(item);
            }
            let ends = items.iter().filter(|item| matches!(item, Item::End { .. }));
            assert_eq!((items.len(), ends.count()), (sent + 1, 1), "{round}");
            let Some(Item::End { usage, .. }) = items.last() else {
                panic!("{items:?}")
            };
            assert_eq!(usage.completion_tokens, sent);
        }
    }
}
