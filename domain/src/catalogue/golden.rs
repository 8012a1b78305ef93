//! Holds the files in `domain/golden` against the code.

use super::{ENTRIES, Entry, compatible::broken, upcasts};
use crate::{
    Aggregate, Timestamp,
    account::Account,
    api_keys::ApiKeys,
    commit::{self, CloudEvent},
    email::Email,
    id::CommandId,
    query::Query,
    schema,
    session::Session,
    subject::Kind,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};
use uuid::Uuid;

/// Events that follow each other in the life of one aggregate. Every type is in one of them.
const LIVES: [(Kind, &[&str]); 9] = [
    (Kind::Account, &["account.registered.v1"]),
    (
        Kind::Account,
        &[
            "account.registered.v1",
            "account.erasure_requested.v1",
            "account.erased.v1",
        ],
    ),
    // Given up, and claimed again.
    (
        Kind::Email,
        &["email.claimed.v1", "email.released.v1", "email.claimed.v1"],
    ),
    (
        Kind::Session,
        &[
            "session.opened.v1",
            "session.refreshed.v1",
            "session.revoked.v1",
        ],
    ),
    (
        Kind::Query,
        &[
            "query.submitted.v1",
            "query.started.v1",
            "query.completed.v1",
        ],
    ),
    (Kind::Query, &["query.submitted.v1", "query.failed.v1"]),
    (Kind::Query, &["query.submitted.v1", "query.cancelled.v1"]),
    (Kind::Query, &["query.submitted.v1", "query.cancelled.v2"]),
    (
        Kind::ApiKeys,
        &["api_keys.created.v1", "api_keys.revoked.v1"],
    ),
];

fn file(name: &str) -> PathBuf {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/golden");
    PathBuf::from(golden).join(name)
}

/// The types that the code writes, with their schemas.
fn written() -> BTreeMap<String, (Kind, Value)> {
    fn of<A: Aggregate>() -> impl Iterator<Item = (String, (Kind, Value))>
    where
        A::Event: schemars::JsonSchema,
    {
        let events = schema::by_type(&schema::read::<CloudEvent<'static, A::Event>>());
        events.into_iter().map(|(name, mut schema)| {
            schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
            schema["title"] = name.as_str().into();
            (name, (A::KIND, schema))
        })
    }
    of::<Account>()
        .chain(of::<Email>())
        .chain(of::<Session>())
        .chain(of::<Query>())
        .chain(of::<ApiKeys>())
        .collect()
}

#[test]
fn every_type_that_the_code_knows_is_listed_and_no_other() {
    let old = Kind::ALL.into_iter().flat_map(|kind| {
        let steps = upcasts(kind).iter();
        steps.map(move |step| (step.from.to_owned(), kind))
    });
    let current = written().into_iter().map(|(name, (kind, _))| (name, kind));
    let known: BTreeMap<String, Kind> = current.chain(old).collect();
    let listed = ENTRIES
        .iter()
        .map(|entry| (entry.name.to_owned(), entry.aggregate));
    assert_eq!(
        listed.collect::<BTreeMap<_, _>>(),
        known,
        "left: catalogue::ENTRIES; right: the events and upcasts in the code"
    );
    let mut files: BTreeSet<String> = BTreeSet::from(["released.sha256".into()]);
    for entry in ENTRIES {
        files.insert(format!("{}.json", entry.name));
        files.insert(format!("{}.schema.json", entry.name));
    }
    let there = fs::read_dir(file("")).expect("the folder");
    let there = there.map(|each| {
        let each = each.expect("a file");
        each.file_name().to_string_lossy().into_owned()
    });
    assert_eq!(there.collect::<BTreeSet<_>>(), files);
}

#[test]
fn upcasts_lead_one_version_up_and_end_at_what_is_written() {
    let written = written();
    for kind in Kind::ALL {
        let mut from = BTreeSet::new();
        for step in upcasts(kind) {
            assert!(from.insert(step.from), "{}: two steps", step.from);
            let old = Entry::find(step.from).expect("listed");
            let new = Entry::find(step.to).expect("listed");
            let base = |name: &'static str| name.rsplit_once(".v").expect("a version").0;
            assert_eq!(base(step.from), base(step.to));
            assert_eq!(old.version() + 1, new.version(), "{}", step.from);
        }
    }
    for entry in ENTRIES {
        let current = entry.superseded_by().is_none();
        assert_eq!(written.contains_key(entry.name), current, "{}", entry.name);
    }
}

/// Reads these events as one commit, and folds them.
fn fold<A: Aggregate>(names: &[&str]) -> Value {
    let events = names.iter().map(|name| example(name)).collect::<Vec<_>>();
    let payload = serde_json::to_vec(&events).expect("JSON");
    let events: Vec<A::Event> = commit::decode("golden", &payload).expect("readable");
    assert_eq!(events.len(), names.len());
    for (name, event) in names.iter().zip(&events) {
        if Entry::find(name).is_some_and(|entry| entry.superseded_by().is_none()) {
            assert_eq!(rewritten::<A>(name, event), example(name));
        }
    }
    let state = events.iter().fold(A::default(), A::evolve);
    assert_ne!(json!(state), json!(A::default()), "nothing has happened");
    json!(state)
}

/// What would be stored for an event that was read from the example of this name.
fn rewritten<A: Aggregate>(name: &str, event: &A::Event) -> Value {
    let example = example(name);
    let text = |name: &str| example[name].as_str().expect("a text");
    let command = text("id").strip_suffix(".0").expect("the first event");
    let subject = text("subject").rsplit_once('/').expect("kind and id");
    let commit = commit::encode::<A>(
        Uuid::try_parse(subject.1).expect("an id"),
        command.parse::<CommandId>().expect("an id"),
        Timestamp::parse(text("time")).expect("an instant"),
        std::slice::from_ref(event),
    );
    let commit = commit.expect("JSON");
    assert_eq!(commit.types, name);
    let stored: Value = serde_json::from_slice(&commit.payload).expect("JSON");
    stored[0].clone()
}

fn example(name: &str) -> Value {
    Entry::find(name).expect("listed").example()
}

#[test]
fn every_event_of_every_version_folds_and_what_is_written_is_written_back() {
    let lived: BTreeSet<&str> = LIVES
        .iter()
        .flat_map(|(_, names)| names.iter().copied())
        .collect();
    let listed = ENTRIES.iter().map(|entry| entry.name);
    assert_eq!(lived, listed.collect(), "left: LIVES; right: ENTRIES");
    let states: Vec<Value> = LIVES
        .iter()
        .map(|(kind, names)| {
            let state = match kind {
                Kind::Account => fold::<Account>(names),
                Kind::Email => fold::<Email>(names),
                Kind::Session => fold::<Session>(names),
                Kind::Query => fold::<Query>(names),
                Kind::ApiKeys => fold::<ApiKeys>(names),
            };
            json!({ "events": names, "state": state })
        })
        .collect();
    // Whether objects keep their order depends on what else is built.
    insta::with_settings!({sort_maps => true}, {
        insta::assert_json_snapshot!(states);
    });
}

#[test]
fn schemas_bear_what_is_stored() {
    #[expect(
        clippy::disallowed_methods,
        reason = "as with snapshots, who runs a test may update"
    )]
    let update = std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always");
    for (name, (kind, schema)) in written() {
        let path = file(&format!("{name}.schema.json"));
        let known = fs::read_to_string(&path).unwrap_or("false".into());
        let known: Value = serde_json::from_str(&known).expect("JSON");
        if known == schema {
            continue;
        }
        let broken = broken(&known, &schema);
        assert!(
            broken.is_empty() || known == false,
            "{name} is in the log, and the code would not read it any more:\n  {}\n\
             Events are never rewritten, so give the new form a version of its own:\n\
             - the variant's new name in domain/src/{kind}/event.rs: {next}\n\
             - the step from {name} to it in domain/src/{kind}/upcast.rs\n\
             - its example, domain/golden/{next}.json, and its schema:\n  \
               INSTA_UPDATE=always cargo test -p domain --lib catalogue\n\
             - its lines in domain/src/catalogue and domain/golden/released.sha256\n\
             {name} keeps both its files.",
            broken.join("\n  "),
            next = next(&name),
            kind = kind.as_str(),
        );
        assert!(
            update,
            "{name} has another schema, which bears every stored event. If that is meant:\n\
             INSTA_UPDATE=always cargo test -p domain --lib catalogue"
        );
        let text = serde_json::to_string_pretty(&schema).expect("JSON");
        fs::write(path, text + "\n").expect("it is written");
    }
}

fn next(name: &str) -> String {
    let (base, version) = name.rsplit_once(".v").expect("a version");
    format!("{base}.v{}", version.parse::<u32>().expect("a number") + 1)
}

/// `sha256sum -c released.sha256`, and that no file is missing there. Lines are added, and neither
/// changed nor taken away.
#[test]
fn what_was_released_is_never_edited() {
    let list = fs::read_to_string(file("released.sha256")).expect("the list");
    let listed: BTreeMap<&str, &str> = list
        .lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(digest, name)| (name, digest))
        .collect();
    let mut released: Vec<String> = ENTRIES.iter().map(|e| format!("{}.json", e.name)).collect();
    // A schema may grow until the next version supersedes it.
    let superseded = ENTRIES.iter().filter(|e| e.superseded_by().is_some());
    released.extend(superseded.map(|e| format!("{}.schema.json", e.name)));
    for name in &released {
        let digest = Sha256::digest(fs::read(file(name)).expect("a file"));
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        match listed.get(name.as_str()) {
            Some(known) => assert_eq!(
                *known, digest,
                "{name} says what is stored, and is never edited: make a new version instead"
            ),
            None => panic!("domain/golden/released.sha256 lacks the line\n{digest}  {name}"),
        }
    }
    assert_eq!(listed.len(), released.len(), "{:?}", listed.keys());
}
