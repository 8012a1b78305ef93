//! The stream of an answer.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};

use crate::generation::{Finish, Usage};

/// One element of an answer's stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// The answer goes on.
    Text {
        /// Text that is final: whole characters. Empty where a token gives none yet.
        text: String,
        /// The tokens that were generated for it, where the provider tells them.
        tokens: Vec<Token>,
    },
    /// The last element, exactly one in each stream.
    End(End),
}

/// A token of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Its id, where it is known.
    pub id: Option<u32>,
    /// Natural logarithm of its probability in the model's own distribution.
    pub logprob: f32,
    /// What it writes, which may be a part of a character; empty where nobody asked
    /// ([`ChatRequest::logprobs`](super::ChatRequest)).
    pub bytes: Vec<u8>,
    /// The likeliest tokens in its place, likeliest first, as many as were asked for.
    pub top: Vec<Alternative>,
}

/// A token that might have been chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Alternative {
    /// What it writes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    /// Why.
    pub finish: Finish,
    /// Text that had been held back.
    pub text: String,
    /// What it cost: counted from ids, or as the provider says; absent where that says nothing.
    pub usage: Option<Usage>,
    /// The model that answered, which of several providers is known only now.
    pub model: String,
    /// Time that was spent on it, waiting for a place excluded.
    pub compute: Duration,
}

/// The stream of one answer. Dropping it ends the work for it.
pub struct Answer {
    /// `None` once it has ended: what it held is free before the consumer hears of the end.
    items: Option<Pin<Box<dyn Stream<Item = Item> + Send>>>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("ended", &self.items.is_none())
            .finish_non_exhaustive()
    }
}

impl Answer {
    /// An answer with these items. Nothing after an [`Item::End`] is given; items that stop without
    /// one are an answer that stops without one.
    pub fn new(items: impl Stream<Item = Item> + Send + 'static) -> Self {
        Self {
            items: Some(Box::pin(items)),
        }
    }

    /// The next item; `None` after [`Item::End`]. An item is never lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Item> {
        let item = self.items.as_mut()?.next().await;
        if !matches!(item, Some(Item::Text { .. })) {
            self.items = None;
        }
        item
    }
}
