//! `POST /v1/query`: asks, and waits for the answer.

use super::{cancelled, end_of};
use crate::{
    app::App,
    ask,
    edge::{self, Call, Caller, Error, Fields, Key, Writes},
    openapi::Doc,
};
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use domain::{
    id::QueryId,
    wire::{
        command::Via,
        error::{Code, Failure},
        rest::FileReference,
        socket::SubmitQuery,
        token::Terminal,
    },
};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;

pub(crate) const DOC: Doc = Doc::post("/v1/query", "Ask, and wait for the answer")
    .by_key::<Writes>()
    .takes("Submission")
    .answers(200, "QueryAnswer")
    .headers(&["Prefer"])
    .refuses(&[
        Code::FileNotFound,
        Code::Conflict,
        Code::QueryTimeout,
        Code::QueryProcessingError,
        Code::QueryModelError,
        Code::QueryRoutingError,
    ]);

#[derive(Debug, Serialize)]
struct Answer {
    query_id: QueryId,
    response_text: String,
    model_used: String,
    confidence: Option<f64>,
    latency_ms: u64,
    supports_streaming: bool,
    file_references: Option<Vec<FileReference>>,
}

#[derive(Debug, Serialize)]
struct Queued {
    query_id: QueryId,
    status: &'static str,
    supports_streaming: bool,
}

pub(crate) async fn handle(
    State(app): State<App>,
    call: Call,
    caller: Caller<Writes>,
    key: Key,
    headers: HeaderMap,
    body: edge::Body,
) -> Result<Response, Error> {
    let (sent, problems) = read(&body);
    let draft = ask::check(caller.user, sent, key.as_deref(), problems)?;
    let known = ask::submit(&app, &call, caller.user, Via::Rest, draft).await?;
    if prefers_async(&headers) {
        let queued = Queued {
            query_id: known.query,
            status: "queued",
            supports_streaming: true,
        };
        let applied = [("preference-applied", "respond-async")];
        return Ok((StatusCode::ACCEPTED, applied, Json(queued)).into_response());
    }
    let (_, terminal) = end_of(&app, &call, caller.user, known).await?;
    Ok(Json(ended(known.query, &terminal)?).into_response())
}

fn ended(query: QueryId, terminal: &Terminal) -> Result<Answer, Failure> {
    match terminal {
        Terminal::Completed { answer } => Ok(Answer {
            query_id: query,
            response_text: answer.response_text.clone(),
            model_used: answer.model_used.clone(),
            confidence: answer.confidence,
            latency_ms: answer.latency_ms,
            supports_streaming: true,
            file_references: None,
        }),
        Terminal::Failed { code, message } => Err(Failure::new(*code, message.clone())),
        Terminal::Cancelled => Err(cancelled()),
    }
}

/// Reads the body's fields; what is wrong with them comes beside.
fn read(body: &edge::Body) -> (SubmitQuery, Vec<domain::wire::error::Detail>) {
    let mut fields = Fields::of(body);
    let mut own = |name| fields.text(name).map(str::to_owned);
    let (query, operation) = (own("query"), own("operation"));
    let query_id = own("query_id").or_else(|| own("queryId"));
    let file_ids = Some(fields.texts("file_ids"));
    let context = fields
        .object("context")
        .or_else(|| fields.object("metadata"))
        .cloned();
    let sent = SubmitQuery {
        query,
        operation,
        query_id,
        file_ids,
        context,
    };
    (sent, fields.problems)
}

/// RFC 7240: preferences are separated by commas and may have parameters.
fn prefers_async(headers: &HeaderMap) -> bool {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value: &HeaderValue| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|preference| preference.split(';').next())
        .any(|preference| preference.trim().eq_ignore_ascii_case("respond-async"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn body(value: serde_json::Value) -> edge::Body {
        let serde_json::Value::Object(object) = value else {
            unreachable!()
        };
        edge::Body(object)
    }

    #[test]
    fn synonyms_are_read() {
        let (sent, problems) = read(&body(
            json!({"query": "Why?", "queryId": "q", "metadata": {"source": "android"}}),
        ));
        assert_eq!(problems, []);
        assert_eq!(sent.query_id.as_deref(), Some("q"));
        assert_eq!(sent.context, Some(json!({"source": "android"})));
        let (_, problems) = read(&body(json!({"query": 5, "file_ids": "x", "context": 1})));
        let fields: Vec<_> = problems.iter().map(|p| p.field.as_str()).collect();
        assert_eq!(fields, ["query", "file_ids", "context"]);
    }

    #[test]
    fn headers_are_understood() {
        let with = |name: &'static str, value: &str| {
            let value = HeaderValue::from_str(value).unwrap();
            HeaderMap::from_iter([(http::HeaderName::from_static(name), value)])
        };
        assert!(prefers_async(&with("prefer", "wait=5, Respond-Async; x=1")));
        assert!(!prefers_async(&with("prefer", "respond-asynchronously")));
    }

    #[test]
    fn the_answer_has_the_contracts_keys() {
        let answer = Answer {
            query_id: QueryId::new(uuid::Uuid::from_u128(9)),
            response_text: "…".into(),
            model_used: "m".into(),
            confidence: Some(0.95),
            latency_ms: 150,
            supports_streaming: true,
            file_references: None,
        };
        insta::assert_json_snapshot!(answer);
        let failed = Terminal::Failed {
            code: Code::QueryModelError,
            message: "The model failed".into(),
        };
        let query = QueryId::new(uuid::Uuid::nil());
        assert_eq!(ended(query, &failed).unwrap_err().code.status(), 502);
        assert_eq!(
            ended(query, &Terminal::Cancelled).unwrap_err().code,
            Code::Conflict
        );
    }
}
