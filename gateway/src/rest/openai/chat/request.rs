//! Reading a request. What changes an answer and is not supported is refused by name; what is known
//! to change nothing here is ignored.

use super::{
    content::{self, Problem},
    error,
};
use crate::{
    ask,
    edge::{Body, Error, Fields},
};
use domain::{
    limits,
    query::{
        Options, Submission,
        options::{Format, MESSAGES, Message, TOP_LOGPROBS},
    },
    wire::error::{Detail, DetailKind},
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A request that was read.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) submission: Submission,
    pub(super) streamed: bool,
    /// Whether a stream tells what the answer cost.
    pub(super) with_usage: bool,
}

/// What is read below.
const KNOWN: &[&str] = &[
    "model",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "stop",
    "logprobs",
    "top_logprobs",
    "response_format",
    "stream",
    "stream_options",
    "user",
    "metadata",
    // Names of whoever asks and of caches, which change no answer.
    "safety_identifier",
    "prompt_cache_key",
];

/// What says with these values no more than its absence.
fn is_default(name: &str, value: &Value) -> bool {
    match name {
        "n" => *value == json!(1),
        "store" | "parallel_tool_calls" => value.is_boolean(),
        "service_tier" => *value == json!("auto") || *value == json!("default"),
        "modalities" => *value == json!(["text"]),
        "tools" | "functions" => *value == json!([]),
        "tool_choice" | "function_call" => *value == json!("none") || *value == json!("auto"),
        _ => false,
    }
}

pub(super) fn read(body: &Body) -> Result<Wanted, Error> {
    for (name, value) in &body.0 {
        let is_harmless = value.is_null() || is_default(name, value);
        if !KNOWN.contains(&name.as_str()) && !is_harmless {
            let rule = match name.as_str() {
                "n" => "Must be 1: one answer for each request",
                _ => "Is not supported",
            };
            let name: String = name.chars().take(64).collect();
            return Err(error::unsupported(&name, rule));
        }
    }
    let mut fields = Fields::of(body);
    let model = fields.required_text("model").to_owned();
    let messages = messages(&mut fields)?;
    let asked = if fields.get("max_completion_tokens").is_some() {
        "max_completion_tokens"
    } else {
        "max_tokens"
    };
    let options = Options {
        model: Some(model),
        max_tokens: count(&mut fields, asked),
        temperature: fields.number("temperature"),
        top_p: fields.number("top_p"),
        top_k: count(&mut fields, "top_k"),
        min_p: fields.number("min_p"),
        presence_penalty: fields.number("presence_penalty"),
        frequency_penalty: fields.number("frequency_penalty"),
        logit_bias: biases(&mut fields),
        seed: seed(&mut fields),
        stop: stops(&mut fields),
        logprobs: logprobs(&mut fields),
        format: format(&mut fields)?,
        messages,
    };
    let streamed = fields.flag("stream");
    let with_usage = with_usage(&mut fields, streamed);
    let context = context(&mut fields);
    for mut problem in options.problems() {
        problem.field = match problem.field.as_str() {
            "max_tokens" => asked.to_owned(),
            "logprobs" => "top_logprobs".to_owned(),
            "format" => "response_format".to_owned(),
            _ => problem.field,
        };
        fields.problems.push(problem);
    }
    if !fields.problems.is_empty() {
        return Err(error::refused(fields.problems));
    }
    Ok(Wanted {
        submission: Submission {
            text: title(&options.messages),
            operation: "general".to_owned(),
            file_ids: vec![],
            context,
            reference: None,
            options: Some(Box::new(options)),
        },
        streamed,
        with_usage,
    })
}

/// By which a person recognises the conversation in a list: its last message, or its beginning.
fn title(messages: &[Message]) -> String {
    let last = messages.last().map_or("", |message| message.content.trim());
    last.chars().take(limits::QUERY_CHARS).collect()
}

fn messages(fields: &mut Fields<'_>) -> Result<Vec<Message>, Error> {
    let values = match fields.get("messages") {
        None => {
            fields.problems.push(Detail::missing("messages"));
            return Ok(vec![]);
        }
        Some(Value::Array(values)) if !values.is_empty() => values,
        Some(_) => {
            let rule = "Must be a list with at least one message";
            fields.problem("messages", DetailKind::InvalidFormat, rule);
            return Ok(vec![]);
        }
    };
    let mut messages = vec![];
    // One more than there may be, for the rule to be told.
    for (index, value) in values.iter().enumerate().take(MESSAGES + 1) {
        match content::message(index, value) {
            Ok(message) => messages.push(message),
            Err(Problem::Wrong(detail)) => fields.problems.push(detail),
            Err(Problem::Unsupported { parameter, rule }) => {
                return Err(error::unsupported(&parameter, &rule));
            }
        }
    }
    // As it goes over the bus, where a message has a bound.
    let bytes = serde_json::to_string(&messages).map_or(usize::MAX, |text| text.len());
    if bytes > limits::CONVERSATION_BYTES {
        let rule = format!("At most {} bytes as JSON", limits::CONVERSATION_BYTES);
        fields.problem("messages", DetailKind::TooLarge, &rule);
    }
    if messages
        .last()
        .is_some_and(|last| last.content.trim().is_empty())
    {
        let field = format!("messages.{}.content", messages.len() - 1);
        fields.problem(&field, DetailKind::InvalidValue, "Must not be blank");
    }
    Ok(messages)
}

fn count(fields: &mut Fields<'_>, name: &str) -> Option<u32> {
    let number = fields.whole(name)?;
    // More than anybody can have is no limit.
    Some(u32::try_from(number).unwrap_or(u32::MAX))
}

fn seed(fields: &mut Fields<'_>) -> Option<u64> {
    let value = fields.get("seed")?;
    let seed = value.as_u64().or(value.as_i64().map(i64::cast_unsigned));
    if seed.is_none() {
        let rule = "Must be a whole number of 64 bits";
        fields.problem("seed", DetailKind::InvalidFormat, rule);
    }
    seed
}

fn stops(fields: &mut Fields<'_>) -> Vec<String> {
    match fields.get("stop") {
        Some(Value::String(stop)) => vec![stop.clone()],
        _ => fields.texts("stop"),
    }
}

fn biases(fields: &mut Fields<'_>) -> BTreeMap<u32, f64> {
    let Some(value) = fields.get("logit_bias") else {
        return BTreeMap::new();
    };
    let read = value.as_object().and_then(|biases| {
        let each = biases.iter();
        each.map(|(token, bias)| Some((token.parse().ok()?, bias.as_f64()?)))
            .collect()
    });
    read.unwrap_or_else(|| {
        let rule = "Must be an object of numbers by token id";
        fields.problem("logit_bias", DetailKind::InvalidFormat, rule);
        BTreeMap::new()
    })
}

fn logprobs(fields: &mut Fields<'_>) -> Option<u8> {
    let wanted = fields.flag("logprobs");
    let top = fields.whole("top_logprobs");
    match top {
        Some(top) if !wanted && top > 0 => {
            let rule = "Needs logprobs to be true";
            fields.problem("top_logprobs", DetailKind::InvalidValue, rule);
            None
        }
        // What is too many is refused with the other options.
        top => wanted.then(|| {
            let top = top.unwrap_or(0);
            u8::try_from(top).unwrap_or(TOP_LOGPROBS + 1)
        }),
    }
}

fn format(fields: &mut Fields<'_>) -> Result<Option<Format>, Error> {
    let Some(format) = fields.get("response_format") else {
        return Ok(None);
    };
    match format["type"].as_str() {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Format::JsonObject)),
        Some("json_schema") => {
            let schema = &format["json_schema"]["schema"];
            if !schema.is_object() {
                let rule = "Must be a JSON Schema, an object";
                let field = "response_format.json_schema.schema";
                fields.problem(field, DetailKind::InvalidFormat, rule);
            }
            Ok(Some(Format::JsonSchema(schema.clone())))
        }
        Some(_) => {
            let rule = "Must be text, json_object or json_schema";
            Err(error::unsupported("response_format.type", rule))
        }
        None => {
            let rule = "Must be an object with a type";
            fields.problem("response_format", DetailKind::InvalidFormat, rule);
            Ok(None)
        }
    }
}

fn with_usage(fields: &mut Fields<'_>, streamed: bool) -> bool {
    let Some(options) = fields.get("stream_options") else {
        return false;
    };
    if !streamed {
        let rule = "Needs stream to be true";
        fields.problem("stream_options", DetailKind::InvalidValue, rule);
    }
    match &options["include_usage"] {
        Value::Null if options.is_object() => false,
        Value::Bool(wanted) => *wanted,
        _ => {
            let rule = "Must be true or false";
            let field = "stream_options.include_usage";
            fields.problem(field, DetailKind::InvalidFormat, rule);
            false
        }
    }
}

/// What the client tells beside the conversation is kept with the query, as it is elsewhere.
fn context(fields: &mut Fields<'_>) -> Option<Value> {
    let user = fields.text("user");
    let metadata = fields.get("metadata");
    if user.is_none() && metadata.is_none() {
        return None;
    }
    let mut context = metadata.cloned().unwrap_or_else(|| json!({}));
    if let (Some(user), Some(context)) = (user, context.as_object_mut()) {
        context.insert("user".to_owned(), user.into());
    }
    if let Some(mut problem) = ask::context_problem(&context) {
        problem.field = "metadata".to_owned();
        fields.problems.push(problem);
    }
    Some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(value: Value) -> Result<Wanted, Error> {
        let Value::Object(object) = value else {
            unreachable!()
        };
        read(&Body(object))
    }

    fn asking(more: Value) -> Result<Wanted, Error> {
        let mut value = json!({
            "model": "m", "messages": [{ "role": "user", "content": "Why?" }],
        });
        if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
            value.extend(more);
        }
        ask(value)
    }

    #[test]
    fn everything_that_is_supported_is_read() {
        let wanted = asking(json!({
            "messages": [
                { "role": "developer", "content": "Be brief." },
                { "role": "assistant", "content": "Yes?", "refusal": null, "tool_calls": [] },
                { "role": "user", "content": [
                    { "type": "text", "text": " Why " }, { "type": "text", "text": "so? " },
                ] },
            ],
            "max_tokens": 1, "max_completion_tokens": 5_000_000_000_u64, "temperature": 0,
            "top_p": 0.5, "top_k": 3, "min_p": 0.1, "presence_penalty": -2, "frequency_penalty": 2,
            "logit_bias": { "7": -100 }, "seed": -1, "stop": "\n", "logprobs": true,
            "top_logprobs": 2, "stream": true, "stream_options": { "include_usage": true },
            "response_format": { "type": "json_schema", "json_schema": {
                "name": "n", "strict": true, "schema": { "type": "object" },
            } },
            "user": "u1", "metadata": { "a": "b" }, "n": 1, "tools": [], "tool_choice": "auto",
            "store": false, "audio": null, "service_tier": "auto", "prompt_cache_key": "k",
        }))
        .unwrap();
        assert!(wanted.streamed && wanted.with_usage);
        insta::assert_json_snapshot!(wanted.submission);
        let plain = asking(json!({ "stop": ["a", "b"], "response_format": { "type": "text" } }));
        let plain = plain.unwrap();
        assert!(!plain.streamed && !plain.with_usage);
        assert_eq!(plain.submission.text, "Why?");
        let options = plain.submission.options.unwrap();
        assert_eq!(options.stop, ["a", "b"]);
        assert_eq!(options.format, None);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let message = |message: Value| json!({ "messages": [message] });
        let image = json!([{ "type": "image_url", "image_url": { "url": "x" } }]);
        let cases = [
            (json!({ "n": 2 }), "n"),
            (json!({ "tools": [{ "type": "function" }] }), "tools"),
            (json!({ "audio": {} }), "audio"),
            (json!({ "whatever": 1 }), "whatever"),
            (
                json!({ "response_format": { "type": "grammar" } }),
                "response_format.type",
            ),
            (
                message(json!({ "role": "user", "content": image })),
                "messages.0.content.0.type",
            ),
            (
                message(json!({ "role": "tool", "content": "x" })),
                "messages.0.role",
            ),
            (
                message(json!({ "role": "user", "content": "x", "name": "Mia" })),
                "messages.0.name",
            ),
        ];
        for (more, parameter) in cases {
            let error = asking(more).unwrap_err();
            assert_eq!(error.status, 400);
            assert_eq!(error.code, "unsupported_parameter");
            assert_eq!(error.details[0].field, parameter);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = "x".repeat(limits::CONVERSATION_BYTES);
        let message = |content: &str| json!({ "role": "user", "content": content });
        let cases = [
            (json!({ "model": null }), "model"),
            (json!({ "messages": null }), "messages"),
            (json!({ "messages": [] }), "messages"),
            (json!({ "messages": [message(&long)] }), "messages"),
            (
                json!({ "messages": vec![message("x"); MESSAGES + 1] }),
                "messages",
            ),
            (json!({ "messages": [message(" ")] }), "messages.0.content"),
            (
                json!({ "messages": [{ "role": "user" }] }),
                "messages.0.content",
            ),
            (
                json!({ "messages": [{ "content": "x" }] }),
                "messages.0.role",
            ),
            (
                json!({ "messages": [{ "role": "king", "content": "x" }] }),
                "messages.0.role",
            ),
            (json!({ "max_tokens": 0 }), "max_tokens"),
            (
                json!({ "max_completion_tokens": 0 }),
                "max_completion_tokens",
            ),
            (json!({ "temperature": 3 }), "temperature"),
            (json!({ "temperature": "hot" }), "temperature"),
            (json!({ "seed": 1.5 }), "seed"),
            (json!({ "stop": [1] }), "stop.0"),
            (json!({ "stop": "" }), "stop"),
            (json!({ "logit_bias": { "a": 1 } }), "logit_bias"),
            (json!({ "top_logprobs": 2 }), "top_logprobs"),
            (
                json!({ "logprobs": true, "top_logprobs": 21 }),
                "top_logprobs",
            ),
            (
                json!({ "logprobs": true, "top_logprobs": 300 }),
                "top_logprobs",
            ),
            (json!({ "response_format": "json" }), "response_format"),
            (
                json!({ "response_format": { "type": "json_schema" } }),
                "response_format.json_schema.schema",
            ),
            (
                json!({ "stream_options": { "include_usage": true } }),
                "stream_options",
            ),
            (
                json!({ "stream": true, "stream_options": 1 }),
                "stream_options.include_usage",
            ),
            (json!({ "metadata": 7 }), "metadata"),
        ];
        for (more, field) in cases {
            let error = asking(more.clone()).unwrap_err();
            assert_eq!(error.status, 400);
            let fields: Vec<&str> = error.details.iter().map(|one| one.field.as_str()).collect();
            assert_eq!(fields, [field], "{more}");
        }
    }
}
