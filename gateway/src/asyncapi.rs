//! The AsyncAPI 3 document: what goes over the query socket, and what the bus carries for whoever
//! is let onto it. Frames, token messages and events are described by their own types and by the
//! catalogue, so that a new one is in the document as soon as it is in the code.

use crate::socket;
use domain::{
    catalogue::ENTRIES,
    commit::header,
    schema,
    subject::Kind,
    wire::{
        socket::{ClientFrame, ServerFrame},
        token,
    },
};
use serde_json::{Map, Value, json};

type Object = Map<String, Value>;

const SOCKET: &str = "query_socket";
const TOKENS: &str = "token_stream";

/// Headers of a commit, and what they say.
const HEADERS: [(&str, &str); 10] = [
    (
        header::EVENT_TYPES,
        "Types of the events, separated by commas.",
    ),
    (header::ACTOR, "Who gave the command, as JSON."),
    (
        header::COMMAND_ID,
        "The command; a repeat carries the same.",
    ),
    (header::CORRELATION_ID, "The request that began it all."),
    (
        header::SEALED,
        "That the payload is sealed, how, and with whose key: `<version> <account>`.",
    ),
    (
        header::CAUSATION_ID,
        "What caused the command: a request or an event.",
    ),
    (
        header::FINGERPRINT,
        "A hash of what the command said, where it came with an idempotency key.",
    ),
    (header::SCHEMA, "Version of this layout."),
    (header::TRACEPARENT, "W3C Trace Context."),
    (header::REQUEST_ID, "The request."),
];

/// The header of a sealed message.
const SEALED: &str = "Where the payload is sealed: `<version> <account>`, the way and whose key it \
                      takes (AES-256-GCM-SIV; 12 bytes of nonce, the text in zstd, 16 bytes of tag; \
                      bound to the subject where it is stored).";

/// The document.
pub(crate) fn document() -> Value {
    let mut parts = Parts::default();
    parts.socket();
    parts.token_stream();
    for kind in Kind::ALL {
        parts.log(kind);
    }
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Amaima",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The query socket for apps; token streams and the log for services \
                            on the bus. REST is described at /openapi.json.",
        },
        "defaultContentType": "application/json",
        "servers": {
            "gateway": {
                "host": "{host}",
                "protocol": "ws",
                "description": "Behind TLS it is wss.",
                "variables": { "host": { "default": "127.0.0.1:8000" } },
            },
            "bus": {
                "host": "{host}",
                "protocol": "nats",
                "description": "nats-server with JetStream, for services alone.",
                "variables": { "host": { "default": "127.0.0.1:4222" } },
            },
        },
        "channels": parts.channels,
        "operations": parts.operations,
        "components": { "messages": parts.messages, "schemas": parts.schemas },
    })
}

/// What the document is made of so far.
#[derive(Default)]
struct Parts {
    channels: Object,
    operations: Object,
    messages: Object,
    schemas: Object,
}

impl Parts {
    fn socket(&mut self) {
        let mut take = |prefix: &str, frames: Value| {
            let frames = schema::by_type(&frames).into_iter();
            let named = frames.map(|(name, payload)| {
                let id = format!("{prefix}.{name}");
                let summary = payload["description"].clone();
                let message = json!({ "name": name, "summary": summary, "payload": payload });
                self.messages.insert(id.clone(), message);
                id
            });
            named.collect::<Vec<_>>()
        };
        let sent = take("server", schema::sent::<ServerFrame>());
        let received = take("client", schema::read::<ClientFrame>());
        let channel = json!({
            "address": socket::DOC.path,
            "title": "The query socket",
            "description": "Text frames, one JSON object each. The access token comes as `token` \
                            or as a bearer token.",
            "servers": [reference("servers", "gateway")],
            "bindings": { "ws": {
                "method": "GET",
                "query": { "type": "object", "properties": { "token": { "type": "string" } } },
            } },
        });
        let all = [sent.as_slice(), &received].concat();
        self.channel(SOCKET, channel, &all);
        self.operation("send_frames", "send", SOCKET, &sent);
        self.operation("receive_frames", "receive", SOCKET, &received);
    }

    fn token_stream(&mut self) {
        let id = "token_message".to_owned();
        let sealed = json!({ "type": "string", "description": SEALED });
        let message = json!({
            "name": "token_message",
            "summary": "One message of a query's token stream.",
            "description": "The payload is what comes out of a sealed message.",
            "headers": { "type": "object", "properties": { header::SEALED: sealed } },
            "payload": schema::sent::<token::Message>(),
        });
        self.messages.insert(id.clone(), message);
        let channel = json!({
            "address": "live.{query}",
            "title": "A query's token stream",
            "description": "What the stream TOKENS has stored under tok.{query}, published again: \
                            queued, chunks, the end. `seq` counts from 1 without gaps; what came \
                            before is read from the stream. All but `queued` are sealed with a \
                            key of this query alone, which command-svc gives on ask.query_key. \
                            Jobs in the stream JOBS are sealed with it too.",
            "servers": [reference("servers", "bus")],
            "parameters": { "query": { "description": "The query's id." } },
        });
        self.channel(TOKENS, channel, std::slice::from_ref(&id));
        self.operation("publish_tokens", "send", TOKENS, &[id]);
    }

    fn log(&mut self, kind: Kind) {
        let kind_name = kind.as_str();
        let (mut events, mut examples) = (vec![], vec![]);
        for entry in ENTRIES.iter().filter(|entry| entry.aggregate == kind) {
            let mut schema = entry.schema();
            if let Some(schema) = schema.as_object_mut() {
                schema.remove("$schema");
                schema.insert("deprecated".into(), entry.superseded_by().is_some().into());
            }
            self.schemas.insert(entry.name.into(), schema);
            events.push(reference("components/schemas", entry.name));
            examples.push(json!({ "name": entry.name, "payload": [entry.example()] }));
        }
        let id = format!("{kind_name}.commit");
        let message = json!({
            "name": id,
            "summary": "The events of one decision: a batch of CloudEvents 1.0.",
            "contentType": "application/cloudevents-batch+json",
            "headers": headers(),
            "payload": { "type": "array", "minItems": 1, "items": { "oneOf": events } },
            "examples": examples,
        });
        self.messages.insert(id.clone(), message);
        let channel = json!({
            "address": format!("ev.{{part}}.{kind_name}.{{id}}"),
            "title": format!("The log: {kind_name}"),
            "description": "One subject of the stream EVENTS for each aggregate. Deprecated \
                            types are in it, and are not written any more.",
            "servers": [reference("servers", "bus")],
            "parameters": {
                "part": { "description": "Two hexadecimal digits, a hash of the id." },
                "id": { "description": "The aggregate's id." },
            },
        });
        let name = format!("{kind_name}_log");
        self.channel(&name, channel, std::slice::from_ref(&id));
        self.operation(&format!("record_{kind_name}"), "send", &name, &[id]);
    }

    fn channel(&mut self, name: &str, mut channel: Value, messages: &[String]) {
        let messages = messages
            .iter()
            .map(|id| (id.clone(), reference("components/messages", id)));
        channel["messages"] = messages.collect::<Object>().into();
        self.channels.insert(name.into(), channel);
    }

    fn operation(&mut self, name: &str, action: &str, channel: &str, messages: &[String]) {
        let place = format!("channels/{channel}/messages");
        let messages: Vec<Value> = messages.iter().map(|id| reference(&place, id)).collect();
        let operation = json!({
            "action": action,
            "channel": reference("channels", channel),
            "messages": messages,
        });
        self.operations.insert(name.into(), operation);
    }
}

fn reference(place: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/{place}/{name}") })
}

fn headers() -> Value {
    let each = HEADERS.into_iter().map(|(name, description)| {
        let header = json!({ "type": "string", "description": description });
        (name.to_owned(), header)
    });
    json!({ "type": "object", "properties": each.collect::<Object>() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{id::QueryId, subject};
    use std::collections::BTreeSet;
    use uuid::Uuid;

    /// Calls `each` with every object in the document and where it is.
    fn walk<'a>(place: &str, value: &'a Value, each: &mut impl FnMut(&str, &'a Object)) {
        match value {
            Value::Object(object) => {
                each(place, object);
                for (name, value) in object {
                    walk(&format!("{place}/{name}"), value, each);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk(place, item, each)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_message_is_used() {
        let document = document();
        let mut used = BTreeSet::new();
        walk("", &document, &mut |place, object| {
            if let Some(target) = object.get("$ref").and_then(Value::as_str) {
                let found = document.pointer(target.trim_start_matches('#'));
                assert!(found.is_some(), "{place}: {target}");
                used.insert(target.to_owned());
            }
        });
        for place in ["messages", "schemas"] {
            for name in document["components"][place].as_object().unwrap().keys() {
                assert!(
                    used.contains(&format!("#/components/{place}/{name}")),
                    "{name}"
                );
            }
        }
        for (name, channel) in document["channels"].as_object().unwrap() {
            let operations = document["operations"].as_object().unwrap().values();
            let own = operations.filter(|o| o["channel"]["$ref"] == format!("#/channels/{name}"));
            let messages: usize = own.map(|o| o["messages"].as_array().unwrap().len()).sum();
            assert_eq!(
                messages,
                channel["messages"].as_object().unwrap().len(),
                "{name}"
            );
            let address = channel["address"].as_str().unwrap();
            let parameters = channel["parameters"].as_object();
            assert_eq!(address.matches('{').count(), parameters.map_or(0, Map::len));
        }
    }

    #[test]
    fn addresses_are_those_of_the_code() {
        let document = document();
        let address = |channel: &str| {
            let address = &document["channels"][channel]["address"];
            address.as_str().unwrap().to_owned()
        };
        for kind in Kind::ALL {
            let aggregate = subject::Aggregate::new(kind, Uuid::from_u128(9));
            let subject = address(&format!("{}_log", kind.as_str()))
                .replace("{part}", &format!("{:02x}", aggregate.part()))
                .replace("{id}", &aggregate.id.to_string());
            assert_eq!(subject, aggregate.subject());
        }
        let query = QueryId::new(Uuid::from_u128(9));
        let live = address(TOKENS).replace("{query}", &query.to_string());
        assert_eq!(live, subject::live(query));
        let described = document["channels"][TOKENS]["description"].as_str();
        assert!(described.unwrap().contains(subject::QUERY_KEY));
    }

    #[test]
    fn every_event_and_every_frame_is_there() {
        let document = document();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let listed: BTreeSet<&str> = schemas.keys().map(String::as_str).collect();
        assert_eq!(listed, ENTRIES.iter().map(|entry| entry.name).collect());
        let messages = document["components"]["messages"].as_object().unwrap();
        let names: BTreeSet<&String> = messages.keys().collect();
        insta::assert_json_snapshot!(names);
        // Whether objects keep their order depends on what else is built.
        insta::with_settings!({sort_maps => true}, {
            insta::assert_json_snapshot!("query_update", messages["server.query_update"]);
        });
    }

    /// AsyncAPI's own schemas are a superset of draft 7, and ours are written in a later draft: no
    /// keyword may mean something else there.
    #[test]
    fn schemas_keep_to_what_both_drafts_have() {
        const ANY_DRAFT: [&str; 18] = [
            "type",
            "format",
            "const",
            "enum",
            "oneOf",
            "anyOf",
            "properties",
            "required",
            "items",
            "minItems",
            "uniqueItems",
            "minimum",
            "maximum",
            "default",
            "additionalProperties",
            "description",
            "title",
            "deprecated",
        ];
        fn check(place: &str, schema: &Value) {
            for (keyword, value) in schema.as_object().into_iter().flatten() {
                let place = format!("{place}/{keyword}");
                match keyword.as_str() {
                    "$ref" => {}
                    "properties" | "patternProperties" => value
                        .as_object()
                        .unwrap()
                        .iter()
                        .for_each(|(name, value)| check(&format!("{place}/{name}"), value)),
                    "oneOf" | "anyOf" => {
                        value
                            .as_array()
                            .unwrap()
                            .iter()
                            .for_each(|value| check(&place, value));
                    }
                    "items" => check(&place, value),
                    known => assert!(ANY_DRAFT.contains(&known), "{place}"),
                }
            }
        }
        let document = document();
        for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
            check(name, schema);
        }
        for (name, message) in document["components"]["messages"].as_object().unwrap() {
            check(name, &message["payload"]);
        }
    }
}
