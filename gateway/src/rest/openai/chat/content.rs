//! The messages of a request: texts, or lists of parts that are texts.

use domain::{
    query::options::{Message, Role},
    wire::error::{Detail, DetailKind},
};
use serde_json::{Map, Value};

/// What a message may say beside its role and its content, for clients that send back what they
/// got: nothing but absence.
const EMPTY: &[&str] = &[
    "refusal",
    "annotations",
    "audio",
    "tool_calls",
    "function_call",
];

/// What is wrong with a message.
pub(super) enum Problem {
    /// A rule is broken.
    Wrong(Detail),
    /// It is more than this system can do.
    Unsupported { parameter: String, rule: String },
}

pub(super) fn message(index: usize, value: &Value) -> Result<Message, Problem> {
    let at = format!("messages.{index}");
    let Value::Object(message) = value else {
        return wrong(&at, DetailKind::InvalidFormat, "Must be an object");
    };
    let role = role(&at, message)?;
    for (name, value) in message {
        let name = name.as_str();
        let is_empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        let is_fine = matches!(name, "role" | "content") || is_empty && EMPTY.contains(&name);
        if !is_fine {
            return unsupported(format!("{at}.{name}"), "Is not supported");
        }
    }
    let at = format!("{at}.content");
    let content = match message.get("content") {
        None | Some(Value::Null) => return Err(Problem::Wrong(Detail::missing(&at))),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let texts = parts.iter().enumerate();
            texts
                .map(|(index, value)| part(&format!("{at}.{index}"), value))
                .collect::<Result<String, _>>()?
        }
        Some(_) => {
            let rule = "Must be a string or a list of parts";
            return wrong(&at, DetailKind::InvalidFormat, rule);
        }
    };
    Ok(Message { role, content })
}

fn role(at: &str, message: &Map<String, Value>) -> Result<Role, Problem> {
    let at = format!("{at}.role");
    match message.get("role") {
        None | Some(Value::Null) => Err(Problem::Wrong(Detail::missing(&at))),
        Some(Value::String(role)) => match role.as_str() {
            "system" | "developer" => Ok(Role::System),
            "user" => Ok(Role::User),
            "assistant" => Ok(Role::Assistant),
            "tool" | "function" => unsupported(at, "Tools are not supported"),
            _ => {
                let rule = "Must be system, developer, user or assistant";
                wrong(&at, DetailKind::InvalidValue, rule)
            }
        },
        Some(_) => wrong(&at, DetailKind::InvalidFormat, "Must be a string"),
    }
}

fn part<'a>(at: &str, value: &'a Value) -> Result<&'a str, Problem> {
    match (&value["type"], &value["text"]) {
        (Value::String(kind), Value::String(text)) if kind == "text" => Ok(text),
        (Value::String(kind), _) if kind != "text" => unsupported(
            format!("{at}.type"),
            "Only parts of type text are supported",
        ),
        _ => {
            let rule = "Must be an object with type text and a text";
            wrong(at, DetailKind::InvalidFormat, rule)
        }
    }
}

fn wrong<T>(field: &str, kind: DetailKind, rule: &str) -> Result<T, Problem> {
    Err(Problem::Wrong(Detail::new(field, kind, rule)))
}

fn unsupported<T>(parameter: String, rule: &str) -> Result<T, Problem> {
    Err(Problem::Unsupported {
        parameter,
        rule: rule.to_owned(),
    })
}
