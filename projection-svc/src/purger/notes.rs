//! The ledger in the database, where what has left is found by its id. It follows from the ledger's
//! pages and is made anew from them where it is missing; until it has all of them that this process
//! knows of, nobody is told that something has not left.

use infra::archive::{Archive, Error as CopyError, ledger::Page};
use sqlx::{PgConnection, PgPool};
use std::sync::{Arc, Mutex, PoisonError};
use uuid::Uuid;

use crate::view::signed;
use domain::subject::Aggregate;

/// It cannot be said now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The database does not answer.
    #[error("the database does not answer")]
    Database(#[from] sqlx::Error),
    /// The ledger cannot be read.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// It was not read yet, or the database is another one than it was.
    #[error("the database has not all of the ledger yet")]
    Behind,
    /// The bucket is another one than it was, or has lost something.
    #[error("the ledger in the bucket ends before page {0}, which the database knows")]
    Shorter(u64),
}

/// What the database says of the ledger. Clones share what the process knows.
#[derive(Clone)]
pub(crate) struct Notes {
    pool: PgPool,
    known: Arc<Mutex<Option<Known>>>,
}

#[derive(Clone)]
struct Known {
    archive: Archive,
    pages: u64,
}

impl Notes {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self {
            pool,
            known: Arc::default(),
        }
    }

    /// Writes into the database what is new in the ledger of this copy.
    pub(super) async fn catch_up(&self, archive: &Archive) -> Result<(), Error> {
        loop {
            let mut transaction = self.pool.begin().await?;
            let pages = position(&mut transaction, archive.epoch()).await?;
            if let Some(last) = pages.checked_sub(1)
                && archive.ledger_page(last).await?.is_none()
            {
                return Err(Error::Shorter(last));
            }
            let page = archive.ledger_page(pages).await?;
            if let Some(page) = &page {
                take(&mut transaction, page).await?;
            }
            transaction.commit().await?;
            if page.is_none() {
                *self.lock() = Some(Known {
                    archive: archive.clone(),
                    pages,
                });
                return Ok(());
            }
        }
    }

    /// The last sequence of a query that has left, and the copy that has it; `None` where it has
    /// not left.
    pub(super) async fn find(&self, query: Uuid) -> Result<Option<(Archive, u64)>, Error> {
        let known = self.lock().clone().ok_or(Error::Behind)?;
        let (pages, last): (Option<i64>, Option<i64>) = sqlx::query_as(
            "SELECT (SELECT pages FROM projection.ledger WHERE epoch = $1),
                    (SELECT last_seq FROM projection.purged WHERE query_id = $2)",
        )
        .bind(known.archive.epoch())
        .bind(query)
        .fetch_one(&self.pool)
        .await?;
        if pages.is_none_or(|pages| pages < signed(known.pages)) {
            return Err(Error::Behind);
        }
        let last = last.map(|last| u64::try_from(last).unwrap_or(0));
        Ok(last.map(|last| (known.archive, last)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many pages the database has of this log's ledger, locked for whoever adds the next one.
async fn position(connection: &mut PgConnection, epoch: &str) -> Result<u64, sqlx::Error> {
    sqlx::query(
        "INSERT INTO projection.ledger (epoch, pages) VALUES ($1, 0) ON CONFLICT DO NOTHING",
    )
    .bind(epoch)
    .execute(&mut *connection)
    .await?;
    let (noted, pages): (String, i64) =
        sqlx::query_as("SELECT epoch, pages FROM projection.ledger FOR UPDATE")
            .fetch_one(&mut *connection)
            .await?;
    if noted == epoch {
        return Ok(u64::try_from(pages).unwrap_or(0));
    }
    // Another log, which has everything that its copy had.
    sqlx::query("DELETE FROM projection.purged")
        .execute(&mut *connection)
        .await?;
    sqlx::query("UPDATE projection.ledger SET epoch = $1, pages = 0")
        .bind(epoch)
        .execute(&mut *connection)
        .await?;
    Ok(0)
}

async fn take(connection: &mut PgConnection, page: &Page) -> Result<(), sqlx::Error> {
    let (ids, last): (Vec<Uuid>, Vec<i64>) = page
        .left
        .iter()
        .filter_map(|left| {
            let aggregate = Aggregate::parse(&left.subject)?;
            Some((aggregate.id, signed(*left.seqs.last()?)))
        })
        .unzip();
    sqlx::query(
        "INSERT INTO projection.purged (query_id, last_seq)
         SELECT * FROM UNNEST($1::uuid[], $2::bigint[]) ON CONFLICT DO NOTHING",
    )
    .bind(ids)
    .bind(last)
    .execute(&mut *connection)
    .await?;
    sqlx::query("UPDATE projection.ledger SET pages = $1")
        .bind(signed(page.number + 1))
        .execute(connection)
        .await?;
    Ok(())
}
