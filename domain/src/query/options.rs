//! How an answer is wanted, where the client says more than its question.

use crate::wire::error::{Detail, DetailKind};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use std::collections::BTreeMap;

/// Messages of one conversation at most.
pub const MESSAGES: usize = 256;
/// Stop strings at most, and bytes in each.
pub const STOPS: usize = 32;
/// Bytes in a stop string at most.
pub const STOP_BYTES: usize = 1_024;
/// Biased tokens at most.
pub const BIASED: usize = 1_024;
/// Likeliest tokens told beside each token at most.
pub const TOP_LOGPROBS: u8 = 20;
/// Bytes of a schema or a regular expression at most.
pub const FORMAT_BYTES: usize = 64 * 1_024;

/// What a client wants of an answer. What is absent, the worker's own settings decide.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Options {
    /// The model that must answer, by its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The whole conversation; the question's text is its last message. Empty for a question alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    /// Tokens of the answer at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// 0 takes the likeliest token; at most 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Above 0, at most 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// 0 keeps all tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    /// -2 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f64>,
    /// -2 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f64>,
    /// Added to the scores of tokens, by id; each -100 to 100.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "by_id")]
    pub logit_bias: BTreeMap<u32, f64>,
    /// Fixes the random numbers; absent, they follow from the query's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Texts that end the answer and are not part of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// Log-probabilities are told with each token, and so many of the likeliest tokens beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<u8>,
    /// What the answer must look like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    /// Whose.
    pub role: Role,
    /// What it says.
    pub content: String,
}

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Whoever set the conversation up.
    System,
    /// Who asks.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// What an answer must look like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", content = "value", rename_all = "snake_case")]
pub enum Format {
    /// Some JSON object.
    JsonObject,
    /// JSON that this schema accepts.
    JsonSchema(serde_json::Value),
    /// Text that this regular expression matches as a whole.
    Regex(String),
}

/// JSON has texts as keys, which serde does not take for numbers inside of an enum with a tag.
fn by_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<u32, f64>, D::Error> {
    let by_text = BTreeMap::<String, f64>::deserialize(deserializer)?;
    let by_id = by_text.into_iter().map(|(id, bias)| {
        let id = id.parse().map_err(D::Error::custom)?;
        Ok((id, bias))
    });
    by_id.collect()
}

impl Options {
    /// What is wrong with them, whichever model answers; fields are named as here.
    pub fn problems(&self) -> Vec<Detail> {
        let mut problems = vec![];
        let ranges = [
            ("temperature", self.temperature, 0.0, 2.0),
            ("top_p", self.top_p, f64::MIN_POSITIVE, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("presence_penalty", self.presence_penalty, -2.0, 2.0),
            ("frequency_penalty", self.frequency_penalty, -2.0, 2.0),
        ];
        for (field, value, least, most) in ranges {
            if value.is_some_and(|value| !(least..=most).contains(&value)) {
                let rule = match field {
                    "top_p" => "Must be above 0 and at most 1".to_owned(),
                    _ => format!("Must be between {least} and {most}"),
                };
                problems.push(Detail::new(field, DetailKind::InvalidValue, rule));
            }
        }
        if self
            .logit_bias
            .values()
            .any(|bias| !(-100.0..=100.0).contains(bias))
        {
            let rule = "Each must be between -100 and 100";
            problems.push(Detail::new("logit_bias", DetailKind::InvalidValue, rule));
        }
        if self.max_tokens == Some(0) {
            let rule = "Must be at least 1";
            problems.push(Detail::new("max_tokens", DetailKind::InvalidValue, rule));
        }
        if self.stop.iter().any(String::is_empty) {
            let rule = "Must not hold empty texts";
            problems.push(Detail::new("stop", DetailKind::InvalidValue, rule));
        }
        let format = match &self.format {
            None | Some(Format::JsonObject) => 0,
            Some(Format::JsonSchema(schema)) => schema.to_string().len(),
            Some(Format::Regex(regex)) => regex.len(),
        };
        let longest_stop = self.stop.iter().map(String::len).max().unwrap_or(0);
        let top = usize::from(self.logprobs.unwrap_or(0));
        let sizes = [
            ("messages", self.messages.len(), MESSAGES, "messages"),
            ("stop", self.stop.len(), STOPS, "texts"),
            ("stop", longest_stop, STOP_BYTES, "bytes in each"),
            ("logit_bias", self.logit_bias.len(), BIASED, "tokens"),
            ("logprobs", top, TOP_LOGPROBS.into(), "tokens"),
            ("format", format, FORMAT_BYTES, "bytes"),
        ];
        for (field, count, most, unit) in sizes {
            if count > most {
                let rule = format!("At most {most} {unit}");
                problems.push(Detail::new(field, DetailKind::TooLarge, rule));
            }
        }
        let mut texts = self.messages.iter().map(|message| &message.content);
        if texts.any(|text| text.contains('\0')) {
            let rule = "Must not contain NUL";
            problems.push(Detail::new("messages", DetailKind::InvalidValue, rule));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(options: &Options) -> Vec<String> {
        let problems = options.problems();
        problems.into_iter().map(|problem| problem.field).collect()
    }

    #[test]
    fn what_no_model_can_serve_is_named() {
        assert_eq!(fields(&Options::default()), Vec::<String>::new());
        let options = Options {
            temperature: Some(2.1),
            top_p: Some(0.0),
            min_p: Some(f64::NAN),
            presence_penalty: Some(-2.0),
            max_tokens: Some(0),
            logit_bias: [(1, 101.0)].into(),
            stop: vec![String::new(), "x".repeat(STOP_BYTES + 1)],
            logprobs: Some(TOP_LOGPROBS + 1),
            format: Some(Format::Regex("a".repeat(FORMAT_BYTES + 1))),
            ..Options::default()
        };
        assert_eq!(
            fields(&options),
            [
                "temperature",
                "top_p",
                "min_p",
                "logit_bias",
                "max_tokens",
                "stop",
                "stop",
                "logprobs",
                "format"
            ]
        );
        let message = Message {
            role: Role::User,
            content: "a\0".into(),
        };
        let options = Options {
            messages: vec![message; MESSAGES + 1],
            ..Options::default()
        };
        assert_eq!(fields(&options), ["messages", "messages"]);
    }

    #[test]
    fn what_is_absent_is_not_written() {
        let json = serde_json::to_string(&Options::default()).unwrap();
        assert_eq!(json, "{}");
        let options = Options {
            logit_bias: [(7, -1.5)].into(),
            format: Some(Format::JsonSchema(serde_json::json!({"type": "object"}))),
            ..Options::default()
        };
        let json = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<Options>(&json).unwrap(), options);
        // As in a command.
        #[derive(Deserialize)]
        #[serde(tag = "command")]
        enum Tagged {
            Ask { options: Options },
        }
        let tagged = serde_json::json!({ "command": "Ask", "options": options });
        let Tagged::Ask { options: read } = serde_json::from_value(tagged).unwrap();
        assert_eq!(read, options);
        let wrong = r#"{"logit_bias": {"seven": 1}}"#;
        assert!(serde_json::from_str::<Options>(wrong).is_err());
    }
}
