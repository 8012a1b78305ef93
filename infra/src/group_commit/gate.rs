//! Who may append alone at this moment, without waiting for a group.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::Notify;

/// Units of several parts that are under way alone at once. Each is an atomic batch, of which the
/// server takes 50 per stream (nats-server 2.12 and newer), from all instances together.
const SEVERAL: usize = 4;

/// The slots of those that append alone.
#[derive(Debug)]
pub(super) struct Gate {
    most: usize,
    taken: Mutex<Taken>,
    /// While units wait, nobody overtakes them.
    closed: AtomicBool,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    of_several: usize,
}

/// The right to append alone, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    gate: Arc<Gate>,
    several: bool,
}

impl Gate {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            taken: Mutex::default(),
            closed: AtomicBool::new(false),
            freed: Notify::new(),
        })
    }

    /// A slot for who comes from outside, unless others wait or there is none.
    pub(super) fn enter(self: &Arc<Self>, parts: usize) -> Option<Slot> {
        if self.closed.load(Ordering::Acquire) {
            return None;
        }
        self.admit(parts)
    }

    /// A slot for who has waited, if there is one.
    pub(super) fn admit(self: &Arc<Self>, parts: usize) -> Option<Slot> {
        let several = parts > 1;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all == self.most || (several && taken.of_several == SEVERAL) {
            return None;
        }
        taken.all += 1;
        taken.of_several += usize::from(several);
        Some(Slot {
            gate: self.clone(),
            several,
        })
    }

    /// Lets nobody pass from now on, or everybody again for whom there is a slot.
    pub(super) fn close(&self, closed: bool) {
        self.closed.store(closed, Ordering::Release);
    }

    /// Completes when a slot came free since the last call.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self
            .gate
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        taken.of_several -= usize::from(self.several);
        drop(taken);
        self.gate.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_counted_and_come_back() {
        let gate = Gate::new(2);
        let first = gate.enter(1).expect("a slot");
        let _second = gate.enter(3).expect("a slot");
        assert!(gate.enter(1).is_none());
        drop(first);
        gate.close(true);
        assert!(gate.enter(1).is_none(), "others wait");
        let third = gate.admit(1);
        assert!(third.is_some());
        drop(third);
        gate.close(false);
        assert!(gate.enter(1).is_some());
    }

    #[test]
    fn few_batches_go_alone() {
        let gate = Gate::new(100);
        let held: Vec<_> = (0..SEVERAL).map(|_| gate.enter(2)).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(gate.enter(2).is_none());
        assert!(gate.enter(1).is_some());
    }
}
