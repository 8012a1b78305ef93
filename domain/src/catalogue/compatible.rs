//! Whether a schema still accepts every event that an earlier form of it accepted.
//!
//! It knows the keywords that our schemas have. Any other one that is new or has another value
//! counts as broken, so that nothing slips through for not being known here.

use serde_json::Value;

/// Keywords that say nothing about what is valid.
const ANNOTATIONS: [&str; 4] = ["$schema", "title", "description", "examples"];
/// Keywords that are compared on their own.
const KNOWN: [&str; 10] = [
    "type",
    "format",
    "const",
    "enum",
    "oneOf",
    "anyOf",
    "properties",
    "required",
    "items",
    "default",
];
/// Widths of numbers: each holds what the ones before it hold.
const WIDTHS: [&str; 4] = ["uint8", "uint16", "uint32", "uint64"];

/// What an event that was valid by `old` may break of `new`: each with the place and the rule.
pub(super) fn broken(old: &Value, new: &Value) -> Vec<String> {
    let mut found = vec![];
    compare("", old, new, &mut found);
    found
}

fn compare(place: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    let mut say = |what: String| found.push(format!("{}: {what}", place.trim_start_matches('.')));
    if *new == Value::Bool(true) {
        return;
    }
    match (values(old), values(new)) {
        (Some(old), Some(new)) => {
            for gone in old.iter().filter(|value| !new.contains(value)) {
                say(format!("the value {gone} is gone"));
            }
            return;
        }
        (None, Some(_)) => return say("takes some values only".into()),
        (_, None) => {}
    }
    let (before, now) = (shapes(old), shapes(new));
    if before.is_some() || now.is_some() {
        let one = before.is_none() || now.is_none();
        let (before, now) = (before.unwrap_or(vec![old]), now.unwrap_or(vec![new]));
        let fits = |old: &&Value| now.iter().any(|new| broken(old, new).is_empty());
        let gone = before.iter().filter(|old| !fits(old)).count();
        if gone > 0 {
            say(format!("{gone} of its shapes are gone"));
        }
        // Where both have shapes, what stands beside them is compared as well.
        if one {
            return;
        }
    }
    if let Some(rule) = retyped(old, new) {
        say(rule);
    }
    if !old["default"].is_null() && old["default"] != new["default"] {
        let (old, new) = (&old["default"], &new["default"]);
        say(format!(
            "where it is absent it was {old}, and would be {new}"
        ));
    }
    for (keyword, rule) in new.as_object().into_iter().flatten() {
        let known = KNOWN.contains(&keyword.as_str()) || ANNOTATIONS.contains(&keyword.as_str());
        if !known && old.get(keyword) != Some(rule) {
            say(format!("the rule {keyword}: {rule} is new"));
        }
    }
    for name in names(&new["required"]) {
        if !names(&old["required"]).contains(&name) {
            let known = old["properties"].get(name).is_some();
            let what = if known { "may be absent" } else { "is missing" };
            say(format!("{name} {what} in stored events, and is required"));
        }
    }
    for (name, old) in old["properties"].as_object().into_iter().flatten() {
        let place = format!("{place}.{name}");
        match new["properties"].get(name) {
            Some(new) => compare(&place, old, new, found),
            None => found.push(format!("{}: is gone or renamed", &place[1..])),
        }
    }
    if let Some(new) = new.get("items") {
        let old = old.get("items").unwrap_or(&Value::Bool(true));
        compare(&format!("{place}[]"), old, new, found);
    }
}

/// The only values that a schema takes, if it names them.
fn values(schema: &Value) -> Option<Vec<&Value>> {
    if let Some(value) = schema.get("const") {
        return Some(vec![value]);
    }
    if let Some(values) = schema["enum"].as_array() {
        return Some(values.iter().collect());
    }
    let each: Option<Vec<_>> = schema["oneOf"].as_array()?.iter().map(values).collect();
    Some(each?.concat())
}

/// The schemas of which one is enough.
fn shapes(schema: &Value) -> Option<Vec<&Value>> {
    let any = schema["oneOf"].as_array().or(schema["anyOf"].as_array());
    any.map(|any| any.iter().collect())
}

fn retyped(old: &Value, new: &Value) -> Option<String> {
    let types = names(&new["type"]);
    let fits = |name: &&str| {
        types.is_empty() || types.contains(name) || *name == "integer" && types.contains(&"number")
    };
    let before = names(&old["type"]);
    if before.is_empty() && !types.is_empty() || !before.iter().all(fits) {
        let was = if before.is_empty() {
            "anything".into()
        } else {
            old["type"].to_string()
        };
        return Some(format!("was {was}, is {}", new["type"]));
    }
    let width = |format: &Value| WIDTHS.iter().position(|width| format == *width);
    let (before, now) = (&old["format"], &new["format"]);
    let wider = width(before).is_some() && width(before) <= width(now);
    (!now.is_null() && before != now && !wider).then(|| format!("was {before}, is {now}"))
}

/// A list of names, or a single one.
fn names(list: &Value) -> Vec<&str> {
    match list {
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What the schema is compared as after `change`.
    fn after(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let old = json!({
            "type": "object",
            "required": ["data"],
            "properties": { "data": {
                "type": "object",
                "required": ["query", "code", "count", "model"],
                "properties": {
                    "query": { "type": "string", "format": "uuid" },
                    "code": { "oneOf": [
                        { "type": "string", "const": "A", "description": "a" },
                        { "type": "string", "const": "B", "description": "b" },
                    ] },
                    "count": { "type": "integer", "format": "uint32", "minimum": 0 },
                    "model": { "type": ["string", "null"] },
                    "files": { "type": "array", "items": { "type": "string" }, "default": [] },
                    "usage": { "anyOf": [
                        { "type": "object", "properties": { "tokens": { "type": "integer" } } },
                        { "type": "null" },
                    ] },
                    "end": {
                        "properties": { "at": { "type": "integer" } },
                        "oneOf": [{ "properties": { "reason": { "type": "string" } } }],
                    },
                    "context": true,
                    "priority": { "type": "integer", "default": 1 },
                },
            } },
        });
        let mut new = old.clone();
        change(&mut new["properties"]["data"]);
        broken(&old, &new)
    }

    #[test]
    fn what_stored_events_bear() {
        let changes: [fn(&mut Value); 13] = [
            |_| {},
            |data| data["description"] = json!("Other words."),
            |data| data["properties"]["priority"]["description"] = json!("How soon."),
            |data| data["properties"]["new"] = json!({ "type": "string" }),
            |data| data["properties"]["new"] = json!({ "type": "integer", "default": 7 }),
            |data| data["required"] = json!(["query", "code", "count"]),
            |data| {
                let codes = data["properties"]["code"]["oneOf"].as_array_mut().unwrap();
                codes.push(json!({ "type": "string", "const": "C" }));
            },
            |data| data["properties"]["code"] = json!({ "type": "string" }),
            |data| data["properties"]["count"]["format"] = json!("uint64"),
            |data| data["properties"]["count"] = json!({ "type": "number" }),
            |data| data["properties"]["query"] = json!({ "type": ["string", "null"] }),
            |data| data["properties"]["files"]["items"] = json!(true),
            |data| {
                let usage = &mut data["properties"]["usage"]["anyOf"][0];
                usage["properties"]["cached"] = json!({ "type": "integer" });
            },
        ];
        for (index, change) in changes.into_iter().enumerate() {
            assert_eq!(after(change), Vec::<String>::new(), "change {index}");
        }
    }

    /// What is changed, and how the complaint begins.
    type Change = (fn(&mut Value), &'static str);

    #[test]
    fn what_stored_events_do_not_bear_is_named() {
        let changes: [Change; 18] = [
            (
                |data| data["properties"]["end"]["properties"] = json!({}),
                "data.end.at: is gone",
            ),
            (
                |data| data["properties"]["end"]["oneOf"][0] = json!({ "type": "object" }),
                "data.end: 1 of its shapes",
            ),
            (
                |data| drop(data["properties"].as_object_mut().unwrap().remove("files")),
                "data.files: is gone",
            ),
            (
                |data| {
                    let fields = data["properties"].as_object_mut().unwrap();
                    let model = fields.remove("model").unwrap();
                    fields.insert("model_name".into(), model);
                },
                "data.model: is gone or renamed",
            ),
            (
                |data| {
                    data["properties"]["by"] = json!({ "type": "string" });
                    data["required"] = json!(["query", "code", "count", "model", "by"]);
                },
                "data: by is missing in stored events",
            ),
            (
                |data| data["required"] = json!(["query", "code", "count", "model", "files"]),
                "data: files may be absent",
            ),
            (
                |data| data["properties"]["count"]["type"] = json!("string"),
                "data.count: was \"integer\"",
            ),
            (
                |data| data["properties"]["count"]["format"] = json!("uint16"),
                "data.count: was \"uint32\"",
            ),
            (
                |data| data["properties"]["count"]["minimum"] = json!(1),
                "data.count: the rule minimum: 1",
            ),
            (
                |data| data["properties"]["query"]["format"] = json!("date-time"),
                "data.query: was \"uuid\"",
            ),
            (
                |data| data["properties"]["query"]["maxLength"] = json!(9),
                "data.query: the rule maxLength",
            ),
            (
                |data| data["properties"]["model"]["type"] = json!("string"),
                "data.model: was",
            ),
            (
                |data| data["properties"]["code"] = json!({ "enum": ["A"] }),
                "data.code: the value \"B\" is gone",
            ),
            (
                |data| data["properties"]["model"]["enum"] = json!(["m"]),
                "data.model: takes some values only",
            ),
            (
                |data| data["properties"]["files"]["items"] = json!({ "type": "integer" }),
                "data.files[]: was \"string\"",
            ),
            (
                |data| data["properties"]["usage"] = json!({ "type": "null" }),
                "data.usage: 1 of its shapes",
            ),
            (
                |data| data["properties"]["context"] = json!({ "type": "object" }),
                "data.context: was anything",
            ),
            (
                |data| data["properties"]["priority"]["default"] = json!(2),
                "data.priority: where it is absent it was 1",
            ),
        ];
        for (change, reason) in changes {
            let found = after(change);
            assert_eq!(found.len(), 1, "{reason}: {found:?}");
            assert!(found[0].starts_with(reason), "{reason}: {found:?}");
        }
        let strict = after(|data| data["additionalProperties"] = json!(false));
        assert_eq!(
            strict,
            ["data: the rule additionalProperties: false is new"]
        );
    }
}
