//! A request for tokens and the stream that answers it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::wake::Wake;

/// How the next token is chosen from the distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token (the lowest id among equals), and then
    /// the other fields mean nothing. Finite and not negative.
    pub temperature: f32,
    /// Nucleus: the fewest likeliest tokens whose probabilities sum to at least this, in (0, 1];
    /// 1 keeps all (Holtzman et al., 2020, <https://arxiv.org/abs/1904.09751>).
    pub top_p: f32,
    /// Only this many of the likeliest tokens; 0 keeps all. Applied before `top_p`.
    pub top_k: u32,
    /// Together with a token's index this alone fixes the random number drawn for that token, so
    /// that the same request gives the same tokens, also when it is resumed midway.
    pub seed: u64,
}

impl Sampling {
    /// Always the likeliest token.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        seed: 0,
    };
}

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

/// One generation to run.
#[derive(Debug, Clone)]
pub struct Request {
    /// For whom: the machine's time is shared fairly, by tokens, between owners, not between
    /// generations.
    pub owner: u128,
    /// Only generations with equal salts share what is computed of equal beginnings. Whoever knows
    /// how long an answer took can tell whether its beginning was known, so different users have
    /// different salts.
    pub cache_salt: u128,
    /// Whether it goes before others.
    pub priority: Priority,
    /// Token ids of the prompt, at least one, as [`Engine::chat_prompt`](crate::Engine::chat_prompt)
    /// gives them.
    pub prompt: Vec<u32>,
    /// Ids that an earlier, interrupted run of this very request has already published, in order;
    /// empty for a fresh one. The run goes on after them exactly as an uninterrupted one would:
    /// same ids, same log-probabilities, and the first text emitted is what follows the text that
    /// those ids had made final. They are not emitted again.
    pub generated: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens to generate at most, those in `generated` included.
    pub max_new_tokens: usize,
    /// Texts that end the generation; neither they nor anything after them is emitted. Empty
    /// strings are refused.
    pub stop: Vec<String>,
    /// When to give up, whether running or still waiting: ends with [`Finish::Timeout`].
    pub deadline: Option<Instant>,
    /// Ends the generation with [`Finish::Cancelled`], whether running, waiting or paused; it is
    /// seen before the next step.
    pub cancel: CancellationToken,
}

/// One element of the answer's stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A token was chosen.
    ///
    /// An end-of-sequence id is never a token here: it is not counted, it has no text, and it
    /// shows only as [`Finish::Stop`]. The token that completes a stop string is one, with the
    /// text that preceded the stop string.
    Token {
        /// Its id.
        id: u32,
        /// The text that became final with it: whole UTF-8 characters that no stop string can
        /// claim any more. Often empty.
        text: String,
        /// Natural logarithm of its probability in the model's unmodified distribution (before
        /// temperature, top-k and top-p).
        logprob: f32,
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

/// Why a generation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// The model chose an end-of-sequence token, or a stop string appeared.
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
    /// Ids in [`Request::prompt`].
    pub prompt_tokens: usize,
    /// Ids in [`Request::generated`] and those emitted as [`Item::Token`].
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
