//! `streamGenerateContent` (<https://ai.google.dev/api/generate-content>). A stream has no last
//! frame of its own: it ends after the one with a reason.

use super::{Reason, Said, cannot, set, split_system, unreadable};
use crate::providers::fault::Fault;
use engine::{ResponseFormat, provider::ChatRequest};
use serde::Deserialize;
use serde_json::{Value, json};

/// Stop strings that it takes at most.
const STOPS: usize = 5;

pub(super) fn refuse(request: &ChatRequest) -> Result<(), engine::Error> {
    let wishes = &request.wishes;
    if request.stop.len() > STOPS {
        return Err(engine::Error::Request {
            field: "stop",
            reason: format!("gemini takes at most {STOPS}"),
        });
    }
    let refused = [
        ("min_p", wishes.min_p.is_some_and(|p| p > 0.0)),
        ("logit_bias", !wishes.logit_bias.is_empty()),
        ("logprobs", request.logprobs.is_some()),
        (
            "response_format",
            matches!(request.response_format, ResponseFormat::Regex(_)),
        ),
        ("messages", split_system(request).1.is_empty()),
    ];
    match refused.iter().find(|(_, is_wished)| *is_wished) {
        Some((field, _)) => Err(cannot(field, "gemini")),
        None => Ok(()),
    }
}

pub(super) fn body(request: &ChatRequest) -> Value {
    let (system, messages) = split_system(request);
    let contents: Vec<Value> = messages
        .iter()
        .map(|message| {
            let role = match message.role.as_str() {
                "assistant" => "model",
                _ => "user",
            };
            json!({"role": role, "parts": [{"text": message.content}]})
        })
        .collect();
    let wishes = &request.wishes;
    let mut config = json!({"maxOutputTokens": request.max_new_tokens});
    set(&mut config, "temperature", wishes.temperature);
    set(&mut config, "topP", wishes.top_p);
    set(&mut config, "topK", wishes.top_k.filter(|k| *k > 0));
    set(&mut config, "presencePenalty", wishes.presence_penalty);
    set(&mut config, "frequencyPenalty", wishes.frequency_penalty);
    // A seed is a positive 32-bit number there.
    set(
        &mut config,
        "seed",
        wishes.seed.map(|seed| seed & 0x7fff_ffff),
    );
    if !request.stop.is_empty() {
        config["stopSequences"] = json!(request.stop);
    }
    match &request.response_format {
        ResponseFormat::Text | ResponseFormat::Regex(_) => {}
        ResponseFormat::JsonObject => config["responseMimeType"] = json!("application/json"),
        ResponseFormat::JsonSchema(schema) => {
            config["responseMimeType"] = json!("application/json");
            config["responseJsonSchema"] = schema.clone();
        }
    }
    let mut body = json!({"contents": contents, "generationConfig": config});
    let system = system.map(|text| json!({"parts": [{"text": text}]}));
    set(&mut body, "systemInstruction", system);
    body
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    #[serde(default)]
    candidates: Vec<Candidate>,
    usage_metadata: Option<UsageMetadata>,
    prompt_feedback: Option<Feedback>,
    error: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate {
    content: Option<Content>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Content {
    #[serde(default)]
    parts: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    text: Option<String>,
    /// A summary of the model's thoughts, which is not the answer.
    #[serde(default)]
    thought: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UsageMetadata {
    prompt_token_count: Option<usize>,
    candidates_token_count: Option<usize>,
    thoughts_token_count: Option<usize>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Feedback {
    block_reason: Option<String>,
}

pub(super) fn read(data: &str) -> Result<Vec<Said>, Fault> {
    let event: Event = serde_json::from_str(data).map_err(|error| unreadable(&error))?;
    if let Some(error) = event.error {
        return Err(Fault::in_band(&error));
    }
    let mut said = Vec::new();
    let blocked = event.prompt_feedback.and_then(|told| told.block_reason);
    if blocked.is_some() {
        said.push(Said::Finished(Reason::Withheld));
    }
    if let Some(usage) = event.usage_metadata {
        let written = [usage.candidates_token_count, usage.thoughts_token_count];
        let written = written.into_iter().flatten().reduce(|a, b| a + b);
        said.push(Said::Cost {
            prompt: usage.prompt_token_count,
            completion: written,
        });
    }
    if let Some(candidate) = event.candidates.into_iter().next() {
        let parts = candidate.content.map(|content| content.parts);
        let texts = parts.into_iter().flatten().filter(|part| !part.thought);
        let text: String = texts.filter_map(|part| part.text).collect();
        if !text.is_empty() {
            said.push(Said::Text(text, vec![]));
        }
        if let Some(reason) = candidate.finish_reason {
            said.push(Said::Finished(match reason.as_str() {
                "STOP" => Reason::Stop,
                "MAX_TOKENS" => Reason::Length,
                _ => Reason::Withheld,
            }));
        }
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(event: &Value) -> Vec<Said> {
        read(&event.to_string()).expect("a good event")
    }

    #[test]
    fn events_say_text_reasons_and_cost() {
        let parts = json!([{"text": "hm", "thought": true}, {"text": "Hi"}, {"text": " there"}]);
        let usage = json!({"promptTokenCount": 3, "candidatesTokenCount": 2,
            "thoughtsTokenCount": 5, "totalTokenCount": 10});
        let cost = Said::Cost {
            prompt: Some(3),
            completion: Some(7),
        };
        let text = Said::Text("Hi there".to_owned(), vec![]);
        for (reason, expected) in [
            ("STOP", Reason::Stop),
            ("MAX_TOKENS", Reason::Length),
            ("SAFETY", Reason::Withheld),
            ("RECITATION", Reason::Withheld),
        ] {
            let event = json!({"candidates": [{"content": {"role": "model", "parts": parts},
                "finishReason": reason, "index": 0}], "usageMetadata": usage});
            let expected = [cost.clone(), text.clone(), Said::Finished(expected)];
            assert_eq!(said(&event), expected);
        }
        assert_eq!(
            said(&json!({"candidates": [{"content": {"role": "model"}}]})),
            []
        );
        let blocked = json!({"promptFeedback": {"blockReason": "SAFETY"}});
        assert_eq!(said(&blocked), [Said::Finished(Reason::Withheld)]);
    }
}
