use super::*;
use crate::{
    Timestamp,
    account::Tier,
    query::{Complexity, Options, Submission, options::Format},
    subject::ANY_MODEL,
    wire::worker::{Abilities, Model, Registration},
};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn model(id: &str, free_places: u32) -> Model {
    Model {
        id: id.into(),
        provider: "engine".into(),
        loaded_at: Timestamp::from_millis(0),
        context: Some(8_192),
        abilities: Abilities {
            logprobs: true,
            format: true,
            ..Abilities::default()
        },
        places: 8,
        free_places,
        free_tokens: None,
    }
}

fn worker(name: &str, models: Vec<Model>) -> Registration {
    Registration {
        worker: name.into(),
        models,
        draining: false,
        at: Timestamp::from_millis(0),
    }
}

fn rule(name: &str, models: &[&str]) -> Rule {
    Rule {
        name: name.into(),
        operations: vec![],
        complexity: vec![],
        tiers: vec![],
        min_tokens: 0,
        max_tokens: None,
        models: models.iter().map(|model| (*model).to_owned()).collect(),
        choose: Choose::First,
        only: false,
    }
}

fn rules(rules: Vec<Rule>) -> Rules {
    Rules::new(rules).expect("good rules")
}

fn question(text: &str) -> Submission {
    Submission {
        text: text.into(),
        operation: "general".into(),
        ..Submission::default()
    }
}

fn decide(
    rules: &Rules,
    submission: &Submission,
    workers: &[Registration],
) -> Result<Route, Unroutable> {
    let asked = Asked::new(submission, Some(Tier::Free));
    rules.route(&asked, &Models::new(workers, &BTreeMap::new()))
}

/// The model, or why there is none.
fn model_for(rules: &Rules, submission: &Submission, workers: &[Registration]) -> String {
    decide(rules, submission, workers).map_or_else(|none| none.to_string(), |route| route.model)
}

#[test]
fn the_first_rule_with_a_free_model_decides_and_tells_why_the_others_did_not() {
    let analysis = Rule {
        operations: vec![Operation::Analysis],
        ..rule("analysis", &["big"])
    };
    let rules = rules(vec![
        analysis,
        rule("quick", &["small", "mid"]),
        rule("rest", &["*"]),
    ]);
    let workers = [
        worker("a", vec![model("big", 1)]),
        worker("b", vec![model("small", 0), model("mid", 2)]),
    ];
    let route = decide(&rules, &question("Why?"), &workers).expect("a route");
    assert_eq!(
        (route.model.as_str(), route.rule.as_str()),
        ("mid", "quick")
    );
    assert_eq!(
        route.reason,
        "`mid` by rule `quick`, first of its list: 2 of 8 places free. Taken for general, simple, \
         about 1 tokens, tier free. Not taken: `big`: not in the rule; `small`: no free place. \
         Rules passed over: `analysis`: operation general."
    );
    let mut analysis = question("Why?");
    analysis.operation = "analysis".into();
    let route = decide(&rules, &analysis, &workers).expect("a route");
    assert_eq!(
        (route.model.as_str(), route.rule.as_str()),
        ("big", "analysis")
    );
}

#[test]
fn a_full_rule_yields_to_the_next_and_waits_where_all_are_full() {
    let rules = rules(vec![rule("first", &["a"]), rule("second", &["b"])]);
    let at = |a, b| [worker("w", vec![model("a", a), model("b", b)])];
    let question = question("Why?");
    assert_eq!(model_for(&rules, &question, &at(1, 1)), "a");
    assert_eq!(model_for(&rules, &question, &at(0, 1)), "b");
    let waits = decide(&rules, &question, &at(0, 0)).expect("a route");
    assert_eq!(waits.model, "a");
    assert!(waits.reason.contains("it waits"), "{}", waits.reason);
    // What was given and not told yet counts as taken.
    let asked = Asked::new(&question, None);
    let (workers, given) = (at(1, 1), BTreeMap::from([("a".to_owned(), 1)]));
    let route = rules
        .route(&asked, &Models::new(&workers, &given))
        .expect("a route");
    assert_eq!(route.model, "b");
    // A place without memory for the query is none.
    let mut workers = at(1, 1);
    workers[0].models[0].free_tokens = Some(0);
    assert_eq!(model_for(&rules, &question, &workers), "b");
}

#[test]
fn a_rule_that_is_the_only_one_keeps_a_query_from_the_others() {
    let only = Rule {
        tiers: vec![Tier::Free],
        only: true,
        ..rule("free", &["small"])
    };
    let rules = rules(vec![only, rule("rest", &["*"])]);
    let workers = [worker("w", vec![model("big", 8)])];
    let refused = decide(&rules, &question("Why?"), &workers).expect_err("no model");
    assert_eq!(
        refused.to_string(),
        "No model accepts the query: no worker has a model of rule `free`"
    );
    let submission = Submission::default();
    let asked = Asked::new(&submission, Some(Tier::Pro));
    let route = rules.route(&asked, &Models::new(&workers, &BTreeMap::new()));
    assert_eq!(route.expect("a route").model, "big");
    let mut named = question("Why?");
    named.options = Some(Box::new(Options {
        model: Some("big".into()),
        ..Options::default()
    }));
    let refused = decide(&rules, &named, &workers)
        .expect_err("not admitted")
        .0;
    assert!(refused.contains("`big` is not among"), "{refused}");
}

#[test]
fn without_a_worker_a_query_waits_and_a_named_model_is_refused() {
    let question = question("Why?");
    assert_eq!(
        model_for(&rules(vec![rule("all", &["*"])]), &question, &[]),
        ANY_MODEL
    );
    let named = rules(vec![rule("some", &["q*", "llama"])]);
    assert_eq!(model_for(&named, &question, &[]), "llama");
    let begun = rules(vec![rule("some", &["q*"])]);
    assert!(decide(&begun, &question, &[]).is_err());
    let mut leaving = worker("w", vec![model("llama", 8)]);
    leaving.draining = true;
    let leaving = [leaving];
    let all = rules(vec![rule("all", &["*"])]);
    assert_eq!(model_for(&all, &question, &leaving), ANY_MODEL);
    let mut asked = question;
    asked.options = Some(Box::new(Options {
        model: Some("llama".into()),
        ..Options::default()
    }));
    assert_eq!(model_for(&all, &asked, &leaving), "llama");
    assert!(model_for(&all, &asked, &[]).contains("no worker has `llama`"));
}

#[test]
fn a_demo_model_answers_only_where_it_is_named_or_alone() {
    let mut demo = model("demo", 8);
    demo.abilities.demo = true;
    let alone = [worker("w", vec![demo.clone()])];
    let beside = [worker("w", vec![demo, model("real", 0)])];
    let all = rules(vec![rule("all", &["*"])]);
    let question = question("Why?");
    assert_eq!(model_for(&all, &question, &alone), "demo");
    assert_eq!(model_for(&all, &question, &beside), "real");
    let named = rules(vec![rule("demo", &["demo"])]);
    assert_eq!(model_for(&named, &question, &beside), "demo");
}

#[test]
fn the_longest_context_is_taken_for_what_seems_to_need_it() {
    let mut long = model("long", 0);
    long.context = Some(32_768);
    let workers = [worker("w", vec![model("short", 8), long])];
    let all = rules(vec![rule("all", &["*"])]);
    assert_eq!(model_for(&all, &question("Why?"), &workers), "short");
    let text = "a".repeat(8_192 * 4 + 1);
    // It waits for the one that it fits, and does not try the other.
    assert_eq!(model_for(&all, &question(&text), &workers), "long");
    let short = [worker("w", vec![model("short", 8)])];
    assert_eq!(model_for(&all, &question(&text), &short), "short");
    let refused = model_for(&all, &question(&"a".repeat(8_192 * 32)), &short);
    assert!(refused.contains("context of 8192 tokens"), "{refused}");
}

#[test]
fn wrong_rules_are_refused_with_rule_and_field() {
    let wrong = |change: fn(&mut Rule)| {
        let mut second = rule("second", &["*"]);
        change(&mut second);
        let problem = Rules::new(vec![rule("first", &["*"]), second]).expect_err("wrong");
        assert_eq!(problem.rule, 1);
        problem.field
    };
    assert_eq!(wrong(|rule| rule.name = "first".into()), "name");
    assert_eq!(wrong(|rule| rule.name = "a b".into()), "name");
    assert_eq!(wrong(|rule| rule.models.clear()), "models");
    assert_eq!(wrong(|rule| rule.models = vec!["a*b".into()]), "models");
    assert_eq!(wrong(|rule| rule.models = vec![String::new()]), "models");
    assert_eq!(wrong(|rule| rule.models = vec![ANY_MODEL.into()]), "models");
    assert_eq!(
        wrong(|rule| (rule.min_tokens, rule.max_tokens) = (2, Some(1))),
        "max_tokens"
    );
    assert_eq!(Rules::new(vec![]).expect_err("none").field, "rule");
    let many = (0..65).map(|n| rule(&format!("r{n}"), &["*"])).collect();
    assert_eq!(Rules::new(many).expect_err("too many").rule, 64);
}

const IDS: [&str; 4] = ["a", "ab", "b", "c"];

fn any_model() -> impl Strategy<Value = Model> {
    (
        0..IDS.len(),
        any::<[bool; 3]>(),
        proptest::option::of(0u32..2_000),
        0u32..3,
        proptest::option::of(0u64..500),
    )
        .prop_map(
            |(id, [logprobs, format, demo], context, free_places, free_tokens)| Model {
                context,
                abilities: Abilities {
                    logprobs,
                    format,
                    resume: false,
                    demo,
                },
                free_tokens,
                ..model(IDS[id], free_places)
            },
        )
}

fn any_worker() -> impl Strategy<Value = Registration> {
    (proptest::collection::vec(any_model(), 0..4), any::<bool>()).prop_map(|(models, draining)| {
        Registration {
            draining,
            ..worker("w", models)
        }
    })
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let patterns = proptest::sample::subsequence(vec!["a", "ab", "b", "a*", "*"], 1..4);
    let chooses = prop_oneof![
        Just(Choose::First),
        Just(Choose::Freest),
        Just(Choose::Longest)
    ];
    (patterns, chooses, any::<[bool; 4]>(), 0u64..400).prop_map(
        |(models, choose, [analysis, simple, pro, only], min_tokens)| Rule {
            operations: analysis
                .then_some(Operation::Analysis)
                .into_iter()
                .collect(),
            complexity: simple.then_some(Complexity::Simple).into_iter().collect(),
            tiers: pro.then_some(Tier::Pro).into_iter().collect(),
            min_tokens,
            choose,
            only,
            ..rule("", &models)
        },
    )
}

fn any_question() -> impl Strategy<Value = Submission> {
    let named = proptest::option::of(proptest::sample::select(vec!["a", "ab", "b", "c", "d"]));
    (0usize..9_000, any::<[bool; 3]>(), named).prop_map(
        |(length, [analysis, logprobs, format], named)| Submission {
            text: "Zephyrine? ".chars().cycle().take(length + 1).collect(),
            operation: if analysis { "analysis" } else { "poetry" }.into(),
            options: Some(Box::new(Options {
                model: named.map(str::to_owned),
                logprobs: logprobs.then_some(1),
                format: format.then_some(Format::JsonObject),
                ..Options::default()
            })),
            ..Submission::default()
        },
    )
}

proptest! {
    #[test]
    fn what_is_chosen_is_there_can_do_it_and_is_what_was_named(
        rules in proptest::collection::vec(any_rule(), 1..5),
        mut workers in proptest::collection::vec(any_worker(), 0..4),
        question in any_question(),
        given in proptest::collection::btree_map("a|ab|b|c", 0u32..4, 0..4),
    ) {
        let named = rules.into_iter().enumerate();
        let rules: Vec<Rule> = named
            .map(|(n, rule)| Rule { name: format!("r{n}"), ..rule })
            .collect();
        let all = super::Rules::new(rules.clone()).expect("good rules");
        let asked = Asked::new(&question, Some(Tier::Free));
        let decided = all.route(&asked, &Models::new(&workers, &given));
        let options = question.options.as_deref().expect("options");

        // Neither a repeat nor the order of workers changes anything.
        workers.reverse();
        prop_assert_eq!(&all.route(&asked, &Models::new(&workers, &given)), &decided);

        let words = match &decided {
            Ok(route) => route.reason.clone(),
            Err(none) => none.to_string(),
        };
        prop_assert!(!words.contains("Zephyrine"), "{words}");
        let Ok(route) = decided else { return Ok(()) };
        prop_assert!(route.reason.len() <= REASON_BYTES && !route.reason.is_empty());
        prop_assert!(rules.iter().any(|rule| rule.name == route.rule));
        if let Some(named) = &options.model {
            prop_assert_eq!(&route.model, named);
        }
        let copies = |draining| {
            let kept = workers.iter().filter(move |worker| worker.draining == draining);
            let models = kept.flat_map(|worker| &worker.models);
            models.filter(|model| model.id == route.model).collect::<Vec<_>>()
        };
        let (taking, leaving) = (copies(false), copies(true));
        let nobody = workers.iter().all(|worker| worker.draining || worker.models.is_empty());
        if options.model.is_none() && nobody {
            return Ok(());
        }
        let copies = if taking.is_empty() { leaving } else { taking };
        prop_assert!(!copies.is_empty(), "nobody has {}", route.model);
        for model in copies {
            prop_assert!(model.abilities.logprobs || options.logprobs.is_none());
            prop_assert!(model.abilities.format || options.format.is_none());
            // A token has 32 bytes at most.
            let least = question.text.len() / 32;
            prop_assert!(model.context.is_none_or(|context| context as usize > least));
        }
    }
}
