//! The stream that answers a request for tokens.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::wake::Wake;

/// Which generations come first; waiting raises them class by class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    /// Somebody's safety depends on it.
    Crisis,
    /// A person waits for it.
    #[default]
    Interactive,
    /// A step of something longer.
    Workflow,
    /// Nobody waits for it.
    Sync,
}

/// One element of the answer's stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A token was chosen.
    ///
    /// An end-of-sequence or stop id is never a token here: it is not counted, it has no text, and
    /// it shows only as [`Finish::Stop`]. The token that completes a stop string is one, with the
    /// text that preceded the stop string.
    Token {
        /// Its id.
        id: u32,
        /// The text that became final with it: whole UTF-8 characters that no stop string can
        /// claim any more. Often empty.
        text: String,
        /// Natural logarithm of its probability in the model's unmodified distribution, before
        /// anything that [`Sampling`](crate::Sampling) says.
        logprob: f32,
        /// The likeliest tokens of that distribution in falling order, as many as
        /// [`Request::top_logprobs`](crate::Request) asks for; the chosen one only if it is among
        /// them.
        top_logprobs: Vec<TopLogprob>,
    },
    /// The last element, exactly one in each stream.
    End {
        /// Why it ended.
        finish: Finish,
        /// Text that had been held back and is final now; an unfinished UTF-8 character in it
        /// shows as U+FFFD.
        text: String,
        /// Counts for the bill.
        usage: Usage,
        /// Time that the engine computed for this generation, waiting and pauses excluded.
        compute: Duration,
    },
}

/// A token that might have been chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TopLogprob {
    /// Its id.
    pub id: u32,
    /// Natural logarithm of its probability in the model's unmodified distribution.
    pub logprob: f32,
}

/// Why a generation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// The model chose an end-of-sequence or stop id, or a stop string appeared.
    Stop,
    /// `max_new_tokens` were generated.
    Length,
    /// The request's token was cancelled, or the engine was dropped.
    Cancelled,
    /// The deadline passed.
    Timeout,
    /// The backend failed; the text is for operators, not for users.
    Error(String),
}

/// Tokens counted from ids, never from text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Ids in [`Request::prompt`](crate::Request).
    pub prompt_tokens: usize,
    /// Ids in [`Request::generated`](crate::Request) and those emitted as [`Item::Token`].
    pub completion_tokens: usize,
}

/// The stream of one generation. Dropping it cancels the generation.
///
/// The channel behind it is bounded ([`Options::stream_capacity`](crate::Options)). A consumer
/// that lags fills it, and then the engine leaves this generation out of its steps, its blocks
/// kept, until the consumer takes an item; the others go on. Cancellation and the deadline still
/// end a paused generation, because the channel keeps one place free for [`Item::End`].
#[derive(Debug)]
pub struct Generation {
    items: mpsc::Receiver<Item>,
    wake: Arc<Wake>,
    usage: Usage,
    ended: bool,
}

impl Generation {
    pub(crate) fn new(items: mpsc::Receiver<Item>, wake: Arc<Wake>, usage: Usage) -> Self {
        Self {
            items,
            wake,
            usage,
            ended: false,
        }
    }

    /// The next item; `None` after [`Item::End`]. Cancel-safe: an item is never lost when the
    /// future is dropped.
    pub async fn next(&mut self) -> Option<Item> {
        if self.ended {
            return None;
        }
        let item = self.items.recv().await;
        self.wake.wake();
        Some(self.account(item))
    }

    /// As [`next`](Self::next), blocking the thread; not to be called inside a runtime.
    pub fn blocking_next(&mut self) -> Option<Item> {
        if self.ended {
            return None;
        }
        let item = self.items.blocking_recv();
        self.wake.wake();
        Some(self.account(item))
    }

    /// Keeps the promise of exactly one `End` even if the engine's thread died.
    fn account(&mut self, item: Option<Item>) -> Item {
        let item = item.unwrap_or_else(|| Item::End {
            finish: Finish::Error("the engine's thread has stopped".into()),
            text: String::new(),
            usage: self.usage,
            compute: Duration::ZERO,
        });
        match &item {
            Item::Token { .. } => self.usage.completion_tokens += 1,
            Item::End { .. } => self.ended = true,
        }
        item
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.items.close();
        self.wake.wake();
    }
}
