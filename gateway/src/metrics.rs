//! What Prometheus is told (contract §14).

use domain::query::{Complexity, Submission};
use http::Method;
use infra::metrics::{END, append};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode_registry},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::time::Duration;

/// Upper bounds in seconds, from 5 ms to the longest wait of a query.
const BUCKETS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct HttpLabels {
    method: &'static str,
    endpoint: String,
    status: u16,
}

/// What kind of query it was. No label grows with what clients write.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) struct QueryKind {
    operation: &'static str,
    complexity: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct QueryLabels {
    operation: &'static str,
    status: &'static str,
    complexity: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LatencyLabels {
    operation: &'static str,
    model: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SocketLabels {
    user_id: &'static str,
}

type Histograms = Family<LatencyLabels, Histogram, fn() -> Histogram>;

/// The gateway's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<HttpLabels, Counter>,
    request_seconds: Histogram,
    queries: Family<QueryLabels, Counter>,
    query_seconds: Histograms,
    /// Open sockets, of all users together.
    sockets: Gauge,
}

impl QueryKind {
    pub(crate) fn of(submission: &Submission) -> Self {
        Self {
            operation: match submission.operation.as_str() {
                "general" => "general",
                "analysis" => "analysis",
                _ => "other",
            },
            complexity: Complexity::of(submission).as_str(),
        }
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let histogram = || Histogram::new(BUCKETS);
        let sockets = Family::<SocketLabels, Gauge>::default();
        let mut this = Self {
            registry: Registry::default(),
            requests: Family::default(),
            request_seconds: histogram(),
            queries: Family::default(),
            query_seconds: Family::new_with_constructor(histogram as fn() -> Histogram),
            sockets: sockets
                .get_or_create(&SocketLabels { user_id: "all" })
                .clone(),
        };
        // The encoder appends `_total` to counters.
        let registry = &mut this.registry;
        registry.register("http_requests", "HTTP requests", this.requests.clone());
        registry.register(
            "http_request_duration_seconds",
            "Time until the response's head, in seconds",
            this.request_seconds.clone(),
        );
        registry.register("amaima_queries", "Queries that ended", this.queries.clone());
        registry.register(
            "amaima_query_latency_seconds",
            "Time from submission to the end of a query, in seconds",
            this.query_seconds.clone(),
        );
        registry.register("amaima_websocket_connections", "Open sockets", sockets);
        this
    }

    pub(crate) fn answered(&self, method: &Method, endpoint: &str, status: u16, took: Duration) {
        let labels = HttpLabels {
            method: method_label(method),
            endpoint: endpoint.to_owned(),
            status,
        };
        self.requests.get_or_create(&labels).inc();
        self.request_seconds.observe(took.as_secs_f64());
    }

    /// `model` is known where there is an answer.
    pub(crate) fn query_ended(
        &self,
        kind: QueryKind,
        status: &'static str,
        model: Option<&str>,
        took: Duration,
    ) {
        let labels = QueryLabels {
            operation: kind.operation,
            status,
            complexity: kind.complexity,
        };
        self.queries.get_or_create(&labels).inc();
        let labels = LatencyLabels {
            operation: kind.operation,
            model: model.unwrap_or("none").to_owned(),
        };
        self.query_seconds
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    pub(crate) fn socket_opened(&self) {
        self.sockets.inc();
    }

    pub(crate) fn socket_closed(&self) {
        self.sockets.dec();
    }

    /// Everything, in the OpenMetrics text format.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        encode_registry(&mut text, &self.registry).ok();
        append(&mut text);
        text.push_str(END);
        text
    }
}

/// A client may invent methods.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        _ => "OTHER",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_are_the_contracts() {
        let metrics = Metrics::new();
        metrics.answered(&Method::GET, "/health", 200, Duration::from_millis(3));
        metrics.socket_opened();
        let kind = QueryKind::of(&Submission {
            text: "Why?".into(),
            operation: "haiku".into(),
            ..Submission::default()
        });
        metrics.query_ended(kind, "success", Some("demo"), Duration::from_secs(1));
        let text = metrics.text();
        for line in [
            r#"http_requests_total{method="GET",endpoint="/health",status="200"} 1"#,
            r#"http_request_duration_seconds_bucket{le="0.005"} 1"#,
            r#"amaima_queries_total{operation="other",status="success",complexity="simple"} 1"#,
            r#"amaima_query_latency_seconds_count{operation="other",model="demo"} 1"#,
            r#"amaima_websocket_connections{user_id="all"} 1"#,
        ] {
            assert!(text.contains(line), "{line}\nis not in\n{text}");
        }
    }
}
