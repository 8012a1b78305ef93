//! What a job asks of the model.

use domain::{
    query::{
        Options,
        options::{Format, Message, Role},
    },
    subject::Priority,
    wire::job::Job,
};
use engine::{
    ResponseFormat,
    provider::{ChatRequest, Wishes},
};
use tokio_util::sync::CancellationToken;

/// The request for a job, to go on after what was published. No answer is longer than
/// `max_new_tokens`, whatever is wished.
pub(super) fn request(
    job: &Job,
    priority: Priority,
    generated: Vec<u32>,
    max_new_tokens: usize,
    cancel: CancellationToken,
) -> ChatRequest {
    let wished = job.options.as_deref().cloned().unwrap_or_default();
    let max_new_tokens = wished
        .max_tokens
        .and_then(|most| usize::try_from(most).ok())
        .map_or(max_new_tokens, |most| most.min(max_new_tokens));
    ChatRequest {
        id: job.query.uuid().as_u128(),
        owner: job.owner.uuid().as_u128(),
        priority: match priority {
            Priority::Crisis => engine::Priority::Crisis,
            Priority::Interactive => engine::Priority::Interactive,
            Priority::Workflow => engine::Priority::Workflow,
            Priority::Sync => engine::Priority::Sync,
        },
        generated,
        wishes: wishes(&wished),
        logprobs: wished.logprobs.map(usize::from),
        response_format: response_format(wished.format),
        stop: wished.stop,
        cancel,
        ..ChatRequest::new(messages(&job.text, wished.messages), max_new_tokens)
    }
}

/// The conversation, or the question alone.
fn messages(text: &str, conversation: Vec<Message>) -> Vec<engine::Message> {
    let message = |role: Role, content: String| engine::Message {
        role: role.as_str().to_owned(),
        content,
    };
    if conversation.is_empty() {
        return vec![message(Role::User, text.to_owned())];
    }
    let said = conversation.into_iter();
    said.map(|each| message(each.role, each.content)).collect()
}

fn wishes(wished: &Options) -> Wishes {
    // Logits have no more digits.
    let single = |value: f64| value as f32;
    let biases = wished.logit_bias.iter();
    Wishes {
        temperature: wished.temperature.map(single),
        top_p: wished.top_p.map(single),
        top_k: wished.top_k,
        min_p: wished.min_p.map(single),
        presence_penalty: wished.presence_penalty.map(single),
        frequency_penalty: wished.frequency_penalty.map(single),
        logit_bias: biases.map(|(id, bias)| (*id, single(*bias))).collect(),
        seed: wished.seed,
    }
}

fn response_format(format: Option<Format>) -> ResponseFormat {
    match format {
        None => ResponseFormat::Text,
        Some(Format::JsonObject) => ResponseFormat::JsonObject,
        Some(Format::JsonSchema(schema)) => ResponseFormat::JsonSchema(schema),
        Some(Format::Regex(regex)) => ResponseFormat::Regex(regex),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::Timestamp;
    use serde_json::json;

    fn job(options: Option<Options>) -> Job {
        Job {
            query: "00000000-0000-4000-8000-000000000009".parse().unwrap(),
            owner: "00000000-0000-4000-8000-000000000001".parse().unwrap(),
            text: "Why?".into(),
            operation: "general".into(),
            options: options.map(Box::new),
            submitted_at: Timestamp::from_millis(0),
        }
    }

    #[test]
    fn a_question_alone_is_one_message_and_has_no_wishes() {
        let request = request(
            &job(None),
            Priority::Sync,
            vec![3],
            512,
            CancellationToken::new(),
        );
        assert_eq!(request.messages.len(), 1);
        assert_eq!(request.messages[0].role, "user");
        assert_eq!(request.messages[0].content, "Why?");
        assert_eq!(request.generated, [3]);
        assert_eq!(request.priority, engine::Priority::Sync);
        assert_eq!(request.max_new_tokens, 512);
        assert_eq!(request.wishes, Wishes::default());
        assert_eq!(request.logprobs, None);
        assert_eq!(request.response_format, ResponseFormat::Text);
    }

    #[test]
    fn what_is_wished_reaches_the_model_and_its_length_is_bounded() {
        let options: Options = serde_json::from_value(json!({
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Why?"},
            ],
            "max_tokens": 1_000,
            "temperature": 0.5,
            "top_p": 0.25,
            "top_k": 7,
            "min_p": 0.125,
            "presence_penalty": 1.0,
            "frequency_penalty": -1.0,
            "logit_bias": {"9": -100.0},
            "seed": u64::MAX,
            "stop": ["\n"],
            "logprobs": 2,
            "format": {"kind": "regex", "value": "[a-z]+"},
        }))
        .unwrap();
        let asked = job(Some(options.clone()));
        let asked = request(
            &asked,
            Priority::Crisis,
            vec![],
            512,
            CancellationToken::new(),
        );
        let said: Vec<_> = asked.messages.iter().map(|each| &*each.role).collect();
        assert_eq!(said, ["system", "user"]);
        assert_eq!(asked.max_new_tokens, 512);
        assert_eq!(
            asked.wishes,
            Wishes {
                temperature: Some(0.5),
                top_p: Some(0.25),
                top_k: Some(7),
                min_p: Some(0.125),
                presence_penalty: Some(1.0),
                frequency_penalty: Some(-1.0),
                logit_bias: vec![(9, -100.0)],
                seed: Some(u64::MAX),
            }
        );
        assert_eq!(asked.stop, ["\n"]);
        assert_eq!(asked.logprobs, Some(2));
        let regex = ResponseFormat::Regex("[a-z]+".into());
        assert_eq!(asked.response_format, regex);

        let short = job(Some(Options {
            max_tokens: Some(3),
            ..options
        }));
        let short = request(
            &short,
            Priority::Crisis,
            vec![],
            512,
            CancellationToken::new(),
        );
        assert_eq!(short.max_new_tokens, 3);
    }
}
