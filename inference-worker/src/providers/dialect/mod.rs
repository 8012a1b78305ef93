//! How each family of providers wants to be asked, and what its events say.

mod anthropic;
mod gemini;
mod openai;

use super::{endpoint::Endpoint, fault::Fault};
use engine::{
    Usage,
    provider::{ChatRequest, Token},
};
use serde_json::Value;

/// A family of providers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Chat Completions, which Ollama, vLLM, llama.cpp and many others speak too.
    OpenAi,
    /// Messages.
    Anthropic,
    /// `streamGenerateContent`.
    Gemini,
}

/// What an event of a stream says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    /// The answer goes on.
    Text(String, Vec<Token>),
    /// The model has ended.
    Finished(Reason),
    /// What it has cost up to now, as far as this event tells.
    Cost {
        prompt: Option<usize>,
        completion: Option<usize>,
    },
    /// Nothing will follow.
    Done,
}

/// Why a model has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Stop,
    Length,
    /// The provider does not show the rest.
    Withheld,
}

/// What an answer has cost, put together.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cost {
    prompt: Option<usize>,
    completion: Option<usize>,
}

impl Cost {
    /// Later counts replace earlier ones.
    pub(super) fn add(&mut self, prompt: Option<usize>, completion: Option<usize>) {
        self.prompt = prompt.or(self.prompt);
        self.completion = completion.or(self.completion);
    }

    /// Known when both are.
    pub(super) fn usage(self) -> Option<Usage> {
        Some(Usage {
            prompt_tokens: self.prompt?,
            completion_tokens: self.completion?,
        })
    }
}

impl Dialect {
    /// Refuses wishes that the family cannot keep.
    pub(super) fn refuse(
        self,
        endpoint: &Endpoint,
        request: &ChatRequest,
    ) -> Result<(), engine::Error> {
        match self {
            Self::OpenAi => openai::refuse(endpoint, request),
            Self::Anthropic => anthropic::refuse(request),
            Self::Gemini => gemini::refuse(request),
        }
    }

    /// The path under the base URL, and its query.
    pub(super) fn path(self, model: &str) -> (String, Option<&'static str>) {
        match self {
            Self::OpenAi => ("chat/completions".to_owned(), None),
            Self::Anthropic => ("v1/messages".to_owned(), None),
            Self::Gemini => {
                let path = format!("v1beta/models/{model}:streamGenerateContent");
                (path, Some("alt=sse"))
            }
        }
    }

    /// Headers of every request.
    pub(super) const fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Anthropic => &[("anthropic-version", "2023-06-01")],
            Self::OpenAi | Self::Gemini => &[],
        }
    }

    /// Whether it takes response formats.
    pub(super) const fn has_formats(self) -> bool {
        matches!(self, Self::OpenAi | Self::Gemini)
    }

    /// The header that carries the key, and what comes before the key in it.
    pub(super) const fn key_header(self) -> (&'static str, &'static str) {
        match self {
            Self::OpenAi => ("authorization", "Bearer "),
            Self::Anthropic => ("x-api-key", ""),
            Self::Gemini => ("x-goog-api-key", ""),
        }
    }

    pub(super) fn body(self, endpoint: &Endpoint, request: &ChatRequest) -> Value {
        match self {
            Self::OpenAi => openai::body(endpoint, request),
            Self::Anthropic => anthropic::body(endpoint, request),
            Self::Gemini => gemini::body(request),
        }
    }

    /// What an event says.
    pub(super) fn read(self, data: &str) -> Result<Vec<Said>, Fault> {
        match self {
            Self::OpenAi => openai::read(data),
            Self::Anthropic => anthropic::read(data),
            Self::Gemini => gemini::read(data),
        }
    }
}

/// A wish that cannot be kept.
fn cannot(field: &'static str, who: &str) -> engine::Error {
    engine::Error::Request {
        field,
        reason: format!("{who} does not take it"),
    }
}

/// An event that is not what the family writes. Its text is nobody's business.
fn unreadable(error: &serde_json::Error) -> Fault {
    let reason = format!("an event cannot be read: {:?} error", error.classify());
    Fault::again(reason)
}

/// The system's messages joined, and the others.
fn split_system(request: &ChatRequest) -> (Option<String>, Vec<&engine::Message>) {
    let (system, rest): (Vec<_>, Vec<_>) = request
        .messages
        .iter()
        .partition(|message| message.role == "system");
    let system: Vec<&str> = system.iter().map(|message| &*message.content).collect();
    ((!system.is_empty()).then(|| system.join("\n\n")), rest)
}

/// Sets a field where there is a value.
fn set<T: serde::Serialize>(body: &mut Value, field: &str, value: Option<T>) {
    if let Some(value) = value {
        body[field] = serde_json::json!(value);
    }
}
