//! Device sessions, as their owners see them.

use super::{
    Store, Unanswered,
    fold::{Change, Contradiction, Fold, Overlay, column, first},
    signed,
};
use crate::{
    instant::Instant,
    seal::{Column, Opener, Seal},
};
use domain::{
    Timestamp,
    id::{AccountId, SessionId},
    limits,
    session::{Event, Reason},
    text::storable,
    wire::{
        rest::SessionItem,
        view::{Sessions, SessionsFound},
    },
};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

const DEVICE_ID: Column = "sessions.device_id";
const DEVICE_NAME: Column = "sessions.device_name";

/// Most sessions that one answer lists.
const LISTED: i64 = 100;

/// What a batch does to `sessions`.
pub(super) type Changes = Fold<Opened, Later>;

/// A row as it begins.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Opened {
    account: AccountId,
    device_id: Option<Vec<u8>>,
    device_name: Option<Vec<u8>>,
    at: Timestamp,
}

/// What becomes of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Later {
    last_seen_at: Option<Timestamp>,
    generation: Option<u64>,
    revoked: Option<(Timestamp, Reason)>,
}

impl Overlay for Later {
    fn overlay(&mut self, later: Self) {
        self.last_seen_at = later.last_seen_at.or(self.last_seen_at);
        self.generation = later.generation.or(self.generation);
        self.revoked = later.revoked.or(self.revoked);
    }
}

pub(super) fn changes() -> Changes {
    Fold::new("sessions")
}

/// What an event does to its row.
pub(super) fn apply(
    changes: &mut Changes,
    event: &Event,
    seq: u64,
    seal: &Seal,
) -> Result<(), Contradiction> {
    match event {
        Event::Opened {
            session,
            account,
            refresh: _,
            device_id,
            device_name,
            at,
        } => {
            let id = session.uuid();
            let cell = |column, text: &Option<String>| {
                let text = text.as_deref().map(storable);
                text.map(|text| seal.cell(column, id, &text))
            };
            let new = Opened {
                account: *account,
                device_id: cell(DEVICE_ID, device_id),
                device_name: cell(DEVICE_NAME, device_name),
                at: *at,
            };
            changes.begin(id, new, seq)?;
        }
        Event::Refreshed {
            session,
            superseded: _,
            refresh: _,
            generation,
            at,
        } => {
            let later = Later {
                last_seen_at: Some(*at),
                generation: Some(*generation),
                ..Later::default()
            };
            changes.go_on(session.uuid(), later, seq);
        }
        Event::Revoked {
            session,
            account: _,
            reason,
            at,
        } => {
            let later = Later {
                revoked: Some((*at, *reason)),
                ..Later::default()
            };
            changes.go_on(session.uuid(), later, seq);
        }
    }
    Ok(())
}

pub(super) async fn write(
    changes: &Changes,
    connection: &mut PgConnection,
) -> Result<(), super::Error> {
    changes.write(connection, insert, update).await
}

async fn insert(
    begun: &[&Change<Opened, Later>],
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO sessions
             (session_id, account_id, device_id, device_name, created_at, last_seen_at,
              generation, revoked_at, revoked_reason, last_seq)
         SELECT session_id, account_id, device_id, device_name, created_at,
                COALESCE(last_seen_at, created_at), COALESCE(generation, 0), revoked_at,
                revoked_reason, last_seq
         FROM UNNEST($1::uuid[], $2::timestamptz[], $3::bigint[], $4::timestamptz[],
                     $5::text[], $6::bigint[], $7::uuid[], $8::bytea[], $9::bytea[],
                     $10::timestamptz[])
              AS begun (session_id, last_seen_at, generation, revoked_at, revoked_reason,
                        last_seq, account_id, device_id, device_name, created_at)",
    )
    .bind(column(begun, |change| change.id))
    .bind(column(begun, |change| {
        change.later.last_seen_at.map(Instant)
    }))
    .bind(column(begun, |change| change.later.generation.map(signed)))
    .bind(column(begun, revoked_at))
    .bind(column(begun, revoked_reason))
    .bind(column(begun, |change| signed(change.last_seq)))
    .bind(first(begun, |new| new.account.uuid()))
    .bind(column(begun, |change| {
        change.new.as_ref().and_then(|new| new.device_id.as_deref())
    }))
    .bind(column(begun, |change| {
        change
            .new
            .as_ref()
            .and_then(|new| new.device_name.as_deref())
    }))
    .bind(first(begun, |new| Instant(new.at)))
    .execute(connection)
    .await?;
    Ok(())
}

async fn update(
    gone_on: &[&Change<Opened, Later>],
    connection: &mut PgConnection,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "UPDATE sessions AS row
         SET last_seen_at = COALESCE(later.last_seen_at, row.last_seen_at),
             generation = COALESCE(later.generation, row.generation),
             revoked_at = COALESCE(later.revoked_at, row.revoked_at),
             revoked_reason = COALESCE(later.revoked_reason, row.revoked_reason),
             last_seq = later.last_seq
         FROM UNNEST($1::uuid[], $2::timestamptz[], $3::bigint[], $4::timestamptz[],
                     $5::text[], $6::bigint[])
              AS later (session_id, last_seen_at, generation, revoked_at, revoked_reason,
                        last_seq)
         WHERE row.session_id = later.session_id",
    )
    .bind(column(gone_on, |change| change.id))
    .bind(column(gone_on, |change| {
        change.later.last_seen_at.map(Instant)
    }))
    .bind(column(gone_on, |change| {
        change.later.generation.map(signed)
    }))
    .bind(column(gone_on, revoked_at))
    .bind(column(gone_on, revoked_reason))
    .bind(column(gone_on, |change| signed(change.last_seq)))
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

fn revoked_at(change: &Change<Opened, Later>) -> Option<Instant> {
    change.later.revoked.map(|(at, _)| Instant(at))
}

fn revoked_reason(change: &Change<Opened, Later>) -> Option<&'static str> {
    change.later.revoked.map(|(_, reason)| reason.as_str())
}

/// Answers a question. A session lives until it is revoked or its refresh token expires.
pub(crate) async fn query(store: Store, question: Sessions) -> Result<SessionsFound, Unanswered> {
    let Sessions::List { account } = question;
    let Some(opener) = Opener::of(&store.keys, account).await? else {
        return Ok(Vec::new());
    };
    let seen_after = infra::clock::now().plus_millis(-limits::REFRESH_TOKEN_SECS * 1000);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT session_id, device_id, device_name, created_at, last_seen_at
         FROM sessions
         WHERE account_id = $1 AND revoked_at IS NULL AND last_seen_at > $2
         ORDER BY created_at DESC, session_id DESC
         LIMIT $3",
    )
    .bind(account.uuid())
    .bind(Instant(seen_after))
    .bind(LISTED)
    .fetch_all(&store.pool)
    .await?;
    let items = rows.into_iter().map(|row| row.item(&opener));
    Ok(items.collect::<Result<_, _>>()?)
}

#[derive(FromRow)]
struct Row {
    session_id: Uuid,
    device_id: Option<Vec<u8>>,
    device_name: Option<Vec<u8>>,
    created_at: Instant,
    last_seen_at: Instant,
}

impl Row {
    fn item(self, opener: &Opener) -> Result<SessionItem, sqlx::Error> {
        let text = |column, cell: &Option<Vec<u8>>| {
            opener.optional(column, self.session_id, cell.as_deref())
        };
        Ok(SessionItem {
            session_id: SessionId::new(self.session_id),
            device_id: text(DEVICE_ID, &self.device_id)?,
            device_name: text(DEVICE_NAME, &self.device_name)?,
            created_at: self.created_at.0,
            last_seen_at: self.last_seen_at.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::fold;
    use domain::id::RefreshId;

    fn history() -> Vec<Event> {
        let session = SessionId::new(Uuid::from_u128(1));
        let account = AccountId::new(Uuid::from_u128(2));
        let refresh = |n| RefreshId::new(Uuid::from_u128(n));
        let refreshed = |generation: u64| Event::Refreshed {
            session,
            superseded: refresh(u128::from(generation)),
            refresh: refresh(u128::from(generation) + 1),
            generation,
            at: Timestamp::from_millis(i64::try_from(generation).unwrap() * 100),
        };
        vec![
            Event::Opened {
                session,
                account,
                refresh: refresh(1),
                device_id: None,
                device_name: Some("Phone".into()),
                at: Timestamp::from_millis(10),
            },
            refreshed(1),
            refreshed(2),
            Event::Revoked {
                session,
                account,
                reason: Reason::Logout,
                at: Timestamp::from_millis(500),
            },
        ]
    }

    #[test]
    fn any_split_into_batches_gives_the_same_rows() {
        let apply = |changes: &mut Changes, event: &Event, seq| {
            super::apply(changes, event, seq, &Seal::Plain)
        };
        let whole = fold::tests::rows_of_every_split(&history(), changes, apply);
        let row = &whole[&Uuid::from_u128(1)];
        assert_eq!(row.later.generation, Some(2));
        assert_eq!(row.later.last_seen_at, Some(Timestamp::from_millis(200)));
        let revoked = Some((Timestamp::from_millis(500), Reason::Logout));
        assert_eq!(row.later.revoked, revoked);
        assert_eq!(row.last_seq, 4);
    }
}
