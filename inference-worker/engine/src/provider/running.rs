//! Counts what a provider has in hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many answers are under way. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct Runs(Arc<AtomicUsize>);

/// An answer under way, for as long as it is held.
#[derive(Debug)]
pub struct Running(Runs);

impl Runs {
    /// One more.
    pub fn begin(&self) -> Running {
        self.0.fetch_add(1, Ordering::Relaxed);
        Running(self.clone())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
