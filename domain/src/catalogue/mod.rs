//! The catalogue: every type and version of event that the log may hold, with its JSON Schema and
//! an example.
//!
//! Both lie in `domain/golden`, and the tests beside this file hold them against the code. An
//! example (`<type>.json`) is an event as it was stored, and never edited: its digest stands in
//! `released.sha256`. A schema (`<type>.schema.json`) is made from the Rust type; it may change as
//! long as every event that was valid stays valid. Anything else is a new version.
//!
//! To add a type or a version: the example, `INSTA_UPDATE=always cargo test -p domain --lib
//! catalogue`, which writes the schema, and the line in [`ENTRIES`].

#[cfg(test)]
mod compatible;
#[cfg(test)]
mod golden;

use crate::{
    account, api_keys, email, query, session,
    subject::Kind,
    upcast::{Recorded, Upcast},
};
use serde_json::Value;

/// One type of event in one version.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// As the log names it, such as `query.cancelled.v2`.
    pub name: &'static str,
    /// What it happens to.
    pub aggregate: Kind,
    schema: &'static str,
    example: &'static str,
}

macro_rules! entries {
    ($($kind:ident $name:literal;)*) => {
        /// All of them.
        pub const ENTRIES: &[Entry] = &[$(Entry {
            name: $name,
            aggregate: Kind::$kind,
            schema: include_str!(concat!("../../golden/", $name, ".schema.json")),
            example: include_str!(concat!("../../golden/", $name, ".json")),
        },)*];
    };
}

entries! {
    Account "account.registered.v1";
    Account "account.erasure_requested.v1";
    Account "account.erased.v1";
    Email "email.claimed.v1";
    Email "email.released.v1";
    Session "session.opened.v1";
    Session "session.refreshed.v1";
    Session "session.revoked.v1";
    Query "query.submitted.v1";
    Query "query.started.v1";
    Query "query.completed.v1";
    Query "query.failed.v1";
    Query "query.cancelled.v1";
    Query "query.cancelled.v2";
    ApiKeys "api_keys.created.v1";
    ApiKeys "api_keys.revoked.v1";
}

impl Entry {
    /// The entry of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        ENTRIES.iter().find(|entry| entry.name == name)
    }

    /// The number behind `.v`; 0 where there is none.
    pub fn version(&self) -> u32 {
        let version = self.name.rsplit_once(".v");
        version
            .and_then(|(_, version)| version.parse().ok())
            .unwrap_or(0)
    }

    /// The next version, which it is read as; `None` for the one that is written today.
    pub fn superseded_by(&self) -> Option<&'static str> {
        let step = upcasts(self.aggregate)
            .iter()
            .find(|step| step.from == self.name);
        step.map(|step| step.to)
    }

    /// The JSON Schema (2020-12) of the event as it is stored, a CloudEvent.
    pub fn schema(&self) -> Value {
        serde_json::from_str(self.schema).unwrap_or_default()
    }

    /// An event as it is stored.
    pub fn example(&self) -> Value {
        serde_json::from_str(self.example).unwrap_or_default()
    }
}

const fn upcasts(kind: Kind) -> &'static [Upcast] {
    match kind {
        Kind::Account => account::Event::UPCASTS,
        Kind::Email => email::Event::UPCASTS,
        Kind::Session => session::Event::UPCASTS,
        Kind::Query => query::Event::UPCASTS,
        Kind::ApiKeys => api_keys::Event::UPCASTS,
    }
}
