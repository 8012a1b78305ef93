//! What goes wrong at a provider, and what follows from it.

use serde_json::Value;
use std::{fmt, time::Duration};

/// A failure. The reason is for operators: it holds no key and nothing that anybody said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    reason: String,
}

/// What follows from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The same may succeed in a while, after this long if the provider says so.
    Again { after: Option<Duration> },
    /// Nobody is served: no credit, a wrong key, no such model.
    Unusable,
    /// This request is refused; others are not.
    Refused,
    /// It was not even asked.
    KeptAway,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Fault {
    pub(super) fn again(reason: String) -> Self {
        let kind = Kind::Again { after: None };
        Self { kind, reason }
    }

    pub(super) fn silent(limit: Duration) -> Self {
        Self::again(format!("silent for {} ms", limit.as_millis()))
    }

    pub(super) fn kept_away() -> Self {
        Self {
            kind: Kind::KeptAway,
            reason: "not asked, since it kept failing".to_owned(),
        }
    }

    /// Of an answer with this status that is no stream of events.
    pub(super) fn of_status(status: u16, after: Option<Duration>, body: &[u8]) -> Self {
        let error = serde_json::from_slice(body).unwrap_or(Value::Null);
        // Some put the object into an array of one.
        let error = error.get(0).unwrap_or(&error);
        let labels = labels(error);
        let kind = match status {
            _ if has(&labels, "insufficient_quota") => Kind::Unusable,
            200..=299 | 408 | 409 | 425 | 429 | 500.. => Kind::Again { after },
            401..=405 | 300..=399 => Kind::Unusable,
            _ => Kind::Refused,
        };
        let what = match status {
            200..=299 => " without a stream of events",
            _ => "",
        };
        Self {
            kind,
            reason: format!("status {status}{what}{}", in_brackets(&labels)),
        }
    }

    /// Of an error in the middle of a stream.
    pub(super) fn in_band(error: &Value) -> Self {
        let labels = labels(error);
        let any = |known: &[&str]| known.iter().any(|label| has(&labels, label));
        let kind = if any(&[
            "invalid_request_error",
            "request_too_large",
            "INVALID_ARGUMENT",
            "400",
            "413",
            "422",
        ]) {
            Kind::Refused
        } else if any(&[
            "authentication_error",
            "permission_error",
            "not_found_error",
            "billing_error",
            "insufficient_quota",
            "PERMISSION_DENIED",
            "UNAUTHENTICATED",
            "NOT_FOUND",
            "401",
            "403",
            "404",
        ]) {
            Kind::Unusable
        } else {
            Kind::Again { after: None }
        };
        Self {
            kind,
            reason: format!("an error in the stream{}", in_brackets(&labels)),
        }
    }
}

/// The labels of an error in any of the formats: its type, code, status and parameter. Its message
/// may repeat what somebody said, or a part of a key.
fn labels(error: &Value) -> Vec<String> {
    let inner = error.get("error").unwrap_or(error);
    ["type", "code", "status", "param"]
        .iter()
        .filter_map(|name| match inner.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        })
        .filter(|label| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "_-.[]".contains(c);
            label.len() <= 64 && label.chars().all(plain)
        })
        .collect()
}

fn has(labels: &[String], label: &str) -> bool {
    labels.iter().any(|known| known == label)
}

fn in_brackets(labels: &[String]) -> String {
    match labels.is_empty() {
        true => String::new(),
        false => format!(" ({})", labels.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_says_what_follows() {
        let after = Some(Duration::from_secs(7));
        let of = |status, body: Value| {
            let fault = Fault::of_status(status, after, body.to_string().as_bytes());
            (fault.kind, fault.to_string())
        };
        let openai = |kind, code| json!({"error": {"message": "sk-secret", "type": kind, "code": code, "param": null}});
        let again = Kind::Again { after };
        #[rustfmt::skip]
        let cases = [
            (of(429, openai("requests", "rate_limit_exceeded")), again, "status 429 (requests, rate_limit_exceeded)"),
            (of(429, openai("insufficient_quota", "insufficient_quota")), Kind::Unusable, "status 429 (insufficient_quota, insufficient_quota)"),
            (of(401, openai("invalid_request_error", "invalid_api_key")), Kind::Unusable, "status 401 (invalid_request_error, invalid_api_key)"),
            (of(400, json!({"type": "error", "error": {"type": "invalid_request_error", "message": "m"}})), Kind::Refused, "status 400 (invalid_request_error)"),
            (of(529, json!({"type": "error", "error": {"type": "overloaded_error", "message": "m"}})), again, "status 529 (overloaded_error)"),
            (of(503, json!([{"error": {"code": 503, "message": "m", "status": "UNAVAILABLE"}}])), again, "status 503 (503, UNAVAILABLE)"),
            (of(404, json!("a text")), Kind::Unusable, "status 404"),
            (of(302, json!(null)), Kind::Unusable, "status 302"),
            (of(422, json!({"error": {"code": "what Mia asked"}})), Kind::Refused, "status 422"),
        ];
        for ((kind, reason), expected, words) in cases {
            assert_eq!((kind, reason.as_str()), (expected, words));
        }
        assert_eq!(
            Fault::of_status(502, None, b"<html>").to_string(),
            "status 502"
        );
    }

    #[test]
    fn an_error_in_the_stream_says_what_follows() {
        let of = |error: Value| Fault::in_band(&error).kind;
        let again = Kind::Again { after: None };
        assert_eq!(of(json!({"error": {"type": "overloaded_error"}})), again);
        assert_eq!(
            of(json!({"error": {"type": "server_error", "code": null}})),
            again
        );
        assert_eq!(of(json!({"error": "a text"})), again);
        assert_eq!(
            of(json!({"error": {"code": 400, "type": "BadRequest"}})),
            Kind::Refused
        );
        assert_eq!(
            of(json!({"error": {"type": "permission_error"}})),
            Kind::Unusable
        );
    }
}
