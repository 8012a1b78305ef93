//! JSON Schemas (2020-12) of what is stored and sent, made from the types themselves, so that a
//! description never says something else than the program does. Each stands alone.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// What a reader of this type accepts.
pub fn read<T: JsonSchema>() -> Value {
    made::<T>(SchemaSettings::draft2020_12().for_deserialize())
}

/// What a writer of this type sends.
pub fn sent<T: JsonSchema>() -> Value {
    made::<T>(SchemaSettings::draft2020_12().for_serialize())
}

fn made<T: JsonSchema>(mut settings: SchemaSettings) -> Value {
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.remove("title");
    schema.to_value()
}

/// Takes apart the schema of a type that is one of several things, told apart by their `type`:
/// each of them by that name, with what they have in common.
pub fn by_type(schema: &Value) -> Vec<(String, Value)> {
    let each = |variant: &Value| {
        let name = variant["properties"]["type"]["const"].as_str()?.to_owned();
        let mut whole = variant.as_object()?.clone();
        let both = [schema, variant];
        let properties: Map<String, Value> = both
            .into_iter()
            .filter_map(|part| part["properties"].as_object())
            .flat_map(Map::clone)
            .collect();
        let required: BTreeSet<&str> = both
            .into_iter()
            .filter_map(|part| part["required"].as_array())
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        whole.insert("properties".into(), properties.into());
        whole.insert("required".into(), required.into_iter().collect());
        Some((name, whole.into()))
    };
    let variants = schema["oneOf"].as_array();
    variants.into_iter().flatten().filter_map(each).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_variant_has_what_all_have_in_common() {
        let schema = json!({
            "properties": { "at": { "type": "integer" } },
            "required": ["at"],
            "oneOf": [
                {
                    "description": "It rains.",
                    "type": "object",
                    "properties": { "type": { "const": "rain" }, "mm": { "type": "number" } },
                    "required": ["type"],
                },
                { "type": "object", "properties": { "type": { "const": "sun" } } },
            ],
        });
        let variants = by_type(&schema);
        assert_eq!(variants.len(), 2);
        assert_eq!(
            variants[0],
            (
                "rain".to_owned(),
                json!({
                    "description": "It rains.",
                    "type": "object",
                    "properties": {
                        "type": { "const": "rain" },
                        "mm": { "type": "number" },
                        "at": { "type": "integer" },
                    },
                    "required": ["at", "type"],
                })
            )
        );
        assert_eq!(variants[1].0, "sun");
        assert_eq!(variants[1].1["required"], json!(["at"]));
    }
}
