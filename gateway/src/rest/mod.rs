//! REST, one endpoint per file.

pub(crate) mod api_keys;
pub(crate) mod auth;
pub(crate) mod catalog;
pub(crate) mod documents;
pub(crate) mod health;
pub(crate) mod openai;
pub(crate) mod queries;
pub(crate) mod users;
pub(crate) mod version;
