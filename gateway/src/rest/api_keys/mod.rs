//! API keys (contract §17): made, listed and revoked by a person who has signed in, never by a key.

pub(crate) mod create;
pub(crate) mod list;
pub(crate) mod revoke;

use crate::api_keys::text;
use domain::wire::rest::ApiKeyItem;
use serde::Serialize;

/// A key in a list.
#[derive(Debug, Serialize)]
pub(crate) struct Item {
    #[serde(flatten)]
    key: ApiKeyItem,
    /// How it begins, for its owner to recognise it.
    hint: String,
}

impl From<ApiKeyItem> for Item {
    fn from(key: ApiKeyItem) -> Self {
        Self {
            hint: text::hint(key.id),
            key,
        }
    }
}

/// A key to show.
#[cfg(test)]
pub(crate) fn example() -> Item {
    let key: ApiKeyItem = serde_json::from_value(serde_json::json!({
        "id": "3f2c0000-0000-4000-8000-000000000001", "name": "Nightly report",
        "scopes": ["queries:write"], "created_at": "2025-03-04T09:15:00.000Z",
    }))
    .unwrap();
    key.into()
}
