//! What can go wrong in the engine.

use std::path::{Path, PathBuf};

/// A refusal or a failure. `Display` names the place and the value; the cause is the `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the model directory could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file of a model directory could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A JSON file of the model directory does not parse.
    #[error("{} is not the JSON that a model needs", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why parsing stopped.
        source: serde_json::Error,
    },
    /// A configuration field has a value that the engine cannot serve correctly.
    #[error("{}: field `{field}` = {value}: {reason}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field's name.
        field: &'static str,
        /// The value found, as JSON; `absent` where the field is missing.
        value: String,
        /// What was expected instead.
        reason: String,
    },
    /// A weights file is not valid safetensors (truncated, overlapping, bad header).
    #[error("{} is not a valid safetensors file", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What the parser found.
        source: safetensors::SafeTensorError,
    },
    /// A tensor is missing, surplus, of the wrong shape or type, or holds a NaN or an infinity.
    #[error("{}: tensor `{tensor}`: {reason}", path.display())]
    Tensor {
        /// The file, or the directory where the tensor was looked for.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What is wrong with it, with the offending value.
        reason: String,
    },
    /// The tokenizer cannot be loaded or used.
    #[error("{}: tokenizer: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The chat template does not compile, or refuses these messages.
    #[error("chat template")]
    ChatTemplate(#[source] minijinja::Error),
    /// A request's field is out of its range.
    #[error("request field `{field}`: {reason}")]
    Request {
        /// The field's name.
        field: &'static str,
        /// What is wrong, with the value.
        reason: String,
    },
    /// The prompt and the tokens asked for do not fit into the context together.
    #[error("{prompt} prompt tokens and {max_new} new ones do not fit into {context} positions")]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// New tokens asked for, the resumed ones included.
        max_new: usize,
        /// Positions that this engine serves.
        context: usize,
    },
    /// The waiting queue is full; try again later or elsewhere.
    #[error("{waiting} generations are waiting already")]
    Busy {
        /// The queue's length.
        waiting: usize,
    },
    /// The engine has been shut down.
    #[error("the engine has stopped")]
    Stopped,
    /// A step did not end; the process should, so that another one takes its work.
    #[error("a step did not end within {limit:?}")]
    Stuck {
        /// [`Options::step_limit`](crate::Options).
        limit: std::time::Duration,
    },
    /// A backend failed to compute (bad sequence, capacity exceeded, NaN in the logits).
    #[error("backend: {0}")]
    Backend(String),
    /// The device that computes cannot go on (out of memory, damaged, lost, its driver too old). A
    /// running engine stops with it.
    #[error("device: {0}")]
    Device(String),
    /// Other response formats take long to compile; try again later or elsewhere.
    #[error("{others} response formats are being compiled already")]
    Compiling {
        /// How many.
        others: usize,
    },
    /// The grammar of a [`ResponseFormat`](crate::ResponseFormat) cannot go on.
    #[error("response format: {0}")]
    Grammar(String),
    /// A thread of the engine could not be started.
    #[error("cannot start an engine thread")]
    Thread(#[source] std::io::Error),
}

impl Error {
    pub(crate) fn tensor(path: &Path, tensor: &str, reason: impl Into<String>) -> Self {
        Self::Tensor {
            path: path.into(),
            tensor: tensor.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn tokenizer(path: &Path, reason: impl ToString) -> Self {
        Self::Tokenizer {
            path: path.into(),
            reason: reason.to_string(),
        }
    }
}
