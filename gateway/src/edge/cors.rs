//! Which origins may call (contract §16).

use http::{HeaderName, HeaderValue, Method, header, request::Parts};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// The list of allowed origins, compared letter by letter.
#[derive(Clone, Debug)]
pub(crate) struct Origins(Arc<HashSet<String>>);

impl Origins {
    pub(crate) fn new(origins: Vec<String>) -> Self {
        Self(Arc::new(origins.into_iter().collect()))
    }

    /// Whether a request with this `Origin` header may open a socket; those without one may.
    pub(crate) fn allow(&self, origin: Option<&HeaderValue>) -> bool {
        origin.is_none_or(|origin| self.contains(origin))
    }

    fn contains(&self, origin: &HeaderValue) -> bool {
        origin.to_str().is_ok_and(|origin| self.0.contains(origin))
    }

    pub(crate) fn layer(&self) -> CorsLayer {
        let origins = self.clone();
        let methods = [
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
            Method::OPTIONS,
        ];
        CorsLayer::new()
            .allow_origin(AllowOrigin::predicate(
                move |origin: &HeaderValue, _: &Parts| origins.contains(origin),
            ))
            .allow_credentials(true)
            .allow_methods(methods)
            .allow_headers([
                header::AUTHORIZATION,
                header::CONTENT_TYPE,
                HeaderName::from_static("x-request-id"),
                HeaderName::from_static("idempotency-key"),
                HeaderName::from_static("x-consistency-token"),
                HeaderName::from_static("x-client-version"),
                HeaderName::from_static("x-client-timestamp"),
                HeaderName::from_static("prefer"),
                HeaderName::from_static("traceparent"),
                HeaderName::from_static("tracestate"),
            ])
            .expose_headers([
                HeaderName::from_static("x-request-id"),
                header::RETRY_AFTER,
                HeaderName::from_static("x-next-cursor"),
                HeaderName::from_static("x-consistency-token"),
            ])
            .max_age(Duration::from_secs(600))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_compared_exactly() {
        let origins = Origins::new(vec!["https://app.amaima.com".into()]);
        let allow = |text| origins.allow(Some(&HeaderValue::from_static(text)));
        assert!(origins.allow(None));
        assert!(allow("https://app.amaima.com"));
        assert!(!allow("https://app.amaima.com.evil.example"));
        assert!(!allow("http://app.amaima.com"));
        assert!(!allow("null"));
    }
}
