//! The outermost layer: gives the request its id, and makes sure that every response carries it
//! and that every failure has the one JSON body of contract §4.

use super::{
    Error,
    error::{Carried, RETRY_AFTER_SECS},
    request_id::{CONSISTENCY, Call, HEADER},
};
use crate::{app::App, rest::openai};
use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use domain::wire::error::{Envelope, EnvelopeError, EnvelopeMeta};
use http::{HeaderValue, StatusCode, header};
use serde_json::Value;
use std::{sync::Arc, time::Instant};
use tracing::Instrument;

pub(crate) async fn seal(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let call = Call::of(request.headers());
    // The path alone: the query may hold a token.
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let endpoint = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    let outdated = is_outdated(&request, &app.min_client_version);
    let span = tracing::info_span!("request", request_id = &*call.request_id);
    let (call, mut response) = match call.clone().with_token(request.headers()) {
        Ok(call) => {
            request.extensions_mut().insert(call.clone());
            (call, next.run(request).instrument(span).await)
        }
        Err(error) => (call, error.into_response()),
    };
    if response.status().as_u16() >= 400 {
        response = with_envelope(response, &call.request_id, &path);
    }
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&call.request_id) {
        headers.insert(HEADER, value);
    }
    let token = call.seen.token(app.consistency.now(), call.token);
    if let Some(Ok(value)) = token.map(|token| HeaderValue::from_str(&token.to_string())) {
        headers.insert(CONSISTENCY, value);
    }
    if outdated {
        headers.insert("x-client-outdated", HeaderValue::from_static("true"));
    }
    let took = started.elapsed();
    let status = response.status().as_u16();
    app.metrics.answered(&method, &endpoint, status, took);
    tracing::info!(
        request_id = &*call.request_id,
        %method,
        endpoint,
        status,
        latency_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "answered"
    );
    response
}

fn with_envelope(response: Response, request_id: &str, path: &str) -> Response {
    let error = match response.extensions().get::<Carried>() {
        Some(Carried(error)) => error.clone(),
        None => Arc::new(Error::of_status(response.status())),
    };
    if error.status.is_server_error() {
        tracing::warn!(request_id, code = &*error.code, path, "request failed");
    }
    let is_openais = openai::speaks(path);
    let body = if is_openais {
        openai::error::body(&error)
    } else {
        envelope(&error, request_id, path)
    };
    let (mut parts, _) = response.into_parts();
    if is_openais && openai::error::is_final(error.status) {
        let no = HeaderValue::from_static("false");
        parts.headers.insert("x-should-retry", no);
    }
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    if matches!(
        error.status,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
    ) {
        let secs = error.retry_after_secs.unwrap_or(RETRY_AFTER_SECS);
        parts.headers.insert(header::RETRY_AFTER, secs.into());
    }
    if error.status == StatusCode::UNAUTHORIZED {
        parts
            .headers
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    Response::from_parts(parts, Body::from(body.to_string()))
}

fn envelope(error: &Error, request_id: &str, path: &str) -> Value {
    let envelope = Envelope {
        error: EnvelopeError {
            code: &error.code,
            message: &error.message,
            r#type: error.class,
            details: &error.details,
        },
        meta: EnvelopeMeta {
            request_id,
            timestamp: infra::clock::now(),
            path,
        },
    };
    let mut body = serde_json::to_value(&envelope).unwrap_or_default();
    if let Some(object) = body.as_object_mut() {
        let beside = error.beside.clone().into_iter();
        object.extend(beside.map(|(key, value)| (key.to_owned(), value)));
    }
    body
}

fn is_outdated(request: &Request, minimum: &str) -> bool {
    let version = request
        .headers()
        .get("x-client-version")
        .and_then(|value| value.to_str().ok());
    version.is_some_and(|version| numbers(version) < numbers(minimum))
}

/// The leading numbers of a dotted version; a part that is no number counts as zero.
fn numbers(version: &str) -> [u32; 3] {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    [(); 3].map(|()| parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(numbers("1.9.0") < numbers("1.10"));
        assert!(numbers("2") > numbers("1.99.99"));
        assert_eq!(numbers("1.0"), numbers("1.0.0"));
    }
}
