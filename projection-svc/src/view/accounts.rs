//! People as clients see them. The password's hash stays in the log.

use super::{
    Store, Unanswered,
    fold::{Contradiction, Fold, column, first},
    signed, unreadable,
};
use crate::{
    instant::Instant,
    seal::{Column, Opener, Seal},
};
use domain::{
    Timestamp,
    account::{Event, Tier},
    id::AccountId,
    text::storable,
    wire::{
        rest::User,
        view::{AccountFound, Accounts},
    },
};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

const EMAIL: Column = "accounts.email";
const NAME: Column = "accounts.name";

/// What a batch does to `accounts`.
pub(super) type Changes = Fold<Registered, ()>;

/// A row as it begins.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Registered {
    email: Vec<u8>,
    name: Vec<u8>,
    tier: Tier,
    at: Timestamp,
}

pub(super) fn changes() -> Changes {
    Fold::new("accounts")
}

/// What an event does to its row.
pub(super) fn apply(
    changes: &mut Changes,
    event: &Event,
    seq: u64,
    seal: &Seal,
) -> Result<(), Contradiction> {
    match event {
        Event::Registered {
            account,
            email,
            name,
            password_hash: _,
            tier,
            at,
        } => {
            let id = account.uuid();
            let new = Registered {
                email: seal.cell(EMAIL, id, &storable(email)),
                name: seal.cell(NAME, id, &storable(name)),
                tier: *tier,
                at: *at,
            };
            changes.begin(id, new, seq)
        }
        // See [`super::persons`].
        Event::ErasureRequested { .. } | Event::Erased { .. } => Ok(()),
    }
}

pub(super) async fn write(
    changes: &Changes,
    connection: &mut PgConnection,
) -> Result<(), super::Error> {
    let (begun, _) = changes.split();
    if begun.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO accounts
             (account_id, email, name, is_active, subscription_tier, created_at, last_seq)
         SELECT account_id, email, name, true, tier, created_at, last_seq
         FROM UNNEST($1::uuid[], $2::bytea[], $3::bytea[], $4::text[], $5::timestamptz[],
                     $6::bigint[])
              AS begun (account_id, email, name, tier, created_at, last_seq)",
    )
    .bind(column(&begun, |change| change.id))
    .bind(first(&begun, |new| new.email.as_slice()))
    .bind(first(&begun, |new| new.name.as_slice()))
    .bind(first(&begun, |new| new.tier.as_str()))
    .bind(first(&begun, |new| Instant(new.at)))
    .bind(column(&begun, |change| signed(change.last_seq)))
    .execute(connection)
    .await?;
    Ok(())
}

/// Answers a question.
pub(crate) async fn query(store: Store, question: Accounts) -> Result<AccountFound, Unanswered> {
    let Accounts::Get { account } = question;
    let Some(opener) = Opener::of(&store.keys, account).await? else {
        return Ok(None);
    };
    let row: Option<Row> = sqlx::query_as(
        "SELECT account_id, email, name, is_active, subscription_tier, created_at
         FROM accounts WHERE account_id = $1",
    )
    .bind(account.uuid())
    .fetch_optional(&store.pool)
    .await?;
    Ok(row.map(|row| row.user(&opener)).transpose()?)
}

#[derive(FromRow)]
struct Row {
    account_id: Uuid,
    email: Vec<u8>,
    name: Vec<u8>,
    is_active: bool,
    subscription_tier: String,
    created_at: Instant,
}

impl Row {
    fn user(self, opener: &Opener) -> Result<User, sqlx::Error> {
        Ok(User {
            id: AccountId::new(self.account_id),
            email: opener.text(EMAIL, self.account_id, &self.email)?,
            name: opener.text(NAME, self.account_id, &self.name)?,
            is_active: self.is_active,
            subscription_tier: tier(&self.subscription_tier)
                .ok_or_else(|| unreadable("subscription_tier", &self.subscription_tier))?,
            created_at: self.created_at.0,
        })
    }
}

fn tier(text: &str) -> Option<Tier> {
    [Tier::Free, Tier::Pro, Tier::Enterprise]
        .into_iter()
        .find(|tier| tier.as_str() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_is_a_row() {
        let mut fold = changes();
        let event = Event::Registered {
            account: AccountId::new(Uuid::from_u128(1)),
            email: "mia@example.com".into(),
            name: "Mia\0".into(),
            password_hash: "$argon2id$".into(),
            tier: Tier::Pro,
            at: Timestamp::from_millis(9),
        };
        apply(&mut fold, &event, 5, &Seal::Plain).unwrap();
        let (begun, gone_on) = fold.split();
        assert!(gone_on.is_empty());
        let new = begun[0].new.as_ref().unwrap();
        assert_eq!(new.name, "\0Mia\u{fffd}".as_bytes());
        assert_eq!(begun[0].last_seq, 5);
    }

    #[test]
    fn every_tier_is_read_back() {
        for known in [Tier::Free, Tier::Pro, Tier::Enterprise] {
            assert_eq!(tier(known.as_str()), Some(known));
        }
        assert_eq!(tier("gold"), None);
    }
}
