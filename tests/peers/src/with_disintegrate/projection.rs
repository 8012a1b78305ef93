//! The row of a query, kept by an event listener: one statement per event, idempotent by the
//! event's id, since the listener's place is stored in another transaction.

use super::decisions::DomainEvent;
use async_trait::async_trait;
use disintegrate::{EventListener, PersistedEvent, StreamQuery, query};
use disintegrate_postgres::PgEventId;
use sqlx::PgPool;

/// The listener's name in the table of listeners.
pub const NAME: &str = "queries";

/// The read model.
pub const TABLE: &str = "
    CREATE TABLE query_row (
        query_id      uuid PRIMARY KEY,
        owner         uuid NOT NULL,
        query         text NOT NULL,
        operation     text NOT NULL,
        status        text NOT NULL,
        worker        text,
        model         text,
        response_text text,
        model_used    text,
        created_at    timestamptz NOT NULL,
        started_at    timestamptz,
        completed_at  timestamptz,
        event_id      bigint NOT NULL
    );";

/// Keeps the rows.
pub struct Projection {
    query: StreamQuery<PgEventId, DomainEvent>,
    pool: PgPool,
}

impl Projection {
    /// Over all events.
    pub fn new(pool: PgPool) -> Self {
        Self {
            query: query::<_, _, DomainEvent>(None),
            pool,
        }
    }
}

#[async_trait]
impl EventListener<PgEventId, DomainEvent> for Projection {
    type Error = sqlx::Error;

    fn id(&self) -> &'static str {
        NAME
    }

    fn query(&self) -> &StreamQuery<PgEventId, DomainEvent> {
        &self.query
    }

    async fn handle(
        &self,
        event: PersistedEvent<PgEventId, DomainEvent>,
    ) -> Result<(), sqlx::Error> {
        let event_id = event.id();
        let statement = match event.into_inner() {
            DomainEvent::QuerySubmitted {
                query_id,
                owner,
                text,
                operation,
                at,
            } => sqlx::query(
                "INSERT INTO query_row
                     (query_id, owner, query, operation, status, created_at, event_id)
                 VALUES ($1, $2, $3, $4, 'queued', to_timestamp($5::float8 / 1000), $6)
                 ON CONFLICT DO NOTHING",
            )
            .bind(query_id)
            .bind(owner)
            .bind(text)
            .bind(operation)
            .bind(at as f64)
            .bind(event_id),
            DomainEvent::QueryStarted {
                query_id,
                worker,
                model,
                at,
            } => sqlx::query(
                "UPDATE query_row SET status = 'processing', worker = $2, model = $3,
                     started_at = to_timestamp($4::float8 / 1000), event_id = $5
                 WHERE query_id = $1 AND event_id < $5",
            )
            .bind(query_id)
            .bind(worker)
            .bind(model)
            .bind(at as f64)
            .bind(event_id),
            DomainEvent::QueryCompleted {
                query_id,
                response_text,
                model_used,
                at,
            } => sqlx::query(
                "UPDATE query_row SET status = 'completed', response_text = $2, model_used = $3,
                     completed_at = to_timestamp($4::float8 / 1000), event_id = $5
                 WHERE query_id = $1 AND event_id < $5",
            )
            .bind(query_id)
            .bind(response_text)
            .bind(model_used)
            .bind(at as f64)
            .bind(event_id),
        };
        statement.execute(&self.pool).await?;
        Ok(())
    }
}
