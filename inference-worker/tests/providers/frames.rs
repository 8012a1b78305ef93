//! Answers as each family of providers writes them.

use super::server::{Act, Asked};
use inference_worker::providers::Dialect;
use serde_json::{Value, json};

/// The head of an answer that is a stream until the connection ends.
pub const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

/// An answer that is no stream.
pub fn status(status: &str, headers: &str, body: &str) -> Vec<Act> {
    let length = body.len();
    send(&format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
    ))
}

/// These bytes and nothing else.
pub fn send(text: &str) -> Vec<Act> {
    vec![Act::Send(text.as_bytes().to_vec())]
}

/// A whole answer with these words.
pub fn whole(dialect: Dialect, words: &[&str]) -> Vec<Act> {
    let (begin, end) = around(dialect, words.len());
    let words = words.iter().map(|text| word(dialect, text));
    let frames: String = [begin].into_iter().chain(words).chain([end]).collect();
    send(&format!("{HEAD}{frames}"))
}

/// What was asked, in words.
pub fn question(dialect: Dialect, asked: &Asked) -> String {
    let text = match dialect {
        Dialect::OpenAi | Dialect::Anthropic => asked.body.pointer("/messages/0/content"),
        Dialect::Gemini => asked.body.pointer("/contents/0/parts/0/text"),
    };
    text.and_then(Value::as_str).expect("a question").to_owned()
}

fn data(frame: &Value) -> String {
    format!("data: {frame}\n\n")
}

fn event(name: &str, frame: &Value) -> String {
    format!("event: {name}\ndata: {frame}\n\n")
}

fn chunk(delta: &Value, finish: &Value) -> Value {
    json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000,
        "model": "the-model", "usage": null,
        "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]})
}

/// A frame with a word.
pub fn word(dialect: Dialect, text: &str) -> String {
    match dialect {
        Dialect::OpenAi => {
            let mut chunk = chunk(&json!({"content": text}), &Value::Null);
            chunk["choices"][0]["logprobs"] = json!({"content": [{"token": text, "logprob": -0.5,
                "bytes": text.as_bytes(), "top_logprobs": []}]});
            data(&chunk)
        }
        Dialect::Anthropic => event(
            "content_block_delta",
            &json!({"type": "content_block_delta", "index": 0,
                "delta": {"type": "text_delta", "text": text}}),
        ),
        Dialect::Gemini => data(&json!({"candidates": [{"index": 0,
            "content": {"role": "model", "parts": [{"text": text}]}}]})),
    }
}

/// What comes before and after the words, which were so many.
pub fn around(dialect: Dialect, words: usize) -> (String, String) {
    match dialect {
        Dialect::OpenAi => {
            let begin = chunk(&json!({"role": "assistant", "content": ""}), &Value::Null);
            let mut usage = chunk(&json!({}), &Value::Null);
            usage["choices"] = json!([]);
            usage["usage"] = json!({"prompt_tokens": 9, "completion_tokens": words,
                "total_tokens": 9 + words});
            let end = data(&chunk(&json!({}), &json!("stop"))) + &data(&usage);
            (data(&begin), end + "data: [DONE]\n\n")
        }
        Dialect::Anthropic => {
            let begin = event(
                "message_start",
                &json!({"type": "message_start", "message": {"id": "msg_1", "type": "message",
                    "role": "assistant", "model": "the-model", "content": [], "stop_reason": null,
                    "usage": {"input_tokens": 9, "output_tokens": 1}}}),
            ) + &event(
                "content_block_start",
                &json!({"type": "content_block_start", "index": 0,
                    "content_block": {"type": "text", "text": ""}}),
            ) + &event("ping", &json!({"type": "ping"}));
            let end = event(
                "content_block_stop",
                &json!({"type": "content_block_stop", "index": 0}),
            ) + &event(
                "message_delta",
                &json!({"type": "message_delta",
                    "delta": {"stop_reason": "end_turn", "stop_sequence": null},
                    "usage": {"output_tokens": words}}),
            ) + &event("message_stop", &json!({"type": "message_stop"}));
            (begin, end)
        }
        Dialect::Gemini => {
            let end = data(&json!({"candidates": [{"index": 0, "finishReason": "STOP",
                    "content": {"role": "model", "parts": [{"text": ""}]}}],
                "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": words,
                    "totalTokenCount": 9 + words}}));
            (String::new(), end)
        }
    }
}
