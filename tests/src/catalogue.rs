//! Documents and events, held against the schemas that we publish.

use async_nats::header;
use domain::{
    catalogue::{ENTRIES, Entry},
    commit, subject,
};
use infra::{direct_get, sealing::Keyring};
use jsonschema::Validator;
use serde_json::Value;
use std::{collections::HashMap, sync::LazyLock};

/// Checks by one JSON Schema, formats included.
///
/// # Panics
/// When the schema itself is none.
pub fn validator(schema: &Value) -> Validator {
    jsonschema::draft202012::options()
        .should_validate_formats(true)
        .build(schema)
        .expect("a schema")
}

/// What is wrong with an event that was stored, by the schema of its type.
pub fn violations(event: &Value) -> Vec<String> {
    static BY_TYPE: LazyLock<HashMap<&str, Validator>> = LazyLock::new(|| {
        let each = |entry: &Entry| (entry.name, validator(&entry.schema()));
        ENTRIES.iter().map(each).collect()
    });
    let name = event["type"].as_str().unwrap_or_default();
    let Some(schema) = BY_TYPE.get(name) else {
        return vec![format!("{name:?} is not in the catalogue")];
    };
    let errors = schema.iter_errors(event);
    errors
        .map(|error| format!("{name}{}: {error}", error.instance_path()))
        .collect()
}

/// Checks every event that services have written into the log, and says how many there are. What a
/// test wrote past them has no version of the layout.
///
/// # Panics
/// When the log cannot be read, or an event is not what the catalogue says.
pub async fn check_log(client: &async_nats::Client, keys: &Keyring) -> usize {
    let log = direct_get::subject(client, subject::EVENTS, subject::ALL_EVENTS, 1).await;
    let mut checked = 0;
    for message in log.expect("the log can be read") {
        if message.headers.get(commit::header::SCHEMA).is_none() {
            continue;
        }
        let subject = message.headers.get(header::NATS_SUBJECT);
        let subject = subject.map_or("", |subject| subject.as_str()).to_owned();
        let opened = keys.open_stored(&subject, message).await;
        // What was said by persons who were erased was valid while it could be read.
        let Some(message) = opened.expect("a key") else {
            continue;
        };
        let events: Vec<Value> = serde_json::from_slice(&message.payload).expect("a batch");
        checked += events.len();
        let found: Vec<String> = events.iter().flat_map(violations).collect();
        assert!(found.is_empty(), "sequence {}: {found:#?}", message.seq);
    }
    checked
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn examples_are_valid_and_what_is_spoilt_is_not() {
        for entry in ENTRIES {
            let example = entry.example();
            assert_eq!(violations(&example), Vec::<String>::new());
            let fields = example["data"].as_object().expect("data").keys();
            for field in fields.filter(|field| *field != "context") {
                let mut spoilt = example.clone();
                spoilt["data"][field] = json!({ "not": "this" });
                let place = format!("{}/data/{field}: ", entry.name);
                assert!(violations(&spoilt)[0].starts_with(&place), "{place}");
            }
        }
        let mut late = Entry::find("query.failed.v1").expect("listed").example();
        late["time"] = "yesterday".into();
        assert!(violations(&late)[0].starts_with("query.failed.v1/time"));
        late["type"] = "query.failed.v9".into();
        assert_eq!(violations(&late).len(), 1);
    }
}
