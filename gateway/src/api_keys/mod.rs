//! API keys: what they look like ([`text`]), and whether one is good.
//!
//! A key names itself, so that it is found by its id and not by its hash. The read model is asked
//! once, and its answer kept for a while, of the keys that are in use here alone; that a key or its
//! person is worthless meanwhile is told by the revocations, which every gateway watches.

pub(crate) mod text;

use crate::{
    app::App,
    edge::{Call, identity::demand_person},
    tokens,
};
use domain::{
    api_keys::{Scope, SecretHash},
    id::{AccountId, ApiKeyId},
    limits,
    subject::View,
    wire::{
        error::{Code, Failure},
        view::{ApiKeys, ApiKeysFound, KnownKey},
    },
};
use lru::LruCache;
use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

/// Keys that are kept at most; others are asked for again.
const KEPT: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");
/// After this time the read model is asked again.
const ASKED_AGAIN: Duration = Duration::from_secs(60);
/// While it does not answer, a key goes on being good as long as an access token would be.
const TRUSTED: Duration = Duration::from_secs(limits::ACCESS_TOKEN_SECS.unsigned_abs());

/// The keys that are in use here.
pub(crate) struct Known(Mutex<LruCache<ApiKeyId, Entry>>);

struct Entry {
    key: Arc<KnownKey>,
    asked: Instant,
}

impl Known {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(LruCache::new(KEPT)))
    }

    fn entries(&self) -> MutexGuard<'_, LruCache<ApiKeyId, Entry>> {
        self.0.lock().unwrap_or_else(|error| error.into_inner())
    }

    fn get(&self, id: ApiKeyId, within: Duration) -> Option<Arc<KnownKey>> {
        let mut entries = self.entries();
        let entry = entries.get(&id)?;
        (entry.asked.elapsed() < within).then(|| entry.key.clone())
    }

    fn put(&self, id: ApiKeyId, key: Option<KnownKey>) -> Option<Arc<KnownKey>> {
        let mut entries = self.entries();
        let Some(key) = key else {
            entries.pop(&id);
            return None;
        };
        let key = Arc::new(key);
        let entry = Entry {
            key: key.clone(),
            asked: Instant::now(),
        };
        entries.put(id, entry);
        Some(key)
    }
}

/// Whose a key is, once it is checked: its form, that it was made and not revoked, its secret, its
/// end, its person, and that it was made for this.
///
/// # Errors
/// What the client is told.
pub(crate) async fn check(
    app: &App,
    call: &Call,
    key: &str,
    scope: Option<Scope>,
) -> Result<AccountId, Failure> {
    let id = text::parse(key).ok_or_else(wrong)?;
    // Until the list of revocations has been read once, a revoked key would pass.
    if !app.revocations.is_synced() {
        return Err(Failure::unavailable());
    }
    let known = look_up(app, call, id).await?.ok_or_else(wrong)?;
    // Both are hashes of 256 random bits: how far they are equal tells nothing.
    if known.secret_hash != SecretHash::of(key) {
        return Err(wrong());
    }
    if app.revocations.is_revoked(id.uuid()) {
        return Err(tokens::invalid("API key has been revoked"));
    }
    let now = infra::clock::now();
    if known.expires_at.is_some_and(|end| end <= now) {
        let message = "API key has expired";
        return Err(Failure::new(Code::AuthTokenExpired, message));
    }
    demand_person(app, known.account)?;
    if let Some(scope) = scope {
        demand(&known, scope)?;
    }
    Ok(known.account)
}

fn demand(key: &KnownKey, scope: Scope) -> Result<(), Failure> {
    if key.scopes.contains(&scope) {
        return Ok(());
    }
    let message = format!("This API key does not have the scope {}", scope.as_str());
    Err(Failure::new(Code::AuthPermissionDenied, message))
}

async fn look_up(app: &App, call: &Call, id: ApiKeyId) -> Result<Option<Arc<KnownKey>>, Failure> {
    if let Some(known) = app.api_keys.get(id, ASKED_AGAIN) {
        return Ok(Some(known));
    }
    let question = ApiKeys::Find { key: id };
    let found = app.ask_for_anybody(call, View::ApiKeys, question).await;
    match (found, app.api_keys.get(id, TRUSTED)) {
        (Ok(ApiKeysFound::Key(found)), _) => Ok(app.api_keys.put(id, found)),
        (Ok(ApiKeysFound::List(_)), _) => Err(Failure::internal()),
        (Err(_), Some(known)) => Ok(Some(known)),
        (Err(failure), None) => Err(failure),
    }
}

fn wrong() -> Failure {
    tokens::invalid("Invalid API key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_forgotten_in_time_and_with_its_key() {
        let known = Known::new();
        let id = ApiKeyId::new(uuid::Uuid::from_u128(1));
        let key = KnownKey {
            account: AccountId::new(uuid::Uuid::from_u128(2)),
            secret_hash: SecretHash::of("amk_x"),
            scopes: [Scope::QueriesRead].into(),
            expires_at: None,
        };
        assert_eq!(known.get(id, ASKED_AGAIN), None);
        known.put(id, Some(key.clone()));
        assert_eq!(known.get(id, ASKED_AGAIN).as_deref(), Some(&key));
        assert_eq!(known.get(id, Duration::ZERO), None);
        assert_eq!(demand(&key, Scope::QueriesRead), Ok(()));
        let failure = demand(&key, Scope::QueriesWrite).unwrap_err();
        assert_eq!(failure.code, Code::AuthPermissionDenied);
        assert!(failure.message.contains("queries:write"), "{failure:?}");
        known.put(id, None);
        assert_eq!(known.get(id, ASKED_AGAIN), None);
    }
}
