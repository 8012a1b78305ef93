//! What an answer may look like, and which demands are refused before they are compiled.

use serde_json::Value;

use crate::error::Error;

/// Bytes of a schema, written as JSON, at most.
const SCHEMA_BYTES: usize = 64 << 10;
/// How deep a schema's arrays and objects may lie in one another.
const SCHEMA_DEPTH: usize = 64;
/// Bytes of a regular expression at most.
const REGEX_BYTES: usize = 8 << 10;

/// What the text of an answer must be. Tokens that would lead elsewhere are not chosen; their
/// log-probabilities stay those of the model. When the text is complete and nothing may follow, the
/// generation ends with [`Finish::Stop`](crate::Finish::Stop); a length, stop string or stop id
/// that comes before may cut it.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum ResponseFormat {
    /// Anything.
    #[default]
    Text,
    /// A JSON object. Between its elements, as in a schema's documents, stands nothing, a space, or
    /// a line break and an indentation.
    JsonObject,
    /// A JSON document that this JSON Schema describes; an object's properties come in the order
    /// of the schema. At most 64 KiB, nested at most 64 deep; keywords that cannot be kept are
    /// refused, and so are references to other documents.
    JsonSchema(Value),
    /// A text that this regular expression matches from its beginning to its end: at most 8 KiB,
    /// not empty, without anchors and look-around, which have no meaning then.
    Regex(String),
}

impl ResponseFormat {
    /// Refuses what is too large to compile.
    pub(super) fn check(&self) -> Result<(), Error> {
        match self {
            Self::Text | Self::JsonObject => Ok(()),
            Self::JsonSchema(schema) => {
                if !(schema.is_object() || schema.is_boolean()) {
                    return Err(refused("a schema is an object, true or false"));
                }
                // Before it is written out, which goes as deep as the schema does.
                if depth(schema) > SCHEMA_DEPTH {
                    let reason = format!("a schema is nested at most {SCHEMA_DEPTH} deep");
                    return Err(refused(reason));
                }
                at_most("a schema", schema.to_string().len(), SCHEMA_BYTES)
            }
            Self::Regex(regex) => {
                if regex.is_empty() {
                    return Err(refused("an empty regular expression permits no answer"));
                }
                let escapes = regex.bytes().rev().take_while(|byte| *byte == b'\\');
                if escapes.count() % 2 == 1 {
                    return Err(refused("the regular expression ends with a lone backslash"));
                }
                at_most("a regular expression", regex.len(), REGEX_BYTES)
            }
        }
    }
}

/// With its own stack: a schema's depth is not known yet.
fn depth(schema: &Value) -> usize {
    let mut deepest = 0;
    let mut left = vec![(schema, 1)];
    while let Some((value, depth)) = left.pop() {
        deepest = deepest.max(depth);
        match value {
            Value::Array(values) => left.extend(values.iter().map(|value| (value, depth + 1))),
            Value::Object(fields) => left.extend(fields.values().map(|value| (value, depth + 1))),
            _ => {}
        }
    }
    deepest
}

fn at_most(what: &str, bytes: usize, limit: usize) -> Result<(), Error> {
    match bytes <= limit {
        true => Ok(()),
        false => Err(refused(format!(
            "{what} has {bytes} bytes, at most {limit}"
        ))),
    }
}

pub(super) fn refused(reason: impl Into<String>) -> Error {
    Error::Request {
        field: "response_format",
        reason: reason.into(),
    }
}
