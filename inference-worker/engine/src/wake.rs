//! Wakes the scheduler's thread when there may be something to do.

use std::sync::OnceLock;
use std::thread::Thread;

/// Unparks one thread, from other threads and as a [`std::task::Waker`]. A wake before the thread
/// parks is remembered, so none is lost.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    thread: OnceLock<Thread>,
}

impl Wake {
    /// Makes the calling thread the one to wake.
    pub(crate) fn adopt_current_thread(&self) {
        self.thread.get_or_init(std::thread::current);
    }

    /// Does nothing before a thread is adopted: that thread looks for work before it first parks.
    pub(crate) fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

impl std::task::Wake for Wake {
    fn wake(self: std::sync::Arc<Self>) {
        Wake::wake(&self);
    }
}
