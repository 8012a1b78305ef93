//! What speaks OpenAI's dialect, so that programs written for it need another base URL and key and
//! nothing else (contract §17). Requests become the same commands, and answers come from the same
//! token streams, as everywhere; only their form is different, that of errors included.
//!
//! <https://platform.openai.com/docs/api-reference/chat>

pub(crate) mod chat;
pub(crate) mod error;
pub(crate) mod models;

/// Whether a path is one of these, whatever is there: its errors have OpenAI's form.
pub(crate) fn speaks(path: &str) -> bool {
    path == chat::DOC.path || path == models::LIST.path || path.starts_with("/v1/models/")
}
