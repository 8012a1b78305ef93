//! What there is about a person in all views, for whoever exports or erases it.
//!
//! From the request on, the views of [`super::queries`] show nothing of a person to be erased; with
//! the last event of the erasure the rows are deleted.

use super::{Store, Unanswered, signed};
use crate::instant::Instant;
use domain::{
    account::Event,
    id::AccountId,
    subject::{Aggregate, EVENTS, Kind},
    wire::view::{Holding, PersonFound, Persons, Told},
};
use infra::{direct_get, purged};
use serde_json::Value;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

/// Most aggregates that one answer lists.
const LISTED: u32 = 1_000;
/// Most aggregates whose events one answer tells.
const AT_ONCE: u32 = 100;
/// An answer ends before its events are larger than this, so that it fits into one message.
const PAGE_BYTES: usize = 256 * 1024;

/// What a batch does to persons as a whole.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Accounts that are being erased, and since which sequence.
    erasing: Vec<(Uuid, u64)>,
    erased: Vec<Uuid>,
}

impl Changes {
    pub(super) fn apply(&mut self, event: &Event, seq: u64) {
        match event {
            Event::Registered { .. } => {}
            Event::ErasureRequested { account, .. } => self.erasing.push((account.uuid(), seq)),
            Event::Erased { account, .. } => self.erased.push(account.uuid()),
        }
    }

    /// An account that cannot be read any more has no row: then there is nothing to do.
    pub(super) async fn write(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if !self.erasing.is_empty() {
            let (accounts, seqs): (Vec<Uuid>, Vec<i64>) = self
                .erasing
                .iter()
                .map(|(account, seq)| (*account, signed(*seq)))
                .unzip();
            sqlx::query(
                "UPDATE accounts AS row SET is_active = false, last_seq = erasing.seq
                 FROM UNNEST($1::uuid[], $2::bigint[]) AS erasing (account_id, seq)
                 WHERE row.account_id = erasing.account_id",
            )
            .bind(accounts)
            .bind(seqs)
            .execute(&mut *connection)
            .await?;
        }
        if !self.erased.is_empty() {
            for statement in [
                "DELETE FROM queries WHERE owner = ANY($1)",
                "DELETE FROM api_keys WHERE account_id = ANY($1)",
                "DELETE FROM sessions WHERE account_id = ANY($1)",
                "DELETE FROM accounts WHERE account_id = ANY($1)",
            ] {
                let delete = sqlx::query(statement).bind(&self.erased);
                delete.execute(&mut *connection).await?;
            }
        }
        Ok(())
    }
}

/// Answers a question.
pub(crate) async fn query(store: Store, question: Persons) -> Result<PersonFound, Unanswered> {
    match question {
        Persons::Aggregates {
            account,
            kind,
            after,
            limit,
        } => {
            let after = after.unwrap_or_default();
            let found = aggregates(&store, account, kind, after, limit.clamp(1, LISTED));
            Ok(PersonFound::Aggregates(found.await?))
        }
        Persons::Events {
            account,
            kind,
            after,
        } => events(&store, account, kind, after).await,
    }
}

/// Those with an id above `after`, in the order of their ids.
async fn aggregates(
    store: &Store,
    account: AccountId,
    kind: Kind,
    after: Uuid,
    limit: u32,
) -> Result<Vec<Holding>, sqlx::Error> {
    let statement = match kind {
        Kind::Account => {
            "SELECT account_id AS id, false AS ended, created_at, last_seq
             FROM accounts WHERE account_id = $1 AND account_id > $2 LIMIT $3"
        }
        Kind::Query => {
            "SELECT query_id AS id, completed_at IS NOT NULL AS ended, created_at, last_seq
             FROM queries WHERE owner = $1 AND query_id > $2 ORDER BY query_id LIMIT $3"
        }
        Kind::Session => {
            "SELECT session_id AS id, revoked_at IS NOT NULL AS ended, created_at, last_seq
             FROM sessions WHERE account_id = $1 AND session_id > $2 ORDER BY session_id LIMIT $3"
        }
        // All of a person's keys are one aggregate, which never ends.
        Kind::ApiKeys => {
            "SELECT account_id AS id, false AS ended, min(created_at) AS created_at,
                    max(last_seq) AS last_seq
             FROM api_keys WHERE account_id = $1 AND account_id > $2 GROUP BY account_id LIMIT $3"
        }
        Kind::Email => return Ok(Vec::new()),
    };
    let rows: Vec<Row> = sqlx::query_as(statement)
        .bind(account.uuid())
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&store.pool)
        .await?;
    Ok(rows.into_iter().map(Row::holding).collect())
}

/// As many events as fit into one answer. An aggregate that was begun is gone on with first.
async fn events(
    store: &Store,
    account: AccountId,
    kind: Kind,
    after: Option<Told>,
) -> Result<PersonFound, Unanswered> {
    let begun = after.and_then(|told| Some((told.id, told.seq?)));
    let above = after.map_or(Uuid::nil(), |told| told.id);
    let more = aggregates(store, account, kind, above, AT_ONCE).await?;
    let is_last_page = more.len() < AT_ONCE as usize;
    let fresh = more.iter().map(|each| (each.id, 0));
    let (mut events, mut bytes) = (Vec::new(), 0);
    let mut next = after.map(|told| Told { seq: None, ..told });
    for (id, seq) in begun.into_iter().chain(fresh) {
        let subject = Aggregate::new(kind, id).subject();
        let mut stored = direct_get::subject(&store.client, EVENTS, &subject, seq + 1).await?;
        if stored.is_empty() && seq == 0 && store.is_bounded && kind == Kind::Query {
            stored = purged::history(&store.client, &subject).await?;
        }
        for message in stored {
            let seq = message.seq;
            let Some(message) = store.keys.open_stored(&subject, message).await? else {
                continue;
            };
            bytes += message.payload.len();
            if bytes > PAGE_BYTES && !events.is_empty() {
                return Ok(PersonFound::Events { events, next });
            }
            let said: Vec<Value> = serde_json::from_slice(&message.payload).unwrap_or_default();
            events.extend(said.into_iter().map(without_secrets));
            next = Some(Told { id, seq: Some(seq) });
        }
        next = Some(Told { id, seq: None });
    }
    Ok(PersonFound::Events {
        events,
        next: next.filter(|_| !is_last_page),
    })
}

/// What a person gets to see: not even to themselves hashes of passwords and keys are shown.
fn without_secrets(mut event: Value) -> Value {
    if let Some(data) = event.get_mut("data").and_then(Value::as_object_mut) {
        data.remove("password_hash");
        data.remove("secret_hash");
    }
    event
}

#[derive(FromRow)]
struct Row {
    id: Uuid,
    ended: bool,
    created_at: Instant,
    last_seq: i64,
}

impl Row {
    fn holding(self) -> Holding {
        Holding {
            id: self.id,
            ended: self.ended,
            created_at: self.created_at.0,
            last_seq: u64::try_from(self.last_seq).unwrap_or(0),
        }
    }
}
