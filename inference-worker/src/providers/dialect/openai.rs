//! Chat Completions (<https://platform.openai.com/docs/api-reference/chat-streaming>). What others
//! leave out of it is optional here: usage, `[DONE]`, log-probabilities.

use super::{Reason, Said, cannot, set, unreadable};
use crate::providers::{endpoint::Endpoint, fault::Fault};
use engine::{
    ResponseFormat,
    provider::{Alternative, ChatRequest, Token},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// OpenAI's own service refuses fields that it does not know; other servers know more of them.
fn is_openai(endpoint: &Endpoint) -> bool {
    endpoint.base_url.host_str() == Some("api.openai.com")
}

pub(super) fn refuse(endpoint: &Endpoint, request: &ChatRequest) -> Result<(), engine::Error> {
    let wishes = &request.wishes;
    if is_openai(endpoint) {
        if wishes.top_k.is_some_and(|k| k > 0) {
            return Err(cannot("top_k", "openai"));
        }
        if wishes.min_p.is_some_and(|p| p > 0.0) {
            return Err(cannot("min_p", "openai"));
        }
    }
    if request.logprobs.is_some() && !endpoint.logprobs {
        return Err(cannot("logprobs", &endpoint.name));
    }
    if matches!(request.response_format, ResponseFormat::Regex(_)) {
        return Err(cannot("response_format", &endpoint.name));
    }
    Ok(())
}

pub(super) fn body(endpoint: &Endpoint, request: &ChatRequest) -> Value {
    let wishes = &request.wishes;
    let mut body = json!({
        "model": endpoint.model,
        "messages": request.messages,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    // Newer models of OpenAI refuse the old name, other servers know only that.
    let most = match is_openai(endpoint) {
        true => "max_completion_tokens",
        false => "max_tokens",
    };
    body[most] = json!(request.max_new_tokens);
    set(&mut body, "temperature", wishes.temperature);
    set(&mut body, "top_p", wishes.top_p);
    set(&mut body, "top_k", wishes.top_k.filter(|k| *k > 0));
    set(&mut body, "min_p", wishes.min_p.filter(|p| *p > 0.0));
    set(&mut body, "presence_penalty", wishes.presence_penalty);
    set(&mut body, "frequency_penalty", wishes.frequency_penalty);
    // A seed is a signed number of 64 bits there.
    set(
        &mut body,
        "seed",
        wishes.seed.map(|seed| seed & (u64::MAX >> 1)),
    );
    if !request.stop.is_empty() {
        body["stop"] = json!(request.stop);
    }
    if !wishes.logit_bias.is_empty() {
        let biases = wishes.logit_bias.iter();
        let biases: Map<String, Value> = biases
            .map(|(id, bias)| (id.to_string(), json!(bias)))
            .collect();
        body["logit_bias"] = Value::Object(biases);
    }
    let format = match &request.response_format {
        ResponseFormat::JsonObject => Some(json!({"type": "json_object"})),
        ResponseFormat::JsonSchema(schema) => Some(json!({
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": true},
        })),
        ResponseFormat::Text | ResponseFormat::Regex(_) => None,
    };
    set(&mut body, "response_format", format);
    if endpoint.logprobs {
        body["logprobs"] = json!(true);
        set(
            &mut body,
            "top_logprobs",
            request.logprobs.filter(|top| *top > 0),
        );
    }
    body
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<Value>,
    object: Option<String>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Option<Delta>,
    finish_reason: Option<String>,
    logprobs: Option<Logprobs>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
    refusal: Option<String>,
}

#[derive(Deserialize)]
struct Logprobs {
    content: Option<Vec<Told>>,
}

#[derive(Deserialize)]
struct Told {
    token: String,
    logprob: f32,
    bytes: Option<Vec<u8>>,
    #[serde(default)]
    top_logprobs: Vec<Told>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<usize>,
    completion_tokens: Option<usize>,
}

pub(super) fn read(data: &str) -> Result<Vec<Said>, Fault> {
    if data.trim() == "[DONE]" {
        return Ok(vec![Said::Done]);
    }
    let event: Event = serde_json::from_str(data).map_err(|error| unreadable(&error))?;
    if let Some(error) = event.error.filter(|error| !error.is_null()) {
        return Err(Fault::in_band(&error));
    }
    if event.object.as_deref() == Some("error") {
        let error = serde_json::from_str(data).unwrap_or(Value::Null);
        return Err(Fault::in_band(&error));
    }
    let mut said = Vec::new();
    if let Some(choice) = event.choices.into_iter().next() {
        let delta = choice.delta;
        let (content, refusal) = delta.map_or((None, None), |delta| (delta.content, delta.refusal));
        let told = choice.logprobs.and_then(|logprobs| logprobs.content);
        let tokens: Vec<Token> = told.unwrap_or_default().into_iter().map(token).collect();
        // A refusal is the answer that the user gets, in words.
        let text = content.filter(|text| !text.is_empty()).or(refusal);
        let text = text.unwrap_or_default();
        if !text.is_empty() || !tokens.is_empty() {
            said.push(Said::Text(text, tokens));
        }
        if let Some(reason) = choice.finish_reason {
            said.push(Said::Finished(match reason.as_str() {
                "length" => Reason::Length,
                "content_filter" => Reason::Withheld,
                _ => Reason::Stop,
            }));
        }
    }
    if let Some(usage) = event.usage {
        said.push(Said::Cost {
            prompt: usage.prompt_tokens,
            completion: usage.completion_tokens,
        });
    }
    Ok(said)
}

fn token(told: Told) -> Token {
    let top = told.top_logprobs.iter().map(|top| Alternative {
        bytes: bytes(&top.token, top.bytes.as_ref()),
        logprob: top.logprob,
    });
    Token {
        id: None,
        logprob: told.logprob,
        top: top.collect(),
        bytes: bytes(&told.token, told.bytes.as_ref()),
    }
}

fn bytes(token: &str, bytes: Option<&Vec<u8>>) -> Vec<u8> {
    bytes.map_or_else(|| token.as_bytes().to_vec(), Clone::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(event: &Value) -> Vec<Said> {
        read(&event.to_string()).expect("a good event")
    }

    fn text(text: &str) -> Said {
        Said::Text(text.to_owned(), vec![])
    }

    #[test]
    fn events_say_text_reasons_and_cost() {
        let choice =
            |choice: Value| json!({"object": "chat.completion.chunk", "choices": [choice]});
        let delta = |delta: Value| choice(json!({"index": 0, "delta": delta}));
        assert_eq!(
            said(&delta(json!({"role": "assistant", "content": ""}))),
            []
        );
        assert_eq!(
            said(&delta(json!({"content": null, "reasoning": "hm"}))),
            []
        );
        assert_eq!(said(&delta(json!({"content": "Hi"}))), [text("Hi")]);
        assert_eq!(
            said(&delta(json!({"content": null, "refusal": "No"}))),
            [text("No")]
        );
        for (reason, expected) in [
            ("stop", Reason::Stop),
            ("length", Reason::Length),
            ("content_filter", Reason::Withheld),
        ] {
            // Some put the last text and the cost into the frame with the reason.
            let mut last = choice(json!({"delta": {"content": "!"}, "finish_reason": reason}));
            last["usage"] = json!({"prompt_tokens": 3, "completion_tokens": 2});
            let cost = Said::Cost {
                prompt: Some(3),
                completion: Some(2),
            };
            assert_eq!(said(&last), [text("!"), Said::Finished(expected), cost]);
        }
        assert_eq!(said(&json!({"choices": [], "usage": null})), []);
        assert_eq!(read(" [DONE]"), Ok(vec![Said::Done]));
    }

    #[test]
    fn tokens_come_with_their_log_probabilities() {
        let told = json!({"choices": [{"delta": {"content": "☀"}, "logprobs": {"content": [
            {"token": "\\xe2\\x98", "logprob": -0.25, "bytes": [0xe2, 0x98], "top_logprobs": [
                {"token": "a", "logprob": -2.0, "bytes": null}]},
            {"token": "\\x80", "logprob": -0.5, "bytes": [0x80]},
        ]}}]});
        let token = |bytes: &[u8], logprob, top: Vec<Alternative>| Token {
            id: None,
            bytes: bytes.to_vec(),
            logprob,
            top,
        };
        let top = Alternative {
            bytes: b"a".to_vec(),
            logprob: -2.0,
        };
        let tokens = vec![
            token(&[0xe2, 0x98], -0.25, vec![top]),
            token(&[0x80], -0.5, vec![]),
        ];
        assert_eq!(said(&told), [Said::Text("☀".to_owned(), tokens)]);
    }
}
