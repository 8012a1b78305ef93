//! Computes the masks of constrained generations while the backend computes their logits.
//!
//! A thread takes grammars in the order in which the scheduler will ask for their masks. The
//! scheduler asks the grammar itself, and waits only where the thread is at this very one, or
//! computes what the thread has not come to.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::error::Error;
use crate::grammar::Grammar;

/// A grammar that both threads ask.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Grammar>>);

impl Shared {
    pub(super) fn new(grammar: Grammar) -> Self {
        Self(Arc::new(Mutex::new(grammar)))
    }

    /// Grammars survive panics themselves: they answer errors from then on.
    pub(super) fn lock(&self) -> MutexGuard<'_, Grammar> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's owner.
pub(super) struct Masks {
    asked: Option<SyncSender<Shared>>,
    thread: Option<JoinHandle<()>>,
}

impl Masks {
    /// `places` grammars are asked for ahead at most.
    pub(super) fn start(places: usize) -> Result<Self, Error> {
        let (asked, received) = sync_channel::<Shared>(places);
        let thread = std::thread::Builder::new()
            .name("engine-masks".into())
            .spawn(move || {
                for grammar in received {
                    // The scheduler gets the same answer, an error too.
                    let _ = grammar.lock().mask();
                }
            })
            .map_err(Error::Thread)?;
        Ok(Self {
            asked: Some(asked),
            thread: Some(thread),
        })
    }

    /// Has a mask computed meanwhile. Without a place it is computed when it is needed.
    pub(super) fn ask(&self, grammar: &Shared) {
        if let Some(asked) = &self.asked {
            let _ = asked.try_send(grammar.clone());
        }
    }
}

impl Drop for Masks {
    fn drop(&mut self) {
        self.asked = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
