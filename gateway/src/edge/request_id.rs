//! The id that a request has in its response, in the logs and in the events that it causes, and
//! what else is known of one call.

use super::Error;
use crate::consistency::Seen;
use axum::extract::FromRequestParts;
use domain::wire::consistency::{InvalidToken, Token};
use http::{HeaderMap, request::Parts};
use std::{convert::Infallible, sync::Arc};

pub(crate) const HEADER: &str = "x-request-id";
pub(crate) const CONSISTENCY: &str = "X-Consistency-Token";
const MAX_CHARS: usize = 64;

/// One call, as far as the bus should know it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Call {
    pub(crate) request_id: Arc<str>,
    /// W3C Trace Context of the caller.
    pub(crate) traceparent: Option<String>,
    /// What the client has seen of the log, by its own word.
    pub(crate) token: Option<Token>,
    /// What it will have seen with our answer.
    pub(crate) seen: Seen,
}

impl Call {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        Self {
            request_id: text(HEADER)
                .filter(|id| is_valid(id))
                .map_or_else(fresh, Arc::from),
            traceparent: text("traceparent")
                .filter(|parent| is_traceparent(parent))
                .map(str::to_owned),
            token: None,
            seen: Seen::default(),
        }
    }

    /// With the token that the client sent.
    ///
    /// # Errors
    /// When there is one that we never returned.
    pub(crate) fn with_token(self, headers: &HeaderMap) -> Result<Self, Error> {
        let Some(value) = headers.get(CONSISTENCY) else {
            return Ok(self);
        };
        let token = value.to_str().map_err(|_| InvalidToken);
        let token = token.and_then(str::parse);
        let refused = |rule: InvalidToken| Error::bad_parameter(CONSISTENCY, &rule.to_string());
        Ok(Self {
            token: Some(token.map_err(refused)?),
            ..self
        })
    }
}

impl<S: Sync> FromRequestParts<S> for Call {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

/// `req_` and 12 hexadecimal digits.
fn fresh() -> Arc<str> {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("req_{}", &random[..12]).into()
}

fn is_valid(id: &str) -> bool {
    (1..=MAX_CHARS).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// Version 00 of <https://www.w3.org/TR/trace-context/>.
fn is_traceparent(text: &str) -> bool {
    let sizes: Vec<usize> = text.split('-').map(str::len).collect();
    sizes == [2, 32, 16, 2]
        && text
            .bytes()
            .all(|byte| byte == b'-' || byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn of(id: &'static str) -> String {
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static(HEADER),
            HeaderValue::from_static(id),
        )]);
        Call::of(&headers).request_id.to_string()
    }

    #[test]
    fn a_good_id_is_kept_and_another_is_replaced() {
        assert_eq!(of("abc-DEF_1"), "abc-DEF_1");
        for bad in ["", "a b", "a\"b", &*"a".repeat(65).leak()] {
            let id = of(bad);
            assert!(id.starts_with("req_") && id.len() == 16, "{id}");
        }
    }

    #[test]
    fn a_traceparent_has_its_form() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_traceparent(good));
        assert!(!is_traceparent("00-x"));
    }
}
