//! What each family is sent.

use super::{KEY, frames, provider, server::Server, service};
use engine::{
    Message, ResponseFormat,
    provider::{ChatRequest, Wishes},
};
use inference_worker::providers::Dialect;
use serde_json::{Value, json};

/// Line, headers and body of the request that this becomes.
async fn sent(dialect: Dialect, request: ChatRequest) -> (String, Vec<String>, Value) {
    let server = Server::start(move |_, _| frames::whole(dialect, &["well"])).await;
    let mut service = service(&server, dialect);
    service.base_url.set_path("/behind/");
    service.logprobs = dialect == Dialect::OpenAi;
    let mut answer = provider(vec![service]).answer(request).expect("taken");
    while answer.next().await.is_some() {}
    let asked = server.asked().remove(0);
    (asked.line, asked.headers, asked.body)
}

fn conversation() -> Vec<Message> {
    [
        ("system", "Be short."),
        ("user", "Hi"),
        ("assistant", "Yes?"),
        ("user", "Why?"),
    ]
    .map(|(role, content)| Message {
        role: role.into(),
        content: content.into(),
    })
    .to_vec()
}

fn request() -> ChatRequest {
    ChatRequest {
        wishes: Wishes {
            temperature: Some(0.5),
            top_p: Some(0.75),
            ..Wishes::default()
        },
        stop: vec!["END".to_owned()],
        ..ChatRequest::new(conversation(), 77)
    }
}

fn schema() -> Value {
    json!({"type": "object", "properties": {"a": {"type": "integer"}}})
}

#[tokio::test]
async fn openai_is_sent_chat_completions() {
    let wished = ChatRequest {
        wishes: Wishes {
            seed: Some(u64::MAX),
            presence_penalty: Some(0.5),
            top_k: Some(40),
            logit_bias: vec![(7, -100.0)],
            ..request().wishes
        },
        response_format: ResponseFormat::JsonSchema(schema()),
        logprobs: Some(2),
        ..request()
    };
    let (line, headers, body) = sent(Dialect::OpenAi, wished).await;
    assert_eq!(line, "POST /behind/chat/completions HTTP/1.1");
    assert!(
        headers.contains(&format!("authorization: bearer {KEY}")),
        "{headers:?}"
    );
    let expected = json!({
        "model": "the-model",
        "messages": conversation(),
        "stream": true,
        "stream_options": {"include_usage": true},
        "max_tokens": 77,
        "temperature": 0.5,
        "top_p": 0.75,
        "top_k": 40,
        "presence_penalty": 0.5,
        "seed": i64::MAX,
        "stop": ["END"],
        "logit_bias": {"7": -100.0},
        "response_format": {"type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema(), "strict": true}},
        "logprobs": true,
        "top_logprobs": 2,
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn anthropic_is_sent_messages() {
    let (line, headers, body) = sent(Dialect::Anthropic, request()).await;
    assert_eq!(line, "POST /behind/v1/messages HTTP/1.1");
    for header in [
        format!("x-api-key: {KEY}"),
        "anthropic-version: 2023-06-01".to_owned(),
    ] {
        assert!(headers.contains(&header), "{headers:?}");
    }
    let expected = json!({
        "model": "the-model",
        "system": "Be short.",
        "messages": conversation()[1..],
        "max_tokens": 77,
        "stream": true,
        "temperature": 0.5,
        "top_p": 0.75,
        "stop_sequences": ["END"],
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn gemini_is_sent_contents() {
    let wished = ChatRequest {
        response_format: ResponseFormat::JsonSchema(schema()),
        ..request()
    };
    let (line, headers, body) = sent(Dialect::Gemini, wished).await;
    let path = "/behind/v1beta/models/the-model:streamGenerateContent?alt=sse";
    assert_eq!(line, format!("POST {path} HTTP/1.1"));
    assert!(
        headers.contains(&format!("x-goog-api-key: {KEY}")),
        "{headers:?}"
    );
    let expected = json!({
        "systemInstruction": {"parts": [{"text": "Be short."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Hi"}]},
            {"role": "model", "parts": [{"text": "Yes?"}]},
            {"role": "user", "parts": [{"text": "Why?"}]},
        ],
        "generationConfig": {"maxOutputTokens": 77, "temperature": 0.5, "topP": 0.75,
            "stopSequences": ["END"], "responseMimeType": "application/json",
            "responseJsonSchema": schema()},
    });
    assert_eq!(body, expected);
}
