//! The life of a process: every task belongs to it, and stops with it.
//!
//! Two signals: *soft* means finish the work in hand and take no more; *hard* means drop it.

use std::{future::Future, time::Duration};
use tokio::task::JoinHandle;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFuture},
    task::TaskTracker,
};
use tracing::{error, info};

/// Handle to the life of a process, or of one service within it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle {
    soft: CancellationToken,
    hard: CancellationToken,
    tasks: TaskTracker,
}

impl Lifecycle {
    /// A life that has just begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// A part of this life with its own end: it stops with its parent, and can stop before.
    pub fn child(&self) -> Self {
        Self {
            soft: self.soft.child_token(),
            hard: self.hard.child_token(),
            tasks: TaskTracker::new(),
        }
    }

    /// Runs a task that belongs to this life and is dropped on the hard signal. A panic in it is
    /// logged and ends the life softly, since nobody would do its work from then on.
    pub fn spawn<F>(&self, name: &'static str, task: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (soft, hard) = (self.soft.clone(), self.hard.clone());
        self.tasks.spawn(async move {
            let guarded = EndOnPanic {
                name,
                soft,
                armed: true,
            };
            tokio::select! {
                () = task => {}
                () = hard.cancelled() => {}
            }
            guarded.disarm();
        })
    }

    /// Completes when the process should finish its work.
    pub fn stopping(&self) -> WaitForCancellationFuture<'_> {
        self.soft.cancelled()
    }

    /// Whether the process should finish its work.
    pub fn is_stopping(&self) -> bool {
        self.soft.is_cancelled()
    }

    /// The soft signal itself, for what wants to hold it.
    pub fn soft(&self) -> CancellationToken {
        self.soft.clone()
    }

    /// The hard signal itself.
    pub fn hard(&self) -> CancellationToken {
        self.hard.clone()
    }

    /// Gives the soft signal and returns at once.
    pub fn begin_stop(&self) {
        self.soft.cancel();
    }

    /// Gives the soft signal, waits for the tasks at most `grace`, then gives the hard one and
    /// waits for the rest.
    pub async fn stop(&self, grace: Duration) {
        self.soft.cancel();
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait())
            .await
            .is_err()
        {
            info!(
                grace_ms = grace.as_millis(),
                "dropping the work that did not finish in time"
            );
        }
        self.hard.cancel();
        self.tasks.wait().await;
    }

    /// Completes on SIGINT or SIGTERM.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub async fn signalled() -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    }
}

struct EndOnPanic {
    name: &'static str,
    soft: CancellationToken,
    armed: bool,
}

impl EndOnPanic {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if self.armed && std::thread::panicking() {
            error!(task = self.name, "a task panicked: the service stops");
            self.soft.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_soft_stop_lets_work_finish() {
        let life = Lifecycle::new();
        let (done, finished) = tokio::sync::oneshot::channel();
        let inner = life.clone();
        life.spawn("worker", async move {
            inner.stopping().await;
            done.send(()).ok();
        });
        life.stop(Duration::from_secs(5)).await;
        assert_eq!(finished.await, Ok(()));
    }

    #[tokio::test]
    async fn a_panic_ends_the_life() {
        let life = Lifecycle::new();
        life.spawn("worker", async { panic!("on purpose") });
        life.stopping().await;
    }

    #[tokio::test]
    async fn a_hard_stop_drops_what_hangs() {
        let life = Lifecycle::new();
        life.spawn("worker", std::future::pending());
        life.stop(Duration::from_millis(1)).await;
    }
}
