use serde_json::Value;

/// Words in the names of fields whose values nobody needs to see.
const SECRET: [&str; 2] = ["password", "secret"];

/// The same document with secrets such as password hashes replaced.
pub(super) fn masked(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| {
                let value = if is_secret(&name) {
                    "***".into()
                } else {
                    masked(value)
                };
                (name, value)
            })
            .collect(),
        Value::Array(items) => items.into_iter().map(masked).collect(),
        other => other,
    }
}

/// Whether a field of this name holds a secret.
pub(super) fn is_secret(name: &str) -> bool {
    SECRET.iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_are_masked_at_any_depth() {
        let value = json!([{ "data": { "password_hash": "$argon2id$", "name": "Mia" } }]);
        assert_eq!(
            masked(value),
            json!([{ "data": { "password_hash": "***", "name": "Mia" } }])
        );
    }
}
