//! Random walks through grammars: whatever the masks allow must be what the format says.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::request::{Request, Sampling};
use crate::sampler::{Choosing, Sampler};
use crate::tokenizer::tests::{byte_fallback, byte_level, tokenizer};

const VOCABULARY: usize = 512;
/// More ids than any of the texts below can have.
const STEPS: usize = 600;

struct World {
    tokenizer: Arc<Tokenizer>,
    grammars: Grammars,
}

/// A vocabulary of each kind, loaded once.
static WORLDS: LazyLock<[World; 2]> = LazyLock::new(|| {
    [byte_level(), byte_fallback()].map(|json| {
        let tokenizer = tokenizer(json);
        let grammars = Grammars::new(&tokenizer, VOCABULARY).expect("grammars");
        World {
            tokenizer,
            grammars,
        }
    })
});

fn schemas() -> Vec<Value> {
    vec![
        json!({"type": "object", "additionalProperties": false, "required": ["name", "age"],
            "properties": {
                "name": {"type": "string", "maxLength": 6},
                "age": {"type": "integer", "minimum": 0, "maximum": 150},
                "tags": {"type": "array", "items": {"enum": ["a", "日本", "\"q\"\n"]}, "maxItems": 3}}}),
        json!({"enum": [null, true, 1.5, "é🦀", {"b": 1, "a": [2]}]}),
        json!({"const": {"z": "last", "a": "first"}}),
        json!({"anyOf": [{"type": "null"}, {"type": "boolean"}, {"type": "integer", "minimum": -3, "maximum": 3}]}),
        json!({"type": "array", "minItems": 1, "maxItems": 2,
            "items": {"type": "string", "minLength": 1, "maxLength": 3}}),
        json!({"type": "string", "pattern": "^[A-F]{2}-[0-9]{1,3}$"}),
        json!({"type": "string", "format": "date"}),
        json!({"$defs": {"leaf": {"enum": [1, 2]}, "tree": {"anyOf": [{"$ref": "#/$defs/leaf"},
            {"type": "array", "items": {"$ref": "#/$defs/leaf"}, "minItems": 2, "maxItems": 2}]}},
            "type": "object", "additionalProperties": false, "required": ["tree"],
            "properties": {"tree": {"$ref": "#/$defs/tree"}}}),
        json!({"type": "object", "maxProperties": 0}),
        json!({"allOf": [{"type": "integer", "minimum": 10}, {"maximum": 99}]}),
    ]
}

const REGEXES: [&str; 7] = [
    "[a-z]{1,8}( [a-z]{1,8}){0,2}",
    r"\d{4}-\d{2}-\d{2}",
    "(yes|no|maybe)",
    "/[^/\n]{0,5}/",
    "é{1,3}日?🦀",
    "(a|b)*c",
    r"\p{Greek}{2}",
];

/// The ids, the text, and whether it came to its end.
fn walk(world: &World, format: &ResponseFormat, seed: u64) -> (Vec<u32>, String, bool) {
    let mut grammar = world
        .grammars
        .compile(format)
        .expect("a grammar")
        .expect("a grammar");
    let sampling = Sampling {
        temperature: 1.0,
        seed,
        ..Sampling::GREEDY
    };
    let mut choosing = Choosing::new(&Request {
        sampling,
        ..Request::new(vec![0], STEPS)
    });
    let (mut sampler, mut ids) = (Sampler::default(), Vec::new());
    while ids.len() < STEPS && !grammar.is_complete() {
        let mask = grammar.mask().expect("a mask");
        let choice = sampler
            .choose(&[0.0; VOCABULARY], &choosing, Some(&mask))
            .expect("a choice");
        if world.tokenizer.is_eos(choice.id) {
            break;
        }
        grammar.push(choice.id).expect("an allowed id");
        choosing.push(choice.id);
        ids.push(choice.id);
    }
    let text = world.tokenizer.decode(&ids);
    let ended = ids.len() < STEPS;
    (ids, text, ended)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_text_of_a_schema_is_valid(seed in any::<u64>()) {
        for schema in schemas() {
            let validator = jsonschema::options()
                .should_validate_formats(true)
                .build(&schema)
                .expect("a schema");
            for world in &*WORLDS {
                let (_, text, ended) = walk(world, &ResponseFormat::JsonSchema(schema.clone()), seed);
                prop_assert!(ended, "{schema}: {text:?}");
                let value: Value = serde_json::from_str(&text)
                    .map_err(|error| TestCaseError::fail(format!("{schema}: {text:?}: {error}")))?;
                prop_assert!(validator.is_valid(&value), "{schema}: {text:?}");
            }
        }
    }

    #[test]
    fn every_text_of_a_regular_expression_matches_it(seed in any::<u64>()) {
        for source in REGEXES {
            let regex = regex::Regex::new(&format!("^(?:{source})$")).expect("a regex");
            for world in &*WORLDS {
                let (_, text, ended) = walk(world, &ResponseFormat::Regex(source.into()), seed);
                prop_assert!(ended && regex.is_match(&text), "{source}: {text:?}");
            }
        }
    }

    /// Objects of any shape need not end within the steps; those that do must parse.
    #[test]
    fn a_json_object_is_one(seed in any::<u64>()) {
        for world in &*WORLDS {
            let (_, text, ended) = walk(world, &ResponseFormat::JsonObject, seed);
            prop_assert_eq!(text.chars().next(), Some('{'));
            if ended {
                let value: Result<serde_json::Map<String, Value>, _> = serde_json::from_str(&text);
                // A number may have any exponent, also one that no float has.
                prop_assert!(value.is_ok() || text.contains(['e', 'E']), "{text:?}");
            }
        }
    }

    /// A grammar that only replayed the ids allows what the one that was asked at each of them does.
    #[test]
    fn a_replayed_grammar_goes_on_as_the_first_one(seed in any::<u64>(), cut in 0usize..40) {
        let formats = schemas().into_iter().map(ResponseFormat::JsonSchema)
            .chain(REGEXES.map(|regex| ResponseFormat::Regex(regex.into())))
            .chain([ResponseFormat::JsonObject]);
        for (format, world) in formats.flat_map(|format| WORLDS.iter().map(move |world| (format.clone(), world))) {
            let (ids, ..) = walk(world, &format, seed);
            let cut = cut.min(ids.len());
            let fresh = || world.grammars.compile(&format).expect("a grammar").expect("a grammar");
            let (mut first, mut replayed) = (fresh(), fresh());
            for id in &ids[..cut] {
                first.mask().expect("a mask");
                first.push(*id).expect("an allowed id");
                replayed.push(*id).expect("an allowed id");
            }
            for id in &ids[cut..] {
                prop_assert_eq!(&first.mask().expect("a mask").0, &replayed.mask().expect("a mask").0);
                first.push(*id).expect("an allowed id");
                replayed.push(*id).expect("an allowed id");
            }
            prop_assert_eq!(first.is_complete(), replayed.is_complete());
        }
    }
}

#[test]
fn a_mask_leaves_what_it_allows() {
    let mut logits = [1.0; 70];
    Mask(vec![u32::MAX, 0b101]).apply(&mut logits);
    let kept: Vec<usize> = (0..70).filter(|id| logits[*id] == 1.0).collect();
    assert_eq!(kept, (0..33).chain([34]).collect::<Vec<_>>());
    assert!(logits[33] == f32::NEG_INFINITY && logits[69] == f32::NEG_INFINITY);
}

#[test]
fn an_id_that_does_not_fit_is_refused() {
    let world = &WORLDS[0];
    let format = ResponseFormat::Regex("ab".into());
    let mut grammar = world
        .grammars
        .compile(&format)
        .expect("a grammar")
        .expect("a grammar");
    assert!(grammar.push(u32::from(b'b')).is_err());
}

/// Neither built nor dropped level by level, which would need as much stack.
fn nested(levels: usize) -> Value {
    let values = (0..levels).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
    Value::Object([("enum".to_owned(), values)].into_iter().collect())
}

#[test]
fn what_cannot_be_compiled_is_refused_with_the_reason() {
    let long = json!({"enum": ["x".repeat(70_000)]});
    let cases = [
        (
            ResponseFormat::JsonSchema(json!([])),
            "a schema is an object, true or false",
        ),
        (
            ResponseFormat::JsonSchema(json!(false)),
            "the schema permits nothing",
        ),
        (ResponseFormat::JsonSchema(json!({"type": "text"})), "text"),
        (
            ResponseFormat::JsonSchema(json!({"$ref": "https://example.org/a.json"})),
            "ref",
        ),
        (
            ResponseFormat::JsonSchema(json!({"type": "integer", "minimum": 3, "maximum": 2})),
            "nsatisfiable",
        ),
        (
            ResponseFormat::JsonSchema(json!({"not": {"type": "null"}})),
            "not",
        ),
        (
            ResponseFormat::JsonSchema(json!({"type": "string", "pattern": "("})),
            "regex",
        ),
        (ResponseFormat::JsonSchema(long), "at most 65536"),
        (
            ResponseFormat::JsonSchema(nested(100_000)),
            "nested at most 64 deep",
        ),
        (
            ResponseFormat::JsonSchema(json!({"$ref": "#"})),
            "permits no answer",
        ),
        (ResponseFormat::Regex(String::new()), "empty"),
        (ResponseFormat::Regex("(".into()), "regex"),
        (ResponseFormat::Regex("a\\".into()), "lone backslash"),
        (ResponseFormat::Regex("(?=a)b".into()), "look"),
        (
            ResponseFormat::Regex("a".repeat(9_000)),
            "has 9000 bytes, at most 8192",
        ),
    ];
    for (format, expected) in cases {
        match WORLDS[0].grammars.compile(&format).map(|_| ()) {
            Err(Error::Request {
                field: "response_format",
                reason,
            }) => {
                assert!(reason.contains(expected), "{expected}: {reason}");
            }
            other => panic!("{expected}: {other:?}"),
        }
        // Dropping nests as deep as the value does.
        std::mem::forget(format);
    }
}
