//! People as clients see them. The password's hash stays in the log.

use super::{
    fold::{Contradiction, Fold, column},
    signed, stored, unreadable,
};
use crate::instant::Instant;
use domain::{
    Timestamp,
    account::{Event, Tier},
    id::AccountId,
    wire::{
        rest::User,
        view::{AccountFound, Accounts},
    },
};
use sqlx::{FromRow, PgConnection, PgPool};
use uuid::Uuid;

/// What a batch does to `accounts`.
pub(super) type Changes = Fold<Registered, ()>;

/// A row as it begins.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Registered {
    email: String,
    name: String,
    tier: Tier,
    at: Timestamp,
}

pub(super) fn changes() -> Changes {
    Fold::new("accounts")
}

/// What an event does to its row.
pub(super) fn apply(changes: &mut Changes, event: &Event, seq: u64) -> Result<(), Contradiction> {
    match event {
        Event::Registered {
            account,
            email,
            name,
            password_hash: _,
            tier,
            at,
        } => {
            let new = Registered {
                email: stored(email),
                name: stored(name),
                tier: *tier,
                at: *at,
            };
            changes.begin(account.uuid(), new, seq)
        }
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
    let new = |value: fn(&Registered) -> &str| {
        column(&begun, move |change| change.new.as_ref().map(value))
    };
    sqlx::query(
        "INSERT INTO accounts
             (account_id, email, name, is_active, subscription_tier, created_at, last_seq)
         SELECT account_id, email, name, true, tier, created_at, last_seq
         FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[],
                     $6::bigint[])
              AS begun (account_id, email, name, tier, created_at, last_seq)",
    )
    .bind(column(&begun, |change| change.id))
    .bind(new(|new| &new.email))
    .bind(new(|new| &new.name))
    .bind(new(|new| new.tier.as_str()))
    .bind(column(&begun, |change| {
        change.new.as_ref().map(|new| Instant(new.at))
    }))
    .bind(column(&begun, |change| signed(change.last_seq)))
    .execute(connection)
    .await?;
    Ok(())
}

/// Answers a question.
pub(crate) async fn query(pool: PgPool, question: Accounts) -> Result<AccountFound, sqlx::Error> {
    let Accounts::Get { account } = question;
    let row: Option<Row> = sqlx::query_as(
        "SELECT account_id, email, name, is_active, subscription_tier, created_at
         FROM accounts WHERE account_id = $1",
    )
    .bind(account.uuid())
    .fetch_optional(&pool)
    .await?;
    row.map(Row::user).transpose()
}

#[derive(FromRow)]
struct Row {
    account_id: Uuid,
    email: String,
    name: String,
    is_active: bool,
    subscription_tier: String,
    created_at: Instant,
}

impl Row {
    fn user(self) -> Result<User, sqlx::Error> {
        Ok(User {
            id: AccountId::new(self.account_id),
            email: self.email,
            name: self.name,
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
        apply(&mut fold, &event, 5).unwrap();
        let (begun, gone_on) = fold.split();
        assert!(gone_on.is_empty());
        let new = begun[0].new.as_ref().unwrap();
        assert_eq!(new.name, "Mia\u{fffd}");
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
