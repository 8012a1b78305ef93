//! API keys: as their owners see them, and for gateways that check one.

use super::{
    Store, Unanswered,
    fold::{Change, Contradiction, Fold, Overlay, column, first},
    signed, unreadable,
};
use crate::{
    instant::Instant,
    seal::{Column, Opener, Seal},
};
use domain::{
    Timestamp,
    api_keys::{Event, Scope, SecretHash},
    id::{AccountId, ApiKeyId},
    limits,
    text::storable,
    wire::{
        rest::ApiKeyItem,
        view::{ApiKeys, ApiKeysFound, KnownKey},
    },
};
use sqlx::{FromRow, PgConnection};
use std::collections::BTreeSet;
use uuid::Uuid;

const NAME: Column = "api_keys.name";

/// What a batch does to `api_keys`.
pub(super) type Changes = Fold<Created, Later>;

/// A row as it begins.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Created {
    account: AccountId,
    name: Vec<u8>,
    secret_hash: String,
    scopes: String,
    expires_at: Option<Timestamp>,
    at: Timestamp,
}

/// What becomes of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Later {
    revoked_at: Option<Timestamp>,
}

impl Overlay for Later {
    fn overlay(&mut self, later: Self) {
        self.revoked_at = later.revoked_at.or(self.revoked_at);
    }
}

pub(super) fn changes() -> Changes {
    Fold::new("api_keys")
}

/// What an event does to its row.
pub(super) fn apply(
    changes: &mut Changes,
    event: &Event,
    seq: u64,
    seal: &Seal,
) -> Result<(), Contradiction> {
    match event {
        Event::Created {
            account,
            key,
            name,
            secret_hash,
            scopes,
            expires_at,
            at,
        } => {
            let scopes: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
            let new = Created {
                account: *account,
                name: seal.cell(NAME, key.uuid(), &storable(name)),
                secret_hash: secret_hash.as_str().to_owned(),
                scopes: scopes.join(" "),
                expires_at: *expires_at,
                at: *at,
            };
            changes.begin(key.uuid(), new, seq)
        }
        Event::Revoked {
            account: _,
            key,
            at,
        } => {
            let later = Later {
                revoked_at: Some(*at),
            };
            changes.go_on(key.uuid(), later, seq);
            Ok(())
        }
    }
}

pub(super) async fn write(
    changes: &Changes,
    connection: &mut PgConnection,
) -> Result<(), super::Error> {
    changes.write(connection, insert, update).await
}

async fn insert(
    begun: &[&Change<Created, Later>],
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO api_keys
             (key_id, account_id, name, secret_hash, scopes, created_at, expires_at, revoked_at,
              last_seq)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::bytea[], $4::text[], $5::text[],
                              $6::timestamptz[], $7::timestamptz[], $8::timestamptz[],
                              $9::bigint[])",
    )
    .bind(column(begun, |change| change.id))
    .bind(first(begun, |new| new.account.uuid()))
    .bind(first(begun, |new| new.name.as_slice()))
    .bind(first(begun, |new| new.secret_hash.as_str()))
    .bind(first(begun, |new| new.scopes.as_str()))
    .bind(first(begun, |new| Instant(new.at)))
    .bind(column(begun, |change| {
        let end = change.new.as_ref().and_then(|new| new.expires_at);
        end.map(Instant)
    }))
    .bind(column(begun, |change| change.later.revoked_at.map(Instant)))
    .bind(column(begun, |change| signed(change.last_seq)))
    .execute(connection)
    .await?;
    Ok(())
}

async fn update(
    gone_on: &[&Change<Created, Later>],
    connection: &mut PgConnection,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "UPDATE api_keys AS row
         SET revoked_at = COALESCE(later.revoked_at, row.revoked_at), last_seq = later.last_seq
         FROM UNNEST($1::uuid[], $2::timestamptz[], $3::bigint[])
              AS later (key_id, revoked_at, last_seq)
         WHERE row.key_id = later.key_id",
    )
    .bind(column(gone_on, |change| change.id))
    .bind(column(gone_on, |change| {
        change.later.revoked_at.map(Instant)
    }))
    .bind(column(gone_on, |change| signed(change.last_seq)))
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Answers a question.
pub(crate) async fn query(store: Store, question: ApiKeys) -> Result<ApiKeysFound, Unanswered> {
    match question {
        ApiKeys::List { account } => Ok(ApiKeysFound::List(list(&store, account).await?)),
        ApiKeys::Find { key } => Ok(ApiKeysFound::Key(find(&store, key).await?)),
    }
}

/// Those that were neither revoked nor have expired.
async fn list(store: &Store, account: AccountId) -> Result<Vec<ApiKeyItem>, Unanswered> {
    let Some(opener) = Opener::of(&store.keys, account).await? else {
        return Ok(Vec::new());
    };
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT key_id, name, scopes, created_at, expires_at
         FROM api_keys
         WHERE account_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)
         ORDER BY created_at DESC, key_id DESC
         LIMIT $3",
    )
    .bind(account.uuid())
    .bind(Instant(infra::clock::now()))
    .bind(i64::try_from(limits::API_KEYS).unwrap_or(i64::MAX))
    .fetch_all(&store.pool)
    .await?;
    let items = rows.into_iter().map(|row| row.item(&opener));
    Ok(items.collect::<Result<_, _>>()?)
}

async fn find(store: &Store, key: ApiKeyId) -> Result<Option<KnownKey>, sqlx::Error> {
    let row: Option<Known> = sqlx::query_as(
        "SELECT key.account_id, key.secret_hash, key.scopes, key.expires_at
         FROM api_keys AS key
         JOIN accounts AS account ON account.account_id = key.account_id AND account.is_active
         WHERE key.key_id = $1 AND key.revoked_at IS NULL",
    )
    .bind(key.uuid())
    .fetch_optional(&store.pool)
    .await?;
    row.map(Known::key).transpose()
}

#[derive(FromRow)]
struct Row {
    key_id: Uuid,
    name: Vec<u8>,
    scopes: String,
    created_at: Instant,
    expires_at: Option<Instant>,
}

impl Row {
    fn item(self, opener: &Opener) -> Result<ApiKeyItem, sqlx::Error> {
        Ok(ApiKeyItem {
            id: ApiKeyId::new(self.key_id),
            name: opener.text(NAME, self.key_id, &self.name)?,
            scopes: scopes(&self.scopes)?,
            created_at: self.created_at.0,
            expires_at: self.expires_at.map(|end| end.0),
        })
    }
}

#[derive(FromRow)]
struct Known {
    account_id: Uuid,
    secret_hash: String,
    scopes: String,
    expires_at: Option<Instant>,
}

impl Known {
    fn key(self) -> Result<KnownKey, sqlx::Error> {
        Ok(KnownKey {
            account: AccountId::new(self.account_id),
            scopes: scopes(&self.scopes)?,
            secret_hash: SecretHash::stored(self.secret_hash),
            expires_at: self.expires_at.map(|end| end.0),
        })
    }
}

fn scopes(text: &str) -> Result<BTreeSet<Scope>, sqlx::Error> {
    let words = text.split_ascii_whitespace();
    words
        .map(|word| Scope::parse(word).ok_or_else(|| unreadable("api_keys.scopes", text)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::fold;

    #[test]
    fn any_split_into_batches_gives_the_same_rows() {
        let account = AccountId::new(Uuid::from_u128(2));
        let key = |n| ApiKeyId::new(Uuid::from_u128(n));
        let created = |n| Event::Created {
            account,
            key: key(n),
            name: format!("key {n}"),
            secret_hash: SecretHash::of("amk_x"),
            scopes: Scope::ALL.into(),
            expires_at: None,
            at: Timestamp::from_millis(10),
        };
        let at = Timestamp::from_millis(500);
        let revoked = Event::Revoked {
            account,
            key: key(1),
            at,
        };
        let history = [created(1), created(3), revoked];
        let apply = |changes: &mut Changes, event: &Event, seq| {
            super::apply(changes, event, seq, &Seal::Plain)
        };
        let rows = fold::tests::rows_of_every_split(&history, changes, apply);
        let row = &rows[&Uuid::from_u128(1)];
        assert_eq!((row.later.revoked_at, row.last_seq), (Some(at), 3));
        assert_eq!(rows[&Uuid::from_u128(3)].later, Later::default());
    }

    #[test]
    fn scopes_are_read_back() {
        let all = Scope::ALL.map(Scope::as_str).join(" ");
        assert_eq!(scopes(&all).unwrap(), Scope::ALL.into());
        assert!(scopes("queries:dream").is_err());
    }
}
