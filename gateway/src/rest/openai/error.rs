//! Errors in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`.

use crate::edge::Error;
use domain::wire::error::{Class, Code, Detail, DetailKind};
use http::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The body of a failed request, and the event that ends a stream without its end.
pub(crate) fn body(error: &Error) -> Value {
    let code = &*error.code;
    let is_about_the_caller = [
        Code::AuthTokenInvalid,
        Code::AuthTokenExpired,
        Code::AuthUserNotFound,
    ]
    .iter()
    .any(|known| known.as_str() == code);
    let message = if code == Code::ValidationError.as_str() && !error.details.is_empty() {
        words(&error.details)
    } else {
        error.message.clone()
    };
    json!({"error": {
        "message": message,
        "type": kind(error.status),
        "param": error.details.first().map(|detail| &detail.field),
        "code": if is_about_the_caller { "invalid_api_key" } else { code },
    }})
}

/// Whether a client gets nowhere by asking the same again, although the status would let it try:
/// official clients repeat 409 and everything from 500 on by themselves.
pub(crate) fn is_final(status: StatusCode) -> bool {
    matches!(status, StatusCode::CONFLICT | StatusCode::GATEWAY_TIMEOUT)
}

/// A request with parameters at fault.
pub(crate) fn refused(details: Vec<Detail>) -> Error {
    let code = match details.first().map(|detail| detail.r#type) {
        Some(DetailKind::MissingField) => "missing_required_parameter",
        Some(DetailKind::InvalidFormat) => "invalid_type",
        Some(DetailKind::TooLarge) => "above_max_length",
        Some(DetailKind::InvalidValue) | None => "invalid_value",
    };
    of(StatusCode::BAD_REQUEST, code, details)
}

/// A request with something that this system cannot do.
pub(crate) fn unsupported(parameter: &str, rule: &str) -> Error {
    let detail = Detail::new(parameter, DetailKind::InvalidValue, rule);
    of(
        StatusCode::BAD_REQUEST,
        "unsupported_parameter",
        vec![detail],
    )
}

/// A request for a model that nobody answers with.
pub(crate) fn no_model(model: &str) -> Error {
    let model: String = model.chars().take(128).collect();
    let detail = Detail::new("model", DetailKind::InvalidValue, "Is not there");
    Error {
        message: format!("The model '{model}' does not exist"),
        ..of(StatusCode::NOT_FOUND, "model_not_found", vec![detail])
    }
}

/// A query that ended without an answer.
pub(crate) fn ended(code: Code, message: String) -> Error {
    let refused = |code, parameter: Option<&str>| {
        let details = parameter.map(|name| Detail::new(name, DetailKind::InvalidValue, &*message));
        Error {
            message: message.clone(),
            ..of(StatusCode::BAD_REQUEST, code, details.into_iter().collect())
        }
    };
    match code {
        Code::ValidationTooLarge => refused("context_length_exceeded", Some("messages")),
        Code::ValidationError => refused("invalid_value", None),
        _ => Error::new(code, message),
    }
}

fn of(status: StatusCode, code: &'static str, details: Vec<Detail>) -> Error {
    Error {
        status,
        code: code.into(),
        class: Class::Validation,
        message: words(&details),
        details,
        retry_after_secs: None,
        beside: BTreeMap::new(),
    }
}

fn words(details: &[Detail]) -> String {
    let each = details
        .iter()
        .map(|detail| format!("{}: {}", detail.field, detail.message));
    each.collect::<Vec<_>>().join("; ")
}

fn kind(status: StatusCode) -> &'static str {
    match status {
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        status if status.is_server_error() => "server_error",
        _ => "invalid_request_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::wire::error::Failure;

    #[test]
    fn errors_of_every_kind_have_the_form() {
        let errors = [
            Error::new(Code::AuthTokenExpired, "API key has expired"),
            Error::new(Code::AuthPermissionDenied, "No"),
            Failure::other_body().into(),
            Failure::overloaded(1_500).into(),
            Error::of_status(StatusCode::PAYLOAD_TOO_LARGE),
            Error::of_status(StatusCode::TOO_MANY_REQUESTS),
            refused(vec![
                Detail::missing("model"),
                Detail::new("top_p", DetailKind::InvalidValue, "Must be at most 1"),
            ]),
            unsupported("tools", "Is not supported"),
            no_model("gpt-x"),
            ended(Code::ValidationTooLarge, "70 tokens, but 64 fit".into()),
            ended(Code::ValidationError, "The schema is no schema".into()),
            ended(Code::QueryModelError, "Inference failed".into()),
        ];
        let bodies: Vec<Value> = errors
            .iter()
            .map(|error| json!([error.status.as_u16(), body(error)]))
            .collect();
        insta::assert_json_snapshot!(bodies);
    }
}
