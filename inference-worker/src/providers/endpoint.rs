//! A service on the network, asked once.

use super::{
    breaker::Gate,
    dialect::{Dialect, Said},
    fault::Fault,
    settings::{Limits, Service},
    sse::Sse,
};
use engine::provider::ChatRequest;
use infra::{config::Secret, telemetry};
use reqwest::{
    Client, Response, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    redirect, retry,
};
use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};
use tokio::time::{Instant, timeout, timeout_at};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How much is read of an answer that is an error.
const ERROR_BYTES: usize = 64 << 10;
/// And how long.
const ERROR_WAIT: Duration = Duration::from_secs(5);

/// A service with its connections and its health.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) name: String,
    pub(super) model: String,
    pub(super) base_url: Url,
    pub(super) logprobs: bool,
    pub(super) dialect: Dialect,
    pub(super) gate: Gate,
    url: Url,
    silence: Duration,
    client: Client,
}

impl Endpoint {
    pub(super) fn new(service: &Service, limits: Limits) -> Result<Self, reqwest::Error> {
        let mut client = Client::builder()
            .user_agent(concat!("amaima/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers(service.dialect, service.key.as_ref()))
            .connect_timeout(CONNECT)
            // A key goes nowhere but where it was meant for.
            .redirect(redirect::Policy::none())
            // The one loop that tries again is ours.
            .retry(retry::never());
        if service.base_url.scheme() == "http" {
            // It starts also on a machine without root certificates.
            client = client.tls_certs_only([]);
        }
        if is_this_machine(&service.base_url) {
            client = client.no_proxy();
        }
        let (path, query) = service.dialect.path(&service.model);
        let mut url = service.base_url.clone();
        url.set_path(&format!("{}/{path}", url.path().trim_end_matches('/')));
        url.set_query(query);
        Ok(Self {
            name: service.name.clone(),
            model: service.model.clone(),
            base_url: service.base_url.clone(),
            logprobs: service.logprobs,
            dialect: service.dialect,
            gate: Gate::new(&service.name),
            url,
            silence: limits.silence,
            client: client.build()?,
        })
    }

    /// Sends the request; comes back when an answer begins.
    pub(super) async fn ask(&self, request: &ChatRequest) -> Result<Reply, Fault> {
        let body = self.dialect.body(self, request);
        let sending = self.client.post(self.url.clone()).json(&body).send();
        let response = timeout(self.silence, sending)
            .await
            .map_err(|_| Fault::silent(self.silence))?
            .map_err(transport)?;
        let status = response.status();
        if status.is_success() {
            let kind = response.headers().get(CONTENT_TYPE);
            if kind.is_none_or(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
                return Ok(Reply {
                    sse: Sse::default(),
                    said: VecDeque::new(),
                    dialect: self.dialect,
                    silence: self.silence,
                    response,
                });
            }
        }
        let after = retry_after(response.headers());
        let body = timeout(ERROR_WAIT, beginning(response)).await;
        Err(Fault::of_status(
            status.as_u16(),
            after,
            &body.unwrap_or_default(),
        ))
    }
}

/// What every request to a service says of us.
fn headers(dialect: Dialect, key: Option<&Secret>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in dialect.headers() {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    let (name, before) = dialect.key_header();
    let value = key.map(|key| HeaderValue::try_from(format!("{before}{}", key.expose())));
    // What no header can hold is no key of anybody: the service will say that it got none.
    if let Some(Ok(mut value)) = value {
        value.set_sensitive(true);
        headers.insert(HeaderName::from_static(name), value);
    }
    headers
}

/// Whether a proxy would be in the way.
fn is_this_machine(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    })
}

/// An answer that has begun.
#[derive(Debug)]
pub(super) struct Reply {
    response: Response,
    sse: Sse,
    said: VecDeque<Said>,
    dialect: Dialect,
    silence: Duration,
}

impl Reply {
    /// What is said next; `None` where the stream ends.
    pub(super) async fn next(&mut self) -> Result<Option<Said>, Fault> {
        // Counted from here, since it may be the consumer who was slow. Whoever sends a bit of a
        // line now and then is as silent as who sends nothing.
        let mut until = Instant::now() + self.silence;
        loop {
            if let Some(said) = self.said.pop_front() {
                return Ok(Some(said));
            }
            if let Some(event) = self.sse.next() {
                self.said.extend(self.dialect.read(&event)?);
                continue;
            }
            let bytes = timeout_at(until, self.response.chunk())
                .await
                .map_err(|_| Fault::silent(self.silence))?
                .map_err(transport)?;
            let Some(bytes) = bytes else {
                return Ok(None);
            };
            if self.sse.push(&bytes)? {
                until = Instant::now() + self.silence;
            }
        }
    }
}

/// What went wrong on the way, without the address.
fn transport(error: reqwest::Error) -> Fault {
    Fault::again(telemetry::chain(&error.without_url()))
}

/// As much of a body as an error needs.
async fn beginning(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(bytes)) = response.chunk().await {
        body.extend_from_slice(&bytes);
        if body.len() > ERROR_BYTES {
            return Vec::new();
        }
    }
    body
}

/// After how long the provider wants to be asked again: in seconds, or at a time.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let at = httpdate::parse_http_date(text).ok()?;
    Some(at.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_to_ask_again_is_said_in_seconds_or_as_a_time() {
        let after = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::try_from(text).expect("a header"));
            retry_after(&headers)
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after(" 0.25 "), Some(Duration::from_millis(250)));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let later = after("Mon, 01 Jan 2300 00:00:00 GMT");
        assert!(
            later.is_some_and(|wait| wait > Duration::from_secs(86_400)),
            "{later:?}"
        );
        for text in ["-1", "NaN", "1e300", "soon", ""] {
            assert_eq!(after(text), None, "{text:?}");
        }
    }

    #[test]
    fn no_proxy_stands_before_this_machine() {
        let is = |url: &str| is_this_machine(&Url::parse(url).expect("a URL"));
        assert!(
            is("http://localhost:11434/v1") && is("http://127.0.0.1:8080") && is("http://[::1]/v1")
        );
        assert!(!is("https://api.openai.com/v1") && !is("http://10.0.0.7"));
    }
}
