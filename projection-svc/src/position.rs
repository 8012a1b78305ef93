//! How far the live generation is, as far as this instance may serve it.
//!
//! The owner of the live generation knows it first hand. Everybody else reads the checkpoints every
//! [`POLL`], and so finds out when another version has become live, which it must not serve.

use crate::generation::{self, Slot, VERSION};
use infra::{lifecycle::Lifecycle, telemetry::chain};
use sqlx::PgPool;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, time::timeout};
use tracing::debug;

/// How often the checkpoints are read by whoever does not write them.
const POLL: Duration = Duration::from_millis(100);
/// Longest wait for them.
const ANSWER: Duration = Duration::from_secs(5);

/// What the rows of the live generation reflect; nothing where there is none of our version.
#[derive(Clone)]
pub(crate) struct Position {
    reached: watch::Sender<Option<u64>>,
    is_owner: Arc<AtomicBool>,
}

impl Position {
    /// Nothing is known yet.
    pub(crate) fn unknown() -> Self {
        Self {
            reached: watch::Sender::new(None),
            is_owner: Arc::default(),
        }
    }

    /// To be told of changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<u64>> {
        self.reached.subscribe()
    }

    /// What the owner knows.
    pub(crate) fn set(&self, reached: Option<u64>) {
        self.reached.send_if_modified(|known| {
            let moved = *known != reached;
            *known = reached;
            moved
        });
    }

    /// While the guard lives, only the owner tells.
    pub(crate) fn own(&self) -> Owning {
        self.is_owner.store(true, Ordering::SeqCst);
        Owning(self.is_owner.clone())
    }

    /// Reads the checkpoints until the life ends.
    pub(crate) async fn follow(self, pool: PgPool, lifecycle: Lifecycle) {
        while !lifecycle.is_stopping() {
            if !self.is_owner.load(Ordering::SeqCst) {
                match timeout(ANSWER, look(&pool)).await {
                    // It may have become the owner meanwhile, and know more.
                    Ok(Ok(_)) if self.is_owner.load(Ordering::SeqCst) => {}
                    Ok(Ok(reached)) => self.set(reached),
                    // What was reached stays reached; who writes tells that the database is gone.
                    Ok(Err(error)) => debug!(error = chain(&error), "no checkpoints"),
                    Err(_) => debug!("no checkpoints in time"),
                }
            }
            tokio::select! {
                () = lifecycle.stopping() => return,
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }
}

async fn look(pool: &PgPool) -> Result<Option<u64>, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let live = generation::look(&mut connection, Slot::Live).await?;
    Ok(live
        .filter(|live| live.version == VERSION)
        .map(|live| live.reached()))
}

/// Says that this instance is the owner.
pub(crate) struct Owning(Arc<AtomicBool>);

impl Drop for Owning {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}
