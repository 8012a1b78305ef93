//! Old events, brought up to date when they are read.
//!
//! What is stored is never rewritten. Where a type has a newer version, a pure function makes the
//! data of the next version of the data of the one before, and steps follow each other until the
//! version that the code knows. Only commits that cannot be read as they are go through this: the
//! usual one costs one parse and nothing else.
//!
//! To change an event: the variant gets the next version's name, `upcast.rs` of the aggregate the
//! step, and the [`crate::catalogue`] the version. Programs that read it must be running before the
//! first that writes it: an older one parks what it does not know.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// What an event says, without its envelope.
pub type Data = Map<String, Value>;

/// The step from one version of an event type to the next.
#[derive(Clone, Copy, Debug)]
pub struct Upcast {
    /// The type as it was stored.
    pub from: &'static str,
    /// The type one version later.
    pub to: &'static str,
    /// Makes its data.
    pub data: fn(Data) -> Data,
}

/// The events of an aggregate, as they are stored.
pub trait Recorded: Serialize + DeserializeOwned {
    /// The steps from every version that is not written any more.
    const UPCASTS: &'static [Upcast] = &[];
}

/// The events of a commit at their latest versions; `None` if none of them is of an older one.
pub(crate) fn up_to_date(payload: &[u8], upcasts: &[Upcast]) -> Option<Value> {
    if upcasts.is_empty() {
        return None;
    }
    let mut events: Vec<Data> = serde_json::from_slice(payload).ok()?;
    let mut changed = false;
    for event in &mut events {
        while let Some(step) = step(event, upcasts) {
            let Some(Value::Object(data)) = event.remove("data") else {
                return None;
            };
            event.insert("data".into(), (step.data)(data).into());
            event.insert("type".into(), step.to.into());
            changed = true;
        }
    }
    changed.then(|| events.into())
}

fn step<'a>(event: &Data, upcasts: &'a [Upcast]) -> Option<&'a Upcast> {
    let name = event.get("type")?.as_str()?;
    upcasts.iter().find(|step| step.from == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::decode;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "type", content = "data")]
    enum Event {
        #[serde(rename = "walk.begun.v1")]
        Begun { at: u64 },
        #[serde(rename = "walk.ended.v3")]
        Ended { metres: u64, by_night: bool },
    }

    impl Recorded for Event {
        const UPCASTS: &'static [Upcast] = &[
            Upcast {
                from: "walk.ended.v2",
                to: "walk.ended.v3",
                data: |mut data| {
                    data.insert("by_night".into(), false.into());
                    data
                },
            },
            Upcast {
                from: "walk.ended.v1",
                to: "walk.ended.v2",
                data: |mut data| {
                    let kilometres = data.remove("kilometres").and_then(|n| n.as_u64());
                    data.insert("metres".into(), kilometres.map(|n| n * 1000).into());
                    data
                },
            },
        ];
    }

    fn read(events: &str) -> Result<Vec<Event>, String> {
        decode("walk", events.as_bytes()).map_err(|error| error.source.to_string())
    }

    #[test]
    fn steps_follow_each_other_whatever_else_is_in_the_commit() {
        let read = read(
            r#"[{"type":"walk.begun.v1","data":{"at":7}},
                {"type":"walk.ended.v1","data":{"kilometres":2}},
                {"type":"walk.ended.v2","data":{"metres":5}},
                {"type":"walk.ended.v3","data":{"metres":6,"by_night":true}}]"#,
        );
        let ended = |metres, by_night| Event::Ended { metres, by_night };
        assert_eq!(
            read.unwrap(),
            [
                Event::Begun { at: 7 },
                ended(2000, false),
                ended(5, false),
                ended(6, true)
            ]
        );
    }

    #[test]
    fn what_nobody_knows_stays_unreadable() {
        let known = r#"{"type":"walk.ended.v1","data":{"kilometres":2}}"#;
        for unreadable in [
            r#"{"type":"walk.ended.v9","data":{}}"#,
            r#"{"type":"walk.ended.v2","data":7}"#,
            r#"{"type":"walk.ended.v1","data":{}}"#,
            r#"{"data":{}}"#,
            "7",
        ] {
            assert!(read(&format!("[{known},{unreadable}]")).is_err());
            assert!(read(&format!("[{unreadable}]")).is_err());
        }
        let error = read(r#"[{"type":"walk.ended.v9","data":{}}]"#).unwrap_err();
        assert!(error.contains("unknown variant `walk.ended.v9`"), "{error}");
    }
}
