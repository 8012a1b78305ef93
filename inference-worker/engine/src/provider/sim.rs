//! A provider without a model, for load tests: it repeats the question for as long as it is told
//! to. Nothing chooses it but its own name.

use std::time::{Duration, Instant};

use futures_util::stream;
use tokio::time::{sleep, sleep_until};

use super::{
    Abilities, Answer, Card, ChatRequest, End, Item, Load, Provider, Running, Runs, Wishes,
};
use crate::error::Error;
use crate::generation::{Finish, Usage};

/// How long answers are, and how fast they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimSettings {
    /// Words of an answer; a request that wants fewer tokens gets as many words.
    pub tokens: usize,
    /// Until the first word.
    pub first: Duration,
    /// Between two words.
    pub between: Duration,
}

impl Default for SimSettings {
    fn default() -> Self {
        Self {
            tokens: 64,
            first: Duration::from_millis(200),
            between: Duration::from_millis(20),
        }
    }
}

/// Repeats questions. It knows no ids and no probabilities, and tells none.
#[derive(Debug, Clone)]
pub struct Sim {
    card: Card,
    settings: SimSettings,
    runs: Runs,
}

impl Sim {
    /// The model that its answers name.
    pub const MODEL: &'static str = "simulation-without-a-model";

    /// With these settings.
    pub fn new(settings: SimSettings) -> Self {
        let card = Card {
            model: Self::MODEL.into(),
            provider: "sim".into(),
            context: None,
            abilities: Abilities {
                demo: true,
                ..Abilities::default()
            },
        };
        Self {
            card,
            settings,
            runs: Runs::default(),
        }
    }
}

/// An answer that is being made up.
struct Telling {
    request: ChatRequest,
    settings: SimSettings,
    began: Instant,
    words: Vec<String>,
    said: usize,
    most: usize,
    _running: Running,
}

impl Telling {
    async fn next(&mut self) -> Item {
        let pause = match self.said {
            0 => self.settings.first,
            _ => self.settings.between,
        };
        let deadline = async {
            match self.request.deadline {
                Some(deadline) => sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.request.cancel.cancelled() => self.end(Finish::Cancelled),
            () = deadline => self.end(Finish::Timeout),
            () = sleep(pause) => {
                if self.said == self.most {
                    let is_cut = self.most < self.settings.tokens;
                    return self.end(if is_cut { Finish::Length } else { Finish::Stop });
                }
                let word = &self.words[self.said % self.words.len()];
                let space = if self.said == 0 { "" } else { " " };
                let text = format!("{space}{word}");
                self.said += 1;
                Item::Text { text, tokens: Vec::new() }
            }
        }
    }

    fn end(&self, finish: Finish) -> Item {
        Item::End(End {
            finish,
            text: String::new(),
            usage: Some(Usage {
                prompt_tokens: self.words.len(),
                completion_tokens: self.said,
            }),
            model: Sim::MODEL.into(),
            compute: self.began.elapsed(),
        })
    }
}

impl Provider for Sim {
    fn card(&self) -> &Card {
        &self.card
    }

    fn load(&self) -> Load {
        Load {
            running: self.runs.count(),
            free_tokens: None,
        }
    }

    fn answer(&self, request: ChatRequest) -> Result<Answer, Error> {
        request.check(&self.card)?;
        if !request.stop.is_empty() || request.wishes != Wishes::default() {
            tracing::debug!("a simulated answer follows no wishes");
        }
        let last = request.messages.last().map(|message| &*message.content);
        let mut words: Vec<String> = last
            .unwrap_or_default()
            .split_whitespace()
            .map(ToOwned::to_owned)
            .collect();
        if words.is_empty() {
            words.push("…".into());
        }
        let telling = Telling {
            settings: self.settings,
            began: Instant::now(),
            words,
            said: 0,
            most: self.settings.tokens.min(request.max_new_tokens),
            request,
            _running: self.runs.begin(),
        };
        Ok(Answer::new(stream::unfold(
            telling,
            |mut telling| async move {
                let item = telling.next().await;
                Some((item, telling))
            },
        )))
    }
}
