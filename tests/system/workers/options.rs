//! Answers are given as they are wanted, or not at all.

use domain::{
    query::{
        Options,
        options::{Format, Message, Role},
    },
    text::storable,
};
use tests::{
    asking::Asking,
    client::Client,
    world::{self, Model, World},
};

/// A world with a model that says something else to each question, and somebody who asks.
async fn asking() -> (World, Asking) {
    let world = World::with(world::Options {
        model: Model::Quick,
        ..Default::default()
    })
    .await;
    let mia = Client::registered(world.http).await;
    let asking = Asking::of(&world, &mia).await;
    (world, asking)
}

fn short() -> Options {
    Options {
        max_tokens: Some(24),
        ..Options::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_as_they_are_wanted() {
    let (_world, asking) = asking().await;

    // So many tokens, and no more than the worker gives anybody.
    let told = asking.ask("How long?", short()).await;
    let answer = told.answer();
    assert_eq!(
        (answer.usage.completion_tokens, &*answer.finish_reason),
        (24, "length")
    );
    assert!(told.chunks.iter().all(|chunk| chunk.tokens.is_empty()));
    assert_eq!(told.chunks[0].model.as_deref(), Some("random-model"));
    let endless = Options {
        max_tokens: Some(100_000),
        temperature: Some(0.0),
        ..Options::default()
    };
    let told = asking.ask("How long?", endless).await;
    assert_eq!(told.answer().usage.completion_tokens, 160);

    // Probabilities, token by token.
    let wished = Options {
        logprobs: Some(3),
        temperature: Some(0.0),
        ..short()
    };
    let told = asking.ask("How sure?", wished).await;
    let mut all = 0.0;
    for chunk in &told.chunks {
        assert_eq!(chunk.tokens.len(), chunk.ids.len());
        let sum: f64 = chunk.tokens.iter().map(|token| token.logprob).sum();
        assert!((sum - chunk.logprob).abs() < 1e-6, "{chunk:?}");
        assert!(chunk.tokens.iter().all(|token| token.top.len() == 3));
        all += sum;
    }
    let bytes = told.chunks.iter().flat_map(|chunk| &chunk.tokens);
    let bytes: Vec<u8> = bytes.flat_map(|token| token.bytes.clone()).collect();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert_eq!(storable(&text), told.answer().response_text);
    let confidence = told.answer().confidence.expect("known");
    assert!((confidence - (all / 24.0).exp()).abs() < 1e-6);

    // The same seed says the same, another one something else.
    let seeded = |seed| Options {
        seed: Some(seed),
        temperature: Some(1.0),
        ..short()
    };
    let mut texts = vec![];
    for seed in [1, 1, u64::MAX] {
        let told = asking.ask("By chance?", seeded(seed)).await;
        texts.push(told.answer().response_text.clone());
    }
    assert_eq!(texts[0], texts[1]);
    assert_ne!(texts[0], texts[2]);

    // A stop string ends it, and is not said.
    let middle = texts[0]
        .char_indices()
        .nth(texts[0].chars().count() / 2)
        .expect("a middle")
        .0;
    let stop: String = texts[0][middle..].chars().take(4).collect();
    let stopped = Options {
        stop: vec![stop.clone()],
        ..seeded(1)
    };
    let told = asking.ask("By chance?", stopped).await;
    let end = texts[0].find(&stop).expect("it is there");
    assert_eq!(told.answer().response_text, texts[0][..end]);
    assert_eq!(told.answer().finish_reason, "stop");

    // One token is preferred to all others, and then forbidden.
    let favourite = told.chunks[0].ids[0];
    let biased = |bias| Options {
        logit_bias: [(favourite, bias)].into(),
        ..short()
    };
    let told = asking.ask("What else?", biased(100.0)).await;
    let mut ids = told.chunks.iter().flat_map(|chunk| &chunk.ids);
    assert!(ids.all(|id| *id == favourite));
    let told = asking.ask("What else?", biased(-100.0)).await;
    let mut ids = told.chunks.iter().flat_map(|chunk| &chunk.ids);
    assert!(ids.all(|id| *id != favourite));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_have_the_form_that_is_wanted() {
    let (_world, asking) = asking().await;
    let schema = serde_json::json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 12 },
            "sizes": { "type": "array", "items": { "enum": [1, 2, 3] }, "minItems": 2, "maxItems": 4 },
        },
        "required": ["name", "sizes"],
        "additionalProperties": false,
    });
    let wished = |format| Options {
        format: Some(format),
        ..Options::default()
    };
    let told = asking
        .ask("Which?", wished(Format::JsonSchema(schema.clone())))
        .await;
    let text = &told.answer().response_text;
    assert_eq!(told.answer().finish_reason, "stop", "{text}");
    let value = serde_json::from_str(text).expect("JSON");
    assert!(jsonschema::is_valid(&schema, &value), "{value}");
    let told = asking
        .ask("When?", wished(Format::Regex("[a-f]{3}-[0-9]{4}".into())))
        .await;
    let text = &told.answer().response_text;
    let (letters, digits) = text.split_once('-').expect("as wanted");
    assert!(letters.len() == 3 && letters.bytes().all(|byte| (b'a'..=b'f').contains(&byte)));
    assert!(digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_digit()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_answered_as_a_whole() {
    let (_world, asking) = asking().await;
    let mut answers = vec![];
    for first in ["Be brief.", "Be verbose.", "Be brief."] {
        let said = [(Role::System, first), (Role::User, "Who?")];
        let conversation = Options {
            messages: said
                .map(|(role, content)| Message {
                    role,
                    content: content.into(),
                })
                .to_vec(),
            temperature: Some(0.0),
            ..short()
        };
        let told = asking.ask("Who?", conversation).await;
        answers.push(told.answer().clone());
    }
    assert_eq!(answers[0].response_text, answers[2].response_text);
    assert_ne!(answers[0].response_text, answers[1].response_text);
    let alone = Options {
        temperature: Some(0.0),
        ..short()
    };
    let alone = asking.ask("Who?", alone).await;
    assert!(alone.answer().usage.prompt_tokens < answers[0].usage.prompt_tokens);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_model_cannot_do_ends_the_query_with_the_reason() {
    let (_world, asking) = asking().await;
    let unknown_token = Options {
        logit_bias: [(4_000_000, 1.0)].into(),
        ..short()
    };
    let impossible = Options {
        format: Some(Format::Regex("(".into())),
        ..short()
    };
    let long = Message {
        role: Role::User,
        content: "and so on ".repeat(4_000),
    };
    let too_long = Options {
        messages: vec![long],
        ..short()
    };
    for (options, code, said) in [
        (unknown_token, "VALIDATION_ERROR", "logit_bias"),
        (impossible, "VALIDATION_ERROR", "response_format"),
        (too_long, "VALIDATION_TOO_LARGE", "2048 positions"),
    ] {
        let told = asking.ask("Can you?", options).await;
        let (found, message) = told.failure();
        assert_eq!(found, code, "{message}");
        assert!(message.contains(said), "{message}");
        assert_eq!(told.chunks, []);
    }
}
