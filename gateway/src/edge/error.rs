//! How a failure becomes a response. The body is written by [`super::seal`], which knows the
//! request's id and path and also catches what the framework refused by itself.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use domain::wire::error::{Class, Code, Detail, DetailKind, Failure};
use http::StatusCode;
use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

/// Seconds after which a client may try again what was unavailable.
pub(crate) const RETRY_AFTER_SECS: u32 = 1;

/// A failed request.
#[derive(Clone, Debug)]
pub(crate) struct Error {
    pub(crate) status: StatusCode,
    pub(crate) code: Cow<'static, str>,
    pub(crate) class: Class,
    pub(crate) message: String,
    pub(crate) details: Vec<Detail>,
    /// Seconds after which a client may try again, where somebody knows.
    pub(crate) retry_after_secs: Option<u32>,
    /// Keys beside `error` and `meta`.
    pub(crate) beside: BTreeMap<&'static str, serde_json::Value>,
}

/// The error that a sealed response stands for.
#[derive(Clone)]
pub(crate) struct Carried(pub(crate) Arc<Error>);

impl Error {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Failure::new(code, message).into()
    }

    pub(crate) fn unavailable() -> Self {
        Failure::unavailable().into()
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("{what} not found"))
    }

    /// A parameter outside the body that cannot be read.
    pub(crate) fn bad_parameter(name: &str, rule: &str) -> Self {
        Self {
            details: vec![Detail::new(name, DetailKind::InvalidFormat, rule)],
            ..Self::new(Code::ValidationInvalidFormat, format!("{name}: {rule}"))
        }
    }

    /// A body of a type that is not accepted.
    pub(crate) fn unsupported_body() -> Self {
        Self {
            status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ..Self::new(
                Code::ValidationInvalidFormat,
                "Content-Type must be application/json",
            )
        }
    }

    /// What the framework refused with nothing but a status.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        let known = |code: Code, message: &str| Self {
            status,
            ..Self::new(code, message)
        };
        match status {
            StatusCode::BAD_REQUEST => known(Code::BadRequest, "Bad request"),
            StatusCode::NOT_FOUND => known(Code::NotFound, "Route not found"),
            StatusCode::METHOD_NOT_ALLOWED => known(Code::MethodNotAllowed, "Method not allowed"),
            StatusCode::PAYLOAD_TOO_LARGE => {
                known(Code::ValidationTooLarge, "Request body is too large")
            }
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::unsupported_body(),
            StatusCode::SERVICE_UNAVAILABLE => Self::unavailable(),
            other if other.is_server_error() => Self {
                status: other,
                ..Failure::internal().into()
            },
            other => Self {
                status: other,
                code: format!("HTTP_{}", other.as_u16()).into(),
                class: Class::Http,
                message: other.canonical_reason().unwrap_or("Refused").into(),
                details: vec![],
                retry_after_secs: None,
                beside: BTreeMap::new(),
            },
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self {
            status: StatusCode::from_u16(failure.code.status())
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            code: failure.code.as_str().into(),
            class: failure.code.class(),
            message: failure.message,
            details: failure.details,
            retry_after_secs: failure.retry_after_secs,
            beside: BTreeMap::new(),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        response.extensions_mut().insert(Carried(Arc::new(self)));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_code() {
        let code = |status: u16| Error::of_status(StatusCode::from_u16(status).unwrap()).code;
        assert_eq!(code(404), "NOT_FOUND");
        assert_eq!(code(405), "HTTP_405");
        assert_eq!(code(413), "VALIDATION_TOO_LARGE");
        assert_eq!(code(426), "HTTP_426");
        assert_eq!(code(500), "SYSTEM_INTERNAL_ERROR");
        assert_eq!(code(503), "SYSTEM_UNAVAILABLE");
    }
}
