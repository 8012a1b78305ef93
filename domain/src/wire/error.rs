//! The errors that clients see: one stable code each, and the envelope around them.

use crate::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal $status:literal $class:ident;)*) => {
        /// A stable error code (contract §4).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Code {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// As the wire writes it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The HTTP status that goes with it.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// The class of error that it belongs to.
            pub const fn class(self) -> Class {
                match self { $(Self::$name => Class::$class,)* }
            }
        }
    };
}

codes! {
    /// The token is past its `exp`.
    AuthTokenExpired = "AUTH_TOKEN_EXPIRED" 401 Http;
    /// The token's signature or claims are wrong, or it is revoked or absent.
    AuthTokenInvalid = "AUTH_TOKEN_INVALID" 401 Http;
    /// The user is known, the right is missing.
    AuthPermissionDenied = "AUTH_PERMISSION_DENIED" 403 Http;
    /// The token's subject is missing or inactive.
    AuthUserNotFound = "AUTH_USER_NOT_FOUND" 401 Http;
    /// Wrong e-mail address or password.
    AuthInvalidCredentials = "AUTH_INVALID_CREDENTIALS" 401 Http;
    /// The e-mail address is taken.
    AuthUserExists = "AUTH_USER_EXISTS" 409 Api;
    /// A field of the body breaks a rule.
    ValidationError = "VALIDATION_ERROR" 422 Validation;
    /// Required input outside a JSON body is absent.
    ValidationMissingField = "VALIDATION_MISSING_FIELD" 422 Validation;
    /// The JSON or a parameter cannot be parsed.
    ValidationInvalidFormat = "VALIDATION_INVALID_FORMAT" 400 Http;
    /// A body, file or text is over its limit.
    ValidationTooLarge = "VALIDATION_TOO_LARGE" 413 Validation;
    /// A worker failed outside the model.
    QueryProcessingError = "QUERY_PROCESSING_ERROR" 500 Server;
    /// The query did not end in time.
    QueryTimeout = "QUERY_TIMEOUT" 504 Server;
    /// Inference failed.
    QueryModelError = "QUERY_MODEL_ERROR" 502 Server;
    /// No model accepts the operation.
    QueryRoutingError = "QUERY_ROUTING_ERROR" 503 Server;
    /// Something unforeseen.
    SystemInternalError = "SYSTEM_INTERNAL_ERROR" 500 Server;
    /// A dependency is down, or the service shuts down.
    SystemUnavailable = "SYSTEM_UNAVAILABLE" 503 Server;
    /// Too many requests.
    SystemRateLimited = "SYSTEM_RATE_LIMITED" 429 Api;
    /// Reading or writing the store failed.
    SystemDatabaseError = "SYSTEM_DATABASE_ERROR" 500 Server;
    /// The file is unknown, deleted, or not the caller's.
    FileNotFound = "FILE_NOT_FOUND" 404 Api;
    /// Newer server state wins.
    SyncConflict = "SYNC_CONFLICT" 409 Api;
    /// Malformed in another way.
    BadRequest = "BAD_REQUEST" 400 Http;
    /// Unknown route or resource.
    NotFound = "NOT_FOUND" 404 Http;
    /// The route does not know the method.
    MethodNotAllowed = "HTTP_405" 405 Http;
    /// The resource's state does not allow it.
    Conflict = "HTTP_409" 409 Api;
}

/// `error.type` of the envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Body checks.
    #[serde(rename = "validation_error")]
    Validation,
    /// Framework level.
    #[serde(rename = "http_error")]
    Http,
    /// The domain's own rules.
    #[serde(rename = "api_error")]
    Api,
    /// 5xx.
    #[serde(rename = "server_error")]
    Server,
}

/// One field that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    /// The plain input name, dotted for nested ones.
    pub field: String,
    /// The rule.
    pub message: String,
    /// What kind of rule.
    pub r#type: DetailKind,
}

/// `details[].type` of the envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DetailKind {
    /// Required, but absent or blank.
    MissingField,
    /// Not of the right form or type.
    InvalidFormat,
    /// Of the right form, but not allowed.
    InvalidValue,
    /// Over its limit.
    TooLarge,
}

impl Detail {
    /// A required field that is absent.
    pub fn missing(field: &str) -> Self {
        Self {
            field: field.into(),
            message: "Field is required".into(),
            r#type: DetailKind::MissingField,
        }
    }

    /// A field that breaks the rule in `message`.
    pub fn new(field: &str, r#type: DetailKind, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
            r#type,
        }
    }
}

/// What a client is told when something did not work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The stable code.
    pub code: Code,
    /// In words, without internals.
    pub message: String,
    /// The fields at fault; left out when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<Detail>,
    /// Seconds after which it makes sense to try again, where somebody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_secs: Option<u32>,
}

impl Failure {
    /// A failure without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: vec![],
            retry_after_secs: None,
        }
    }

    /// Fields that break their rules.
    pub fn validation(details: Vec<Detail>) -> Self {
        Self {
            details,
            ..Self::new(Code::ValidationError, "Request validation failed")
        }
    }

    /// A dependency is down; the caller may try again.
    pub fn unavailable() -> Self {
        Self::new(Code::SystemUnavailable, "Service temporarily unavailable")
    }

    /// There is too much to do; the caller may try again after this time.
    pub fn overloaded(retry_after_ms: u32) -> Self {
        Self {
            retry_after_secs: Some(retry_after_ms.div_ceil(1_000).max(1)),
            ..Self::unavailable()
        }
    }

    /// An idempotency key that came before with another body.
    pub fn other_body() -> Self {
        Self::validation(vec![Detail::new(
            "Idempotency-Key",
            DetailKind::InvalidValue,
            "Was used with another request body",
        )])
    }

    /// Something unforeseen, of which nothing is revealed.
    pub fn internal() -> Self {
        Self::new(Code::SystemInternalError, "An internal error occurred")
    }
}

/// The JSON body of every response with a status of 400 or more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Envelope<'a> {
    /// What went wrong.
    pub error: EnvelopeError<'a>,
    /// Where and when.
    pub meta: EnvelopeMeta<'a>,
}

/// `error` of the envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EnvelopeError<'a> {
    /// The stable code.
    pub code: &'a str,
    /// In words.
    pub message: &'a str,
    /// Its class.
    pub r#type: Class,
    /// The fields at fault.
    #[serde(skip_serializing_if = "<[Detail]>::is_empty")]
    pub details: &'a [Detail],
}

/// `meta` of the envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EnvelopeMeta<'a> {
    /// The request's id.
    pub request_id: &'a str,
    /// When.
    pub timestamp: Timestamp,
    /// The path asked for, without its query.
    pub path: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_envelope_is_the_contracts() {
        let failure = Failure::validation(vec![Detail::missing("query")]);
        let envelope = Envelope {
            error: EnvelopeError {
                code: failure.code.as_str(),
                message: &failure.message,
                r#type: failure.code.class(),
                details: &failure.details,
            },
            meta: EnvelopeMeta {
                request_id: "req_7c1e0b94d2aa",
                timestamp: Timestamp::from_millis(1_741_079_700_000),
                path: "/v1/query",
            },
        };
        insta::assert_json_snapshot!(envelope);
    }

    #[test]
    fn codes_table() {
        let table: Vec<String> = Code::ALL
            .iter()
            .map(|code| format!("{} {} {:?}", code.as_str(), code.status(), code.class()))
            .collect();
        insta::assert_snapshot!(table.join("\n"));
    }
}
