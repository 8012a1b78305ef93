//! What the events of a log make of the read models: the views' meaning, told a second time and as
//! simply as can be, event by event, so that the checker does not believe what it checks.

use super::{
    log::{Commit, Events},
    rows::{ACCOUNTS, QUERIES, Row, Rows, SESSIONS},
};
use domain::{account, query, session};
use serde_json::{Value, json};
use uuid::Uuid;

/// The rows after these commits.
pub fn fold(log: &[Commit]) -> Rows {
    let mut rows = Rows::default();
    for name in [ACCOUNTS, SESSIONS, QUERIES] {
        rows.0.insert(name, Default::default());
    }
    for commit in log {
        match &commit.events {
            Events::Account(events) => {
                events
                    .iter()
                    .for_each(|event| of_account(&mut rows, commit, event));
            }
            Events::Session(events) => {
                events
                    .iter()
                    .for_each(|event| of_session(&mut rows, commit, event));
            }
            Events::Query(events) => {
                events
                    .iter()
                    .for_each(|event| of_query(&mut rows, commit, event));
            }
            // Clients of a history make no keys.
            Events::Email(_) | Events::ApiKeys(_) | Events::Erased | Events::Unreadable(_) => {}
        }
    }
    rows
}

/// Writes these columns, and the sequence that the row reflects.
fn set(rows: &mut Rows, table: &'static str, commit: &Commit, columns: Value) {
    let row = row(rows, table, commit.aggregate.id);
    if let Value::Object(columns) = columns {
        row.extend(columns);
    }
    row.insert("last_seq".into(), commit.seq.into());
}

fn row<'a>(rows: &'a mut Rows, table: &'static str, id: Uuid) -> &'a mut Row {
    rows.0.entry(table).or_default().entry(id).or_default()
}

fn of_account(rows: &mut Rows, commit: &Commit, event: &account::Event) {
    let columns = match event {
        account::Event::Registered {
            email,
            name,
            tier,
            at,
            ..
        } => json!({
            "email": email, "name": name, "is_active": true,
            "subscription_tier": tier.as_str(), "created_at": at.as_millis(),
        }),
        account::Event::ErasureRequested { .. } => json!({ "is_active": false }),
        account::Event::Erased { account, .. } => return forget(rows, account.uuid()),
    };
    set(rows, ACCOUNTS, commit, columns);
}

/// Rows of an erased person go.
fn forget(rows: &mut Rows, account: Uuid) {
    let theirs = |row: &Row| {
        let owner = row.get("owner").or_else(|| row.get("account_id"));
        owner.and_then(Value::as_str) == Some(&account.to_string())
    };
    for table in rows.0.values_mut() {
        table.retain(|id, row| *id != account && !theirs(row));
    }
}

fn of_session(rows: &mut Rows, commit: &Commit, event: &session::Event) {
    let columns = match event {
        session::Event::Opened {
            account,
            device_id,
            device_name,
            at,
            ..
        } => json!({
            "account_id": account, "device_id": device_id, "device_name": device_name,
            "created_at": at.as_millis(), "last_seen_at": at.as_millis(), "generation": 0,
            "revoked_at": null, "revoked_reason": null,
        }),
        session::Event::Refreshed { generation, at, .. } => {
            json!({ "last_seen_at": at.as_millis(), "generation": generation })
        }
        session::Event::Revoked { reason, at, .. } => {
            json!({ "revoked_at": at.as_millis(), "revoked_reason": reason.as_str() })
        }
    };
    set(rows, SESSIONS, commit, columns);
}

fn of_query(rows: &mut Rows, commit: &Commit, event: &query::Event) {
    let columns = match event {
        query::Event::Submitted {
            owner,
            submission,
            route,
            at,
            ..
        } => json!({
            "owner": owner, "query": submission.text, "operation": submission.operation,
            "file_ids": submission.file_ids, "reference": submission.reference, "route": route,
            "status": "queued", "attempts": 0, "created_at": at.as_millis(),
            "worker": null, "model": null, "response_text": null, "error_code": null,
            "cancelled_by": null, "started_at": null, "completed_at": null,
        }),
        query::Event::Started {
            worker,
            model,
            attempt,
            at,
            ..
        } => {
            let row = row(rows, QUERIES, commit.aggregate.id);
            if row.get("started_at").is_none_or(Value::is_null) {
                row.insert("started_at".into(), at.as_millis().into());
            }
            json!({
                "status": "processing", "worker": worker, "model": model, "attempts": attempt,
            })
        }
        query::Event::Completed { answer, at, .. } => json!({
            "status": "completed", "response_text": answer.response_text,
            "model_used": answer.model_used, "confidence": answer.confidence,
            "latency_ms": answer.latency_ms, "finish_reason": answer.finish_reason,
            "prompt_tokens": answer.usage.prompt_tokens,
            "completion_tokens": answer.usage.completion_tokens,
            "completed_at": at.as_millis(),
        }),
        query::Event::Failed {
            code, message, at, ..
        } => json!({
            "status": "failed", "error_code": code.as_str(), "error_message": message,
            "completed_at": at.as_millis(),
        }),
        query::Event::Cancelled { by, at, .. } => json!({
            "status": "cancelled", "cancelled_by": by.as_str(), "completed_at": at.as_millis(),
        }),
    };
    set(rows, QUERIES, commit, columns);
}
