//! Metrics of what runs in this process beside the gateway, which appends them to its own; an
//! inference worker in a process of its own serves them itself.

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode_registry},
    metrics::{family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::{sync::LazyLock, time::Duration};

/// The format of [`append`], closed with [`END`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Closes a scrape.
pub const END: &str = "# EOF\n";

/// Upper bounds in seconds: a model in memory already, to one that comes over a network.
const LOAD_SECONDS: [f64; 12] = [
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];

/// Models are named by whoever runs the worker: there are few.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ModelLabels {
    model_name: String,
}

struct Models {
    registry: Registry,
    load_seconds: Family<ModelLabels, Histogram, fn() -> Histogram>,
    weights_bytes: Family<ModelLabels, Gauge>,
}

static MODELS: LazyLock<Models> = LazyLock::new(|| {
    let histogram = || Histogram::new(LOAD_SECONDS);
    let mut registry = Registry::default();
    let load_seconds = Family::new_with_constructor(histogram as fn() -> Histogram);
    let weights_bytes = Family::default();
    registry.register(
        "amaima_model_load_latency_seconds",
        "Time that loading a model took, in seconds",
        load_seconds.clone(),
    );
    registry.register(
        "amaima_model_weights_bytes",
        "Memory that a model's weights take, in bytes",
        weights_bytes.clone(),
    );
    Models {
        registry,
        load_seconds,
        weights_bytes,
    }
});

/// A model was loaded.
pub fn model_loaded(model: &str, took: Duration, weights_bytes: u64) {
    let labels = ModelLabels {
        model_name: model.to_owned(),
    };
    let loads = MODELS.load_seconds.get_or_create(&labels);
    loads.observe(took.as_secs_f64());
    let bytes = i64::try_from(weights_bytes).unwrap_or(i64::MAX);
    MODELS.weights_bytes.get_or_create(&labels).set(bytes);
}

/// Appends all of them in the OpenMetrics text format, without its end.
pub fn append(text: &mut String) {
    // Writing to a string does not fail.
    encode_registry(text, &MODELS.registry).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loaded_model_is_told_with_its_time_and_size() {
        model_loaded("a/model", Duration::from_millis(700), 1 << 30);
        let mut text = String::new();
        append(&mut text);
        for line in [
            r#"amaima_model_load_latency_seconds_bucket{le="0.5",model_name="a/model"} 0"#,
            r#"amaima_model_load_latency_seconds_bucket{le="1.0",model_name="a/model"} 1"#,
            r#"amaima_model_weights_bytes{model_name="a/model"} 1073741824"#,
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
