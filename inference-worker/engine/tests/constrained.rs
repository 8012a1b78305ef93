//! Answers in a format, by the demo model.

use std::path::Path;
use std::sync::LazyLock;

use engine::{
    Engine, Error, Finish, Generation, Item, Options, Request, ResponseFormat, Sampling, Usage,
};
use serde_json::{Value, json};

static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model");
    Engine::load(&demo, Options::default()).expect("the demo model")
});

fn request(response_format: ResponseFormat, seed: u64) -> Request {
    let prompt = ENGINE.encode("What is an event?").expect("ids");
    Request {
        sampling: Sampling {
            temperature: 1.5,
            seed,
            ..Sampling::GREEDY
        },
        response_format,
        ..Request::new(prompt, 200)
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Answer {
    tokens: Vec<(u32, String, f32)>,
    finish: Finish,
    rest: String,
    usage: Usage,
}

impl Answer {
    fn text(&self) -> String {
        let pieces = self.tokens.iter().map(|token| token.1.as_str());
        pieces.chain([self.rest.as_str()]).collect()
    }
}

fn start(request: Request) -> Generation {
    ENGINE.submit(request).expect("a place")
}

fn collect(mut generation: Generation) -> Answer {
    let mut tokens = Vec::new();
    loop {
        match generation.blocking_next().expect("an end") {
            Item::Token {
                id, text, logprob, ..
            } => tokens.push((id, text, logprob)),
            Item::End {
                finish,
                text,
                usage,
                ..
            } => {
                return Answer {
                    tokens,
                    finish,
                    rest: text,
                    usage,
                };
            }
        }
    }
}

fn person() -> Value {
    json!({"type": "object", "additionalProperties": false, "required": ["name", "born", "roles"],
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "born": {"type": "integer", "minimum": 1900, "maximum": 2030},
            "roles": {"type": "array", "items": {"enum": ["owner", "member"]}, "maxItems": 2}}})
}

#[test]
fn answers_follow_their_schema_whatever_the_seed() {
    let validator = jsonschema::validator_for(&person()).expect("a schema");
    for seed in 0..20 {
        let answer = collect(start(request(ResponseFormat::JsonSchema(person()), seed)));
        assert_eq!(answer.finish, Finish::Stop, "{answer:?}");
        assert_eq!(answer.usage.completion_tokens, answer.tokens.len());
        let value: Value = serde_json::from_str(&answer.text()).expect("JSON");
        assert!(validator.is_valid(&value), "{value}");
    }
}

#[test]
fn answers_follow_their_regular_expression_and_are_cut_by_the_length_alone() {
    let source = "[a-z]{3,20}(, [a-z]{3,20}){2,4}";
    let regex = regex::Regex::new(&format!("^(?:{source})$")).expect("a regex");
    for seed in 0..20 {
        let asked = request(ResponseFormat::Regex(source.into()), seed);
        let whole = collect(start(asked.clone()));
        assert!(
            whole.finish == Finish::Stop && regex.is_match(&whole.text()),
            "{whole:?}"
        );
        let cut = collect(start(Request {
            max_new_tokens: 3,
            ..asked
        }));
        assert_eq!(
            (&cut.tokens[..], cut.finish),
            (&whole.tokens[..3], Finish::Length)
        );
    }
}

#[test]
fn a_format_does_not_change_what_the_model_thinks_of_a_token() {
    // The prompt is followed by "no" however likely that is.
    let asked = request(ResponseFormat::Regex("no".into()), 1);
    let constrained = collect(start(Request {
        top_logprobs: 1,
        ..asked.clone()
    }));
    assert_eq!(
        (constrained.text().as_str(), &constrained.finish),
        ("no", &Finish::Stop)
    );
    let first = constrained.tokens[0].0;
    let free = collect(start(Request {
        logit_bias: vec![(first, 100.0)],
        response_format: ResponseFormat::Text,
        max_new_tokens: 1,
        ..asked
    }));
    assert_eq!(free.tokens[0].0, first);
    assert_eq!(free.tokens[0].2, constrained.tokens[0].2);
    assert!(free.tokens[0].2 < -1.0, "{free:?}");
}

#[test]
fn a_resumed_answer_equals_the_uninterrupted_one_at_every_cut() {
    let formats = [
        ResponseFormat::JsonSchema(person()),
        ResponseFormat::JsonObject,
        ResponseFormat::Regex("(yes|no), because [a-z ]{10,40}".into()),
    ];
    for format in formats {
        let asked = Request {
            max_new_tokens: 40,
            ..request(format, 7)
        };
        let whole = collect(start(asked.clone()));
        for cut in 0..=whole.tokens.len() {
            let (before, after) = whole.tokens.split_at(cut);
            let resumed = collect(start(Request {
                generated: before.iter().map(|token| token.0).collect(),
                ..asked.clone()
            }));
            let expected = Answer {
                tokens: after.to_vec(),
                ..whole.clone()
            };
            assert_eq!(resumed, expected, "{cut}");
        }
    }
}

/// Constrained and free ones share their steps and change nothing for each other.
#[test]
fn formats_side_by_side_equal_the_same_alone() {
    let format = |seed| match seed % 3 {
        0 => ResponseFormat::Text,
        1 => ResponseFormat::JsonSchema(person()),
        _ => ResponseFormat::Regex("[0-9]{20}".into()),
    };
    let asked = |seed| Request {
        max_new_tokens: 60,
        ..request(format(seed), seed)
    };
    let running: Vec<Generation> = (0..8).map(|seed| start(asked(seed))).collect();
    let together: Vec<Answer> = running.into_iter().map(collect).collect();
    for (seed, answer) in (0..).zip(together) {
        assert_eq!(answer, collect(start(asked(seed))), "{seed}");
    }
}

#[test]
fn bad_formats_and_resumed_ids_that_do_not_fit_are_refused_with_the_field() {
    let schema = request(ResponseFormat::JsonSchema(json!({"type": "text"})), 0);
    let regex = request(ResponseFormat::Regex("(".into()), 0);
    let resumed = Request {
        generated: ENGINE.encode("maybe").expect("ids"),
        ..request(ResponseFormat::Regex("yes|no".into()), 0)
    };
    for (request, expected) in [
        (schema, "response_format"),
        (regex, "response_format"),
        (resumed, "generated"),
    ] {
        match ENGINE.submit(request) {
            Err(Error::Request { field, .. }) => assert_eq!(field, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}
