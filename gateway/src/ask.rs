//! Submitting a query, the same for REST and the socket: checks, the query's id, the command.

use crate::{
    app::{App, Order},
    edge::Call,
    metrics::QueryKind,
};
use domain::{
    Actor,
    id::{AccountId, CommandId, QueryId},
    limits,
    query::{Status, Submission},
    wire::{
        command::{Body, Outcome, Via},
        error::{Code, Detail, DetailKind, Failure},
        socket::SubmitQuery,
    },
};
use serde_json::Value;

/// Largest `context` in bytes of JSON: it is stored in the log with the query.
const CONTEXT_BYTES: usize = 64 * 1024;

/// A checked submission.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Draft {
    query: QueryId,
    named: bool,
    /// What a repeat must say again, where the id comes from an idempotency key.
    key: Option<String>,
    submission: Submission,
}

impl Draft {
    /// The id under which it is submitted.
    pub(crate) const fn query(&self) -> QueryId {
        self.query
    }
}

/// A query that command-svc knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) query: QueryId,
    pub(crate) status: Status,
}

/// Checks what a client sent. `problems` are those that reading it has found already.
///
/// # Errors
/// All fields that break a rule, an oversized text, or an unknown file.
pub(crate) fn check(
    user: AccountId,
    sent: SubmitQuery,
    key: Option<&str>,
    mut problems: Vec<Detail>,
) -> Result<Draft, Failure> {
    let text = sent.query.as_deref().unwrap_or_default().trim();
    if text.is_empty() && !problems.iter().any(|problem| problem.field == "query") {
        problems.push(Detail::missing("query"));
    }
    if text.contains('\0') {
        let rule = "Must not contain NUL";
        problems.push(Detail::new("query", DetailKind::InvalidValue, rule));
    }
    let operation = sent.operation.as_deref().unwrap_or("general");
    if !is_operation(operation) {
        let rule = "Must match [a-z][a-z0-9_]{0,31}";
        problems.push(Detail::new("operation", DetailKind::InvalidValue, rule));
    }
    let files = sent.file_ids.unwrap_or_default();
    if files.len() > limits::QUERY_FILES {
        let rule = format!("At most {} files", limits::QUERY_FILES);
        problems.push(Detail::new("file_ids", DetailKind::TooLarge, rule));
    }
    let name = sent.query_id.as_deref().map(str::trim).unwrap_or_default();
    if name.chars().count() > limits::KEY_CHARS {
        let rule = format!("Must have at most {} characters", limits::KEY_CHARS);
        problems.push(Detail::new("query_id", DetailKind::TooLarge, rule));
    }
    let context = sent.context.filter(|context| !context.is_null());
    if let Some(problem) = context.as_ref().and_then(context_problem) {
        problems.push(problem);
    }
    if name.contains('\0') {
        let rule = "Must not contain NUL";
        problems.push(Detail::new("query_id", DetailKind::InvalidValue, rule));
    }
    if !problems.is_empty() {
        return Err(Failure::validation(problems));
    }
    if text.chars().count() > limits::QUERY_CHARS {
        let rule = format!("Must have at most {} characters", limits::QUERY_CHARS);
        return Err(Failure {
            details: vec![Detail::new("query", DetailKind::TooLarge, rule)],
            ..Failure::new(Code::ValidationTooLarge, "Query is too long")
        });
    }
    if let Some(file) = files.first() {
        let file: String = file.chars().take(limits::KEY_CHARS).collect();
        let message = format!("File {file} not found");
        return Err(Failure::new(Code::FileNotFound, message));
    }
    // A name of the client's own goes before the key.
    let key = key.filter(|_| name.is_empty());
    let (query, reference) = identify(user, name, key);
    Ok(Draft {
        query: query.unwrap_or_else(|| QueryId::new(infra::clock::fresh_id())),
        named: query.is_some(),
        key: key.map(str::to_owned),
        submission: Submission {
            text: text.to_owned(),
            operation: operation.to_owned(),
            file_ids: files,
            context,
            reference,
            options: None,
        },
    })
}

/// A conversation, which was checked where it was read. Only the client's idempotency key makes two
/// of them one query.
pub(crate) fn conversation(user: AccountId, submission: Submission, key: Option<&str>) -> Draft {
    let query = key.map(|key| QueryId::derived(&[&user.to_string(), "chat", key]));
    Draft {
        query: query.unwrap_or_else(|| QueryId::new(infra::clock::fresh_id())),
        named: query.is_some(),
        key: key.map(str::to_owned),
        submission,
    }
}

/// Gives the command. The query's end is counted by this gateway, unless it was known before.
///
/// # Errors
/// What the client is told.
pub(crate) async fn submit(
    app: &App,
    call: &Call,
    user: AccountId,
    via: Via,
    draft: Draft,
) -> Result<Known, Failure> {
    let Draft {
        query,
        named,
        key,
        submission,
    } = draft;
    let kind = QueryKind::of(&submission);
    // The user is part of it: a stranger's submission under the same id is another command.
    let id = CommandId::derived(&[&user.to_string(), &query.to_string(), "submit"]);
    let body = Body::SubmitQuery {
        query,
        named,
        via,
        submission,
    };
    let fingerprint = key.map(|key| body.fingerprint(&key));
    let order = Order {
        id,
        fingerprint,
        body,
    };
    let outcome = app.order(call, Actor::User(user), order).await?;
    let Outcome::Query {
        query,
        status,
        repeated,
        ..
    } = outcome
    else {
        return Err(Failure::internal());
    };
    if !repeated {
        app.hub.count(query, user, kind);
    }
    Ok(Known { query, status })
}

/// The id that a client's own name for a query, or its idempotency key, leads to, and the name
/// where it is to be kept.
fn identify(user: AccountId, name: &str, key: Option<&str>) -> (Option<QueryId>, Option<String>) {
    let user = user.to_string();
    if let Ok(query) = name.parse() {
        return (Some(query), None);
    }
    if !name.is_empty() {
        let query = QueryId::derived(&[&user, "ref", name]);
        return (Some(query), Some(name.to_owned()));
    }
    let query = key.map(|key| QueryId::derived(&[&user, "key", key]));
    (query, None)
}

pub(crate) fn is_operation(text: &str) -> bool {
    text.len() <= limits::OPERATION_CHARS
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

pub(crate) fn context_problem(context: &Value) -> Option<Detail> {
    if !context.is_object() {
        let rule = "Must be an object";
        return Some(Detail::new("context", DetailKind::InvalidFormat, rule));
    }
    let text = context.to_string();
    if text.len() > CONTEXT_BYTES {
        let rule = format!("Must have at most {CONTEXT_BYTES} bytes");
        return Some(Detail::new("context", DetailKind::TooLarge, rule));
    }
    // As serde_json writes it. A backslash before it would have been escaped itself, so that this
    // may refuse a text that only speaks of NUL, which nobody misses.
    text.contains("\\u0000").then(|| {
        let rule = "Must not contain NUL";
        Detail::new("context", DetailKind::InvalidValue, rule)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use uuid::Uuid;

    fn user() -> AccountId {
        AccountId::new(Uuid::from_u128(1))
    }

    fn asking(query: &str) -> SubmitQuery {
        SubmitQuery {
            query: Some(query.into()),
            ..SubmitQuery::default()
        }
    }

    fn named(name: &str, key: Option<&str>) -> Draft {
        let sent = SubmitQuery {
            query_id: Some(name.into()),
            ..asking("Why?")
        };
        check(user(), sent, key, vec![]).unwrap()
    }

    #[test]
    fn a_query_is_trimmed_and_general_by_default() {
        let draft = check(user(), asking("  Why?\n"), None, vec![]).unwrap();
        assert_eq!(draft.submission.text, "Why?");
        assert_eq!(draft.submission.operation, "general");
        assert!(!draft.named);
    }

    #[test]
    fn the_clients_own_name_decides_the_id() {
        let id = "3f2c0000-0000-4000-8000-000000000001";
        let by_id = named(id, Some("key"));
        assert_eq!((by_id.query.to_string().as_str(), by_id.named), (id, true));
        assert_eq!(by_id.submission.reference, None);
        let by_reference = named("note 7", Some("key"));
        assert_eq!(by_reference.submission.reference.as_deref(), Some("note 7"));
        assert_eq!(by_reference.query, named("note 7", None).query);
        let by_key = named(" ", Some("key"));
        assert_eq!(by_key.query, named("", Some("key")).query);
        assert_ne!(by_key.query, by_reference.query);
        assert!(!named("", None).named);
    }

    #[test]
    fn everything_that_is_wrong_is_named_at_once() {
        let sent = SubmitQuery {
            query: Some(" \n".into()),
            operation: Some("Drop Table".into()),
            query_id: Some("x".repeat(129)),
            file_ids: Some(vec!["f".into(); 6]),
            context: Some(json!([1])),
        };
        let failure = check(user(), sent, None, vec![]).unwrap_err();
        assert_eq!(failure.code, Code::ValidationError);
        insta::assert_json_snapshot!(failure.details);
    }

    #[test]
    fn size_and_files_have_codes_of_their_own() {
        let code = |sent| check(user(), sent, None, vec![]).unwrap_err().code;
        assert!(check(user(), asking(&"ä".repeat(32_000)), None, vec![]).is_ok());
        assert_eq!(code(asking(&"ä".repeat(32_001))), Code::ValidationTooLarge);
        let with_file = SubmitQuery {
            file_ids: Some(vec!["f1".into()]),
            ..asking("Why?")
        };
        let failure = check(user(), with_file, None, vec![]).unwrap_err();
        assert_eq!(failure.message, "File f1 not found");
        let nul = SubmitQuery {
            context: Some(json!({"a": ["\0"]})),
            ..asking("Why?")
        };
        assert_eq!(code(nul), Code::ValidationError);
        assert_eq!(code(asking("a\0b")), Code::ValidationError);
    }
}
