//! Messages (<https://docs.anthropic.com/en/api/messages-streaming>).

use super::{Reason, Said, cannot, set, split_system, unreadable};
use crate::providers::{endpoint::Endpoint, fault::Fault};
use engine::{ResponseFormat, provider::ChatRequest};
use serde::Deserialize;
use serde_json::{Value, json};

pub(super) fn refuse(request: &ChatRequest) -> Result<(), engine::Error> {
    let wishes = &request.wishes;
    if wishes.temperature.is_some_and(|t| t > 1.0) {
        return Err(engine::Error::Request {
            field: "temperature",
            reason: "anthropic takes 0 to 1".to_owned(),
        });
    }
    let refused = [
        ("min_p", wishes.min_p.is_some_and(|p| p > 0.0)),
        (
            "presence_penalty",
            wishes.presence_penalty.is_some_and(|p| p != 0.0),
        ),
        (
            "frequency_penalty",
            wishes.frequency_penalty.is_some_and(|p| p != 0.0),
        ),
        ("logit_bias", !wishes.logit_bias.is_empty()),
        ("seed", wishes.seed.is_some()),
        ("logprobs", request.logprobs.is_some()),
        (
            "response_format",
            request.response_format != ResponseFormat::Text,
        ),
        ("messages", split_system(request).1.is_empty()),
    ];
    match refused.iter().find(|(_, is_wished)| *is_wished) {
        Some((field, _)) => Err(cannot(field, "anthropic")),
        None => Ok(()),
    }
}

pub(super) fn body(endpoint: &Endpoint, request: &ChatRequest) -> Value {
    let (system, messages) = split_system(request);
    let wishes = &request.wishes;
    let mut body = json!({
        "model": endpoint.model,
        "messages": messages,
        "max_tokens": request.max_new_tokens,
        "stream": true,
    });
    set(&mut body, "system", system);
    set(&mut body, "temperature", wishes.temperature);
    set(&mut body, "top_p", wishes.top_p);
    set(&mut body, "top_k", wishes.top_k.filter(|k| *k > 0));
    if !request.stop.is_empty() {
        body["stop_sequences"] = json!(request.stop);
    }
    body
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    MessageStart {
        message: Start,
    },
    ContentBlockDelta {
        delta: Delta,
    },
    MessageDelta {
        delta: End,
        usage: Option<Usage>,
    },
    MessageStop,
    Error {
        error: Value,
    },
    /// `ping`, the frames around blocks, and what may come one day.
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Start {
    usage: Option<Usage>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Delta {
    TextDelta {
        text: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct End {
    stop_reason: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    input_tokens: Option<usize>,
    #[serde(default)]
    cache_creation_input_tokens: Option<usize>,
    #[serde(default)]
    cache_read_input_tokens: Option<usize>,
    output_tokens: Option<usize>,
}

impl Usage {
    /// Cached tokens of the prompt are counted apart from the others.
    fn said(&self) -> Said {
        let cached = [
            self.cache_creation_input_tokens,
            self.cache_read_input_tokens,
        ];
        let cached: usize = cached.into_iter().flatten().sum();
        Said::Cost {
            prompt: self.input_tokens.map(|tokens| tokens + cached),
            completion: self.output_tokens,
        }
    }
}

pub(super) fn read(data: &str) -> Result<Vec<Said>, Fault> {
    let event: Event = serde_json::from_str(data).map_err(|error| unreadable(&error))?;
    Ok(match event {
        Event::MessageStart { message } => message.usage.iter().map(Usage::said).collect(),
        Event::ContentBlockDelta {
            delta: Delta::TextDelta { text },
        } => vec![Said::Text(text, vec![])],
        Event::MessageDelta { delta, usage } => {
            let finished = delta.stop_reason.map(|reason| match reason.as_str() {
                "max_tokens" | "model_context_window_exceeded" => Reason::Length,
                "refusal" => Reason::Withheld,
                _ => Reason::Stop,
            });
            let cost = usage.iter().map(Usage::said);
            cost.chain(finished.map(Said::Finished)).collect()
        }
        Event::MessageStop => vec![Said::Done],
        Event::Error { error } => return Err(Fault::in_band(&error)),
        Event::ContentBlockDelta {
            delta: Delta::Other,
        }
        | Event::Other => vec![],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(event: &Value) -> Vec<Said> {
        read(&event.to_string()).expect("a good event")
    }

    #[test]
    fn events_say_text_reasons_and_cost() {
        let usage = json!({"input_tokens": 3, "cache_creation_input_tokens": 4,
            "cache_read_input_tokens": 5, "output_tokens": 1});
        let start = json!({"type": "message_start", "message": {"role": "assistant",
            "content": [], "usage": usage}});
        let cost = |prompt, completion| Said::Cost { prompt, completion };
        assert_eq!(said(&start), [cost(Some(12), Some(1))]);
        let delta =
            |delta: Value| json!({"type": "content_block_delta", "index": 0, "delta": delta});
        let text = delta(json!({"type": "text_delta", "text": "Hi"}));
        assert_eq!(said(&text), [Said::Text("Hi".to_owned(), vec![])]);
        let thinking = delta(json!({"type": "thinking_delta", "thinking": "hm"}));
        assert_eq!(said(&thinking), []);
        for other in [
            "ping",
            "content_block_start",
            "content_block_stop",
            "to_come",
        ] {
            assert_eq!(said(&json!({"type": other, "index": 0})), []);
        }
        for (reason, expected) in [
            ("end_turn", Reason::Stop),
            ("stop_sequence", Reason::Stop),
            ("max_tokens", Reason::Length),
            ("refusal", Reason::Withheld),
        ] {
            let end = json!({"type": "message_delta", "delta": {"stop_reason": reason},
                "usage": {"output_tokens": 7}});
            assert_eq!(said(&end), [cost(None, Some(7)), Said::Finished(expected)]);
        }
        assert_eq!(said(&json!({"type": "message_stop"})), [Said::Done]);
    }
}
