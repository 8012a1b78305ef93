//! Queries and their answers, as their owners see them.

use super::{
    Store, Unanswered,
    fold::{Change, Contradiction, Fold, Overlay, column, first},
    signed, stored, unreadable,
};
use crate::{
    instant::Instant,
    seal::{Column, Opener, Seal},
};
use domain::{
    Timestamp,
    id::{AccountId, QueryId},
    query::{Answer, CancelledBy, Event, Route, Status},
    text::storable,
    wire::{
        error::Code,
        rest::{FileReference, QueryItem},
        view::{Place, Queries, QueryPage},
    },
};
use sqlx::{
    FromRow, PgConnection, PgPool, Postgres, postgres::PgArguments, query::Query, types::Json,
};
use uuid::Uuid;

const QUERY: Column = "queries.query";
const REFERENCE: Column = "queries.reference";
const RESPONSE_TEXT: Column = "queries.response_text";
const ERROR_MESSAGE: Column = "queries.error_message";
/// Most queries on one page.
const PAGE_ITEMS: u32 = 100;
/// A page ends before its JSON grows larger than this, so that the answer fits into one message:
/// half of what nats-server allows by default.
const PAGE_BYTES: usize = 512 * 1024;

/// What a batch does to `queries`.
pub(super) type Changes = Fold<Submitted, Later>;

/// A row as it begins.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Submitted {
    owner: AccountId,
    text: Vec<u8>,
    operation: String,
    file_ids: Vec<String>,
    reference: Option<Vec<u8>>,
    route: Option<Route>,
    at: Timestamp,
}

/// What becomes of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Later {
    status: Option<Status>,
    worker: Option<String>,
    model: Option<String>,
    attempts: Option<u32>,
    started_at: Option<Timestamp>,
    /// Without its text.
    answer: Option<Answer>,
    response_text: Option<Vec<u8>>,
    failure: Option<(Code, Vec<u8>)>,
    cancelled_by: Option<CancelledBy>,
    completed_at: Option<Timestamp>,
}

impl Overlay for Later {
    fn overlay(&mut self, later: Self) {
        self.status = later.status.or(self.status);
        self.worker = later.worker.or(self.worker.take());
        self.model = later.model.or(self.model.take());
        self.attempts = later.attempts.or(self.attempts);
        // The first start counts: what comes before it is waiting.
        self.started_at = self.started_at.or(later.started_at);
        self.answer = later.answer.or(self.answer.take());
        self.response_text = later.response_text.or(self.response_text.take());
        self.failure = later.failure.or(self.failure.take());
        self.cancelled_by = later.cancelled_by.or(self.cancelled_by);
        self.completed_at = later.completed_at.or(self.completed_at);
    }
}

pub(super) fn changes() -> Changes {
    Fold::new("queries")
}

/// What an event does to its row.
pub(super) fn apply(
    changes: &mut Changes,
    event: &Event,
    seq: u64,
    seal: &Seal,
) -> Result<(), Contradiction> {
    let cell =
        |column, query: &QueryId, text: &str| seal.cell(column, query.uuid(), &storable(text));
    let (query, later) = match event {
        Event::Submitted {
            query,
            owner,
            submission,
            route,
            at,
        } => {
            let new = Submitted {
                owner: *owner,
                text: cell(QUERY, query, &submission.text),
                operation: stored(&submission.operation),
                file_ids: submission.file_ids.iter().map(|id| stored(id)).collect(),
                reference: submission
                    .reference
                    .as_deref()
                    .map(|reference| cell(REFERENCE, query, reference)),
                // Names of models and rules, and numbers: no words of a person.
                route: route.as_ref().map(|route| Route {
                    model: stored(&route.model),
                    rule: stored(&route.rule),
                    reason: stored(&route.reason),
                    complexity: route.complexity,
                }),
                at: *at,
            };
            return changes.begin(query.uuid(), new, seq);
        }
        Event::Started {
            query,
            worker,
            model,
            attempt,
            at,
        } => {
            let later = Later {
                status: Some(Status::Processing),
                worker: Some(stored(worker)),
                model: Some(stored(model)),
                attempts: Some(*attempt),
                started_at: Some(*at),
                ..Later::default()
            };
            (query, later)
        }
        Event::Completed { query, answer, at } => {
            let response_text = cell(RESPONSE_TEXT, query, &answer.response_text);
            let answer = Answer {
                response_text: String::new(),
                model_used: stored(&answer.model_used),
                finish_reason: stored(&answer.finish_reason),
                ..*answer
            };
            let later = Later {
                answer: Some(answer),
                response_text: Some(response_text),
                ..ended(Status::Completed, *at)
            };
            (query, later)
        }
        Event::Failed {
            query,
            code,
            message,
            at,
        } => {
            let later = Later {
                failure: Some((*code, cell(ERROR_MESSAGE, query, message))),
                ..ended(Status::Failed, *at)
            };
            (query, later)
        }
        Event::Cancelled { query, by, at } => {
            let later = Later {
                cancelled_by: Some(*by),
                ..ended(Status::Cancelled, *at)
            };
            (query, later)
        }
    };
    changes.go_on(query.uuid(), later, seq);
    Ok(())
}

fn ended(status: Status, at: Timestamp) -> Later {
    Later {
        status: Some(status),
        completed_at: Some(at),
        ..Later::default()
    }
}

pub(super) async fn write(
    changes: &Changes,
    connection: &mut PgConnection,
) -> Result<(), super::Error> {
    changes.write(connection, insert, update).await
}

type Row<'a> = &'a Change<Submitted, Later>;

async fn insert(begun: &[Row<'_>], connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let statement = sqlx::query(
        "INSERT INTO queries
             (query_id, owner, query, operation, file_ids, reference, route, status, worker, model,
              attempts, started_at, response_text, model_used, confidence, latency_ms,
              finish_reason, prompt_tokens, completion_tokens, error_code, error_message,
              cancelled_by, completed_at, created_at, last_seq)
         SELECT query_id, owner, query, operation, file_ids, reference, route,
                COALESCE(status, 'queued'), worker, model, COALESCE(attempts, 0), started_at,
                response_text, model_used, confidence, latency_ms, finish_reason, prompt_tokens,
                completion_tokens, error_code, error_message, cancelled_by, completed_at,
                created_at, last_seq
         FROM UNNEST($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[],
                     $7::timestamptz[], $8::bytea[], $9::text[], $10::float8[], $11::bigint[],
                     $12::text[], $13::bigint[], $14::bigint[], $15::text[], $16::bytea[],
                     $17::timestamptz[], $18::text[], $19::uuid[], $20::bytea[], $21::text[],
                     $22::jsonb[], $23::bytea[], $24::jsonb[], $25::timestamptz[])
              AS begun (query_id, last_seq, status, worker, model, attempts, started_at,
                        response_text, model_used, confidence, latency_ms, finish_reason,
                        prompt_tokens, completion_tokens, error_code, error_message,
                        completed_at, cancelled_by, owner, query, operation, file_ids, reference,
                        route, created_at)",
    );
    bind_later(statement, begun)
        .bind(first(begun, |new| new.owner.uuid()))
        .bind(first(begun, |new| new.text.as_slice()))
        .bind(first(begun, |new| new.operation.as_str()))
        .bind(first(begun, |new| Json(&new.file_ids)))
        .bind(column(begun, |row| {
            row.new.as_ref().and_then(|new| new.reference.as_deref())
        }))
        .bind(column(begun, |row| {
            row.new
                .as_ref()
                .and_then(|new| new.route.as_ref())
                .map(Json)
        }))
        .bind(first(begun, |new| Instant(new.at)))
        .execute(connection)
        .await?;
    Ok(())
}

async fn update(gone_on: &[Row<'_>], connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let statement = sqlx::query(
        "UPDATE queries AS row
         SET status = COALESCE(later.status, row.status),
             worker = COALESCE(later.worker, row.worker),
             model = COALESCE(later.model, row.model),
             attempts = COALESCE(later.attempts, row.attempts),
             started_at = COALESCE(row.started_at, later.started_at),
             response_text = COALESCE(later.response_text, row.response_text),
             model_used = COALESCE(later.model_used, row.model_used),
             confidence = COALESCE(later.confidence, row.confidence),
             latency_ms = COALESCE(later.latency_ms, row.latency_ms),
             finish_reason = COALESCE(later.finish_reason, row.finish_reason),
             prompt_tokens = COALESCE(later.prompt_tokens, row.prompt_tokens),
             completion_tokens = COALESCE(later.completion_tokens, row.completion_tokens),
             error_code = COALESCE(later.error_code, row.error_code),
             error_message = COALESCE(later.error_message, row.error_message),
             cancelled_by = COALESCE(later.cancelled_by, row.cancelled_by),
             completed_at = COALESCE(later.completed_at, row.completed_at),
             last_seq = later.last_seq
         FROM UNNEST($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[],
                     $7::timestamptz[], $8::bytea[], $9::text[], $10::float8[], $11::bigint[],
                     $12::text[], $13::bigint[], $14::bigint[], $15::text[], $16::bytea[],
                     $17::timestamptz[], $18::text[])
              AS later (query_id, last_seq, status, worker, model, attempts, started_at,
                        response_text, model_used, confidence, latency_ms, finish_reason,
                        prompt_tokens, completion_tokens, error_code, error_message,
                        completed_at, cancelled_by)
         WHERE row.query_id = later.query_id",
    );
    let done = bind_later(statement, gone_on).execute(connection).await?;
    Ok(done.rows_affected())
}

type Statement = Query<'static, Postgres, PgArguments>;

/// Binds `$1` to `$18`, which both statements have.
fn bind_later(statement: Statement, rows: &[Row<'_>]) -> Statement {
    statement
        .bind(column(rows, |row| row.id))
        .bind(column(rows, |row| signed(row.last_seq)))
        .bind(column(rows, |row| row.later.status.map(Status::as_str)))
        .bind(column(rows, |row| row.later.worker.as_deref()))
        .bind(column(rows, |row| row.later.model.as_deref()))
        .bind(column(rows, |row| row.later.attempts.map(i64::from)))
        .bind(column(rows, |row| row.later.started_at.map(Instant)))
        .bind(column(rows, |row| row.later.response_text.as_deref()))
        .bind(answer(rows, |answer| answer.model_used.as_str()))
        .bind(column(rows, |row| {
            row.later
                .answer
                .as_ref()
                .and_then(|answer| answer.confidence)
        }))
        .bind(answer(rows, |answer| signed(answer.latency_ms)))
        .bind(answer(rows, |answer| answer.finish_reason.as_str()))
        .bind(answer(rows, |answer| i64::from(answer.usage.prompt_tokens)))
        .bind(answer(rows, |answer| {
            i64::from(answer.usage.completion_tokens)
        }))
        .bind(failure(rows, |(code, _)| code.as_str()))
        .bind(failure(rows, |(_, message)| message.as_slice()))
        .bind(column(rows, |row| row.later.completed_at.map(Instant)))
        .bind(column(rows, |row| {
            row.later.cancelled_by.map(CancelledBy::as_str)
        }))
}

fn answer<'a, T>(rows: &[Row<'a>], value: impl Fn(&'a Answer) -> T) -> Vec<Option<T>> {
    column(rows, |row| row.later.answer.as_ref().map(&value))
}

fn failure<'a, T>(rows: &[Row<'a>], value: impl Fn(&'a (Code, Vec<u8>)) -> T) -> Vec<Option<T>> {
    column(rows, |row| row.later.failure.as_ref().map(&value))
}

/// Answers a question.
pub(crate) async fn query(store: Store, question: Queries) -> Result<QueryPage, Unanswered> {
    let (Queries::Get { owner, .. } | Queries::List { owner, .. }) = question;
    let Some(opener) = Opener::of(&store.keys, owner).await? else {
        return Ok(QueryPage::default());
    };
    let Store { pool, .. } = store;
    match question {
        Queries::Get { owner, query } => Ok(get(&pool, &opener, owner, query).await?),
        Queries::List {
            owner,
            limit,
            after,
            status,
            operation,
        } => {
            let limit = limit.clamp(1, PAGE_ITEMS);
            let operation = operation.as_deref().map(storable);
            let rows: Vec<Found> = sqlx::query_as(
                // Without a place the list begins with the latest that can be, so that the index
                // is entered by (owner, created_at, query_id) either way.
                "SELECT query_id, query, operation, status, response_text, model_used, confidence,
                        latency_ms, file_ids, route, created_at, completed_at
                 FROM queries
                 WHERE owner = $1
                   AND NOT EXISTS (SELECT FROM accounts WHERE account_id = $1 AND NOT is_active)
                   AND (created_at, query_id)
                       < (COALESCE($2, 'infinity'::timestamptz),
                          COALESCE($3, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid))
                   AND ($4::text IS NULL OR status = $4)
                   AND ($5::text IS NULL OR operation = $5)
                 ORDER BY created_at DESC, query_id DESC
                 LIMIT $6",
            )
            .bind(owner.uuid())
            .bind(after.map(|place| Instant(place.created_at)))
            .bind(after.map(|place| place.query.uuid()))
            .bind(status.map(Status::as_str))
            .bind(operation)
            // One more tells whether there is a next page.
            .bind(i64::from(limit) + 1)
            .fetch_all(&pool)
            .await?;
            let items = rows
                .into_iter()
                .map(|row| row.item(&opener))
                .collect::<Result<_, _>>()?;
            Ok(page(items, limit as usize, PAGE_BYTES))
        }
    }
}

async fn get(
    pool: &PgPool,
    opener: &Opener,
    owner: AccountId,
    query: QueryId,
) -> Result<QueryPage, sqlx::Error> {
    let row: Option<Found> = sqlx::query_as(
        "SELECT query_id, query, operation, status, response_text, model_used, confidence,
                latency_ms, file_ids, route, created_at, completed_at
         FROM queries
         WHERE query_id = $1 AND owner = $2
           AND NOT EXISTS (SELECT FROM accounts WHERE account_id = $2 AND NOT is_active)",
    )
    .bind(query.uuid())
    .bind(owner.uuid())
    .fetch_optional(pool)
    .await?;
    Ok(QueryPage {
        items: row
            .map(|row| row.item(opener))
            .transpose()?
            .into_iter()
            .collect(),
        next: None,
    })
}

/// Cuts the list after `limit` items or before `bytes` of JSON, but not before the first item.
fn page(mut items: Vec<QueryItem>, limit: usize, bytes: usize) -> QueryPage {
    let mut size = 0;
    let fitting = items
        .iter()
        .take(limit)
        .take_while(|item| {
            size += serde_json::to_vec(item).map_or(0, |json| json.len());
            size <= bytes
        })
        .count()
        .max(1);
    let more = items.len() > fitting;
    items.truncate(fitting);
    QueryPage {
        next: items.last().filter(|_| more).map(|last| Place {
            created_at: last.created_at,
            query: last.query_id,
        }),
        items,
    }
}

#[derive(FromRow)]
struct Found {
    query_id: Uuid,
    query: Vec<u8>,
    operation: String,
    status: String,
    response_text: Option<Vec<u8>>,
    model_used: Option<String>,
    confidence: Option<f64>,
    latency_ms: Option<i64>,
    file_ids: Json<Vec<String>>,
    route: Option<Json<Route>>,
    created_at: Instant,
    completed_at: Option<Instant>,
}

impl Found {
    fn item(self, opener: &Opener) -> Result<QueryItem, sqlx::Error> {
        let id = self.query_id;
        Ok(QueryItem {
            query_id: QueryId::new(id),
            query: opener.text(QUERY, id, &self.query)?,
            operation: self.operation,
            status: Status::parse(&self.status)
                .ok_or_else(|| unreadable("status", &self.status))?,
            response_text: opener.optional(RESPONSE_TEXT, id, self.response_text.as_deref())?,
            model_used: self.model_used,
            confidence: self.confidence,
            latency_ms: self
                .latency_ms
                .and_then(|millis| u64::try_from(millis).ok()),
            file_references: file_references(self.file_ids.0),
            route: self.route.map(|route| route.0),
            created_at: self.created_at.0,
            completed_at: self.completed_at.map(|at| at.0),
        })
    }
}

/// No view knows the names of files, so that a file goes by its id.
fn file_references(ids: Vec<String>) -> Option<Vec<FileReference>> {
    (!ids.is_empty()).then(|| {
        ids.into_iter()
            .map(|id| FileReference {
                filename: id.clone(),
                file_id: id,
            })
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::fold;
    use domain::query::{Submission, Usage};

    fn millis(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn submitted(id: u128) -> Event {
        Event::Submitted {
            query: QueryId::new(Uuid::from_u128(id)),
            owner: AccountId::new(Uuid::from_u128(1)),
            submission: Submission {
                text: "Why?".into(),
                operation: "general".into(),
                file_ids: vec![],
                context: None,
                reference: None,
                options: None,
            },
            at: millis(10),
            route: None,
        }
    }

    fn started(id: u128, attempt: u32) -> Event {
        Event::Started {
            query: QueryId::new(Uuid::from_u128(id)),
            worker: format!("worker-{attempt}"),
            model: "demo".into(),
            attempt,
            at: millis(20 + i64::from(attempt)),
        }
    }

    fn completed(id: u128) -> Event {
        Event::Completed {
            query: QueryId::new(Uuid::from_u128(id)),
            answer: Answer {
                response_text: "Because\0".into(),
                model_used: "demo-1".into(),
                confidence: None,
                latency_ms: 7,
                finish_reason: "stop".into(),
                usage: Usage::default(),
                chunks: 1,
            },
            at: millis(90),
        }
    }

    fn failed(id: u128) -> Event {
        Event::Failed {
            query: QueryId::new(Uuid::from_u128(id)),
            code: Code::QueryModelError,
            message: "m".into(),
            at: millis(91),
        }
    }

    #[test]
    fn any_split_into_batches_gives_the_same_rows() {
        let cancelled = Event::Cancelled {
            query: QueryId::new(Uuid::from_u128(7)),
            by: CancelledBy::System,
            at: millis(30),
        };
        let events = [
            submitted(5),
            submitted(6),
            started(5, 1),
            submitted(7),
            started(6, 1),
            started(5, 2),
            cancelled,
            completed(5),
            failed(6),
        ];
        let apply = |changes: &mut Changes, event: &Event, seq| {
            super::apply(changes, event, seq, &Seal::Plain)
        };
        let rows = fold::tests::rows_of_every_split(&events, changes, apply);
        let answered = &rows[&Uuid::from_u128(5)].later;
        assert_eq!(answered.status, Some(Status::Completed));
        assert_eq!(answered.attempts, Some(2));
        assert_eq!(answered.worker.as_deref(), Some("worker-2"));
        assert_eq!(answered.started_at, Some(millis(21)));
        assert_eq!(answered.completed_at, Some(millis(90)));
        let text = "\0Because\u{fffd}".as_bytes();
        assert_eq!(answered.response_text.as_deref(), Some(text));
        assert_eq!(answered.answer.as_ref().unwrap().response_text, "");
        let failed = &rows[&Uuid::from_u128(6)].later;
        assert_eq!(failed.status, Some(Status::Failed));
        assert!(failed.answer.is_none());
        let cancelled = &rows[&Uuid::from_u128(7)];
        assert_eq!(cancelled.later.status, Some(Status::Cancelled));
        assert_eq!(cancelled.later.cancelled_by, Some(CancelledBy::System));
        assert_eq!(cancelled.last_seq, 7);
    }

    #[test]
    fn a_query_is_submitted_once() {
        let mut fold = changes();
        apply(&mut fold, &submitted(5), 1, &Seal::Plain).unwrap();
        assert!(apply(&mut fold, &submitted(5), 2, &Seal::Plain).is_err());
    }

    fn item(id: u128) -> QueryItem {
        QueryItem {
            query_id: QueryId::new(Uuid::from_u128(id)),
            query: "q".repeat(1000),
            operation: "general".into(),
            status: Status::Queued,
            response_text: None,
            model_used: None,
            confidence: None,
            latency_ms: None,
            file_references: file_references(vec![]),
            route: None,
            created_at: millis(5),
            completed_at: None,
        }
    }

    #[test]
    fn a_page_ends_at_its_limit_or_its_size() {
        let items = || (0..4).map(item).collect::<Vec<_>>();
        let next = |page: &QueryPage| page.next.map(|place| place.query);
        let id = |id| Some(QueryId::new(Uuid::from_u128(id)));
        let whole = page(items(), 4, 1 << 20);
        assert_eq!((whole.items.len(), next(&whole)), (4, None));
        let short = page(items(), 3, 1 << 20);
        assert_eq!((short.items.len(), next(&short)), (3, id(2)));
        let small = page(items(), 4, 3000);
        assert_eq!((small.items.len(), next(&small)), (2, id(1)));
        let one = page(items(), 4, 10);
        assert_eq!((one.items.len(), next(&one)), (1, id(0)));
        assert_eq!(page(vec![], 4, 10), QueryPage::default());
    }

    #[test]
    fn no_files_are_null() {
        assert_eq!(file_references(vec![]), None);
        let named = file_references(vec!["a".into()]).unwrap();
        assert_eq!(named[0].file_id, "a");
    }
}
