//! `POST /v1/api-keys`: the answer shows the key, once.

use super::Item;
use crate::{
    api_keys::text,
    app::{App, Order},
    edge::{self, Call, Error, Fields, Identity, Key},
    openapi::Doc,
};
use axum::{Json, extract::State};
use domain::{
    Actor, Timestamp,
    api_keys::{Scope, SecretHash},
    id::ApiKeyId,
    limits,
    subject::View,
    wire::{
        command::Body,
        error::{Code, DetailKind, Failure},
        rest::ApiKeyItem,
        view::{ApiKeys, ApiKeysFound},
    },
};
use http::{HeaderName, StatusCode, header};
use serde::Serialize;
use std::collections::BTreeSet;

pub(crate) const DOC: Doc = Doc::post("/v1/api-keys", "Make an API key, which is shown once")
    .signed_in()
    .takes("NewApiKey")
    .answers(201, "ApiKeyMade")
    .refuses(&[Code::Conflict]);

#[derive(Debug, Serialize)]
pub(crate) struct Made {
    #[serde(flatten)]
    item: Item,
    /// The key itself.
    key: String,
}

/// What a client asked for.
#[derive(Debug)]
struct Wanted {
    name: String,
    scopes: BTreeSet<Scope>,
    expires_at: Option<Timestamp>,
}

pub(crate) async fn handle(
    State(app): State<App>,
    call: Call,
    identity: Identity,
    idempotency: Key,
    body: edge::Body,
) -> Result<(StatusCode, [(HeaderName, &'static str); 1], Json<Made>), Error> {
    let now = infra::clock::now();
    let Wanted {
        name,
        scopes,
        expires_at,
    } = read(&body, now)?;
    let account = identity.user;
    let command = idempotency.command(&account.to_string(), "api_key");
    let id = ApiKeyId::derived(&[&command.to_string()]);
    let key = text::write(id, secret()?);
    let body = Body::CreateApiKey {
        key: id,
        name: name.clone(),
        secret_hash: SecretHash::of(&key),
        scopes: scopes.clone(),
        expires_at,
    };
    let order = Order {
        id: command,
        fingerprint: idempotency.fingerprint(&body),
        body,
    };
    app.order(&call, Actor::User(account), order).await?;
    // Once the read model has it, every gateway takes it. The key is shown nevertheless if that is
    // late: nobody could get it again.
    let question = ApiKeys::Find { key: id };
    let shown = app.ask::<_, ApiKeysFound>(&call, account, View::ApiKeys, question);
    if shown.await.is_err() {
        tracing::warn!(request_id = &*call.request_id, "an API key is shown early");
    }
    let item = ApiKeyItem {
        id,
        name,
        scopes,
        created_at: now,
        expires_at,
    };
    let made = Made {
        item: item.into(),
        key,
    };
    let headers = [(header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, headers, Json(made)))
}

/// 256 random bits.
fn secret() -> Result<[u128; 2], Failure> {
    let mut halves = [[0; 16]; 2];
    for half in &mut halves {
        aws_lc_rs::rand::fill(half).map_err(|_| Failure::internal())?;
    }
    Ok(halves.map(u128::from_be_bytes))
}

fn read(body: &edge::Body, now: Timestamp) -> Result<Wanted, Failure> {
    let mut fields = Fields::of(body);
    let name = fields.short_text("name", limits::API_KEY_NAME_CHARS);
    if name.is_none() && fields.problems.is_empty() {
        fields.problem("name", DetailKind::MissingField, "Field is required");
    }
    let known = Scope::ALL.map(Scope::as_str).join(", ");
    let before = fields.problems.len();
    let mut scopes = BTreeSet::new();
    for (index, word) in fields.texts("scopes").iter().enumerate() {
        match Scope::parse(word) {
            Some(scope) => _ = scopes.insert(scope),
            None => {
                let field = format!("scopes.{index}");
                let rule = format!("Must be one of {known}");
                fields.problem(&field, DetailKind::InvalidValue, &rule);
            }
        }
    }
    if scopes.is_empty() && fields.problems.len() == before {
        let rule = format!("Must name at least one of {known}");
        fields.problem("scopes", DetailKind::MissingField, &rule);
    }
    let expires_at = fields.text("expires_at").map(Timestamp::parse);
    match expires_at {
        Some(Err(_)) => {
            let rule = "Must be an ISO 8601 instant";
            fields.problem("expires_at", DetailKind::InvalidFormat, rule);
        }
        Some(Ok(end)) if end <= now => {
            let rule = "Must be in the future";
            fields.problem("expires_at", DetailKind::InvalidValue, rule);
        }
        Some(Ok(_)) | None => {}
    }
    fields.finish()?;
    Ok(Wanted {
        name: name.unwrap_or_default().to_owned(),
        scopes,
        expires_at: expires_at.and_then(Result::ok),
    })
}

#[cfg(test)]
pub(crate) fn example() -> Made {
    Made {
        item: super::example(),
        key: "amk_…".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn ask(value: Value) -> Result<Wanted, Vec<String>> {
        let Value::Object(object) = value else {
            unreachable!()
        };
        let now = Timestamp::parse("2025-03-04T09:15:00.000Z").unwrap();
        read(&edge::Body(object), now).map_err(|failure| {
            let details = failure.details.into_iter();
            details.map(|detail| detail.field).collect()
        })
    }

    #[test]
    fn name_and_scopes_are_needed_and_an_end_must_come() {
        let wanted = ask(json!({
            "name": " ci ", "scopes": ["queries:read", "queries:read"],
            "expires_at": "2025-03-04T10:15:01+01:00",
        }));
        let wanted = wanted.unwrap();
        assert_eq!((wanted.name.as_str(), wanted.scopes.len()), ("ci", 1));
        assert!(wanted.expires_at.is_some());
        let fields = |value| ask(value).unwrap_err();
        assert_eq!(fields(json!({})), ["name", "scopes"]);
        assert_eq!(
            fields(json!({"name": " ", "scopes": []})),
            ["name", "scopes"]
        );
        let long = "x".repeat(101);
        assert_eq!(
            fields(json!({"name": long, "scopes": ["all"], "expires_at": "tomorrow"})),
            ["name", "scopes.0", "expires_at"]
        );
        let past = "2025-03-04T09:15:00.000Z";
        assert_eq!(
            fields(json!({"name": 7, "scopes": ["queries:write"], "expires_at": past})),
            ["name", "expires_at"]
        );
    }

    #[test]
    fn secrets_differ() {
        let [one, other] = secret().unwrap();
        assert_ne!(one, other);
        assert_ne!(secret().unwrap(), secret().unwrap());
    }
}
