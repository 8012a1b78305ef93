//! Notices a step that does not end, when the device or its driver hangs. The thread that waits for
//! it can do nothing any more, so another one ends its generations and lets the owner know.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Inbox;
use crate::error::Error;

/// When the step in hand began.
#[derive(Default)]
pub(super) struct Pulse(Mutex<Option<Instant>>);

impl Pulse {
    fn began(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A step begins; it ends when the guard is dropped.
    pub(super) fn step(self: &Arc<Self>) -> Step {
        *self.began() = Some(Instant::now());
        Step(Arc::clone(self))
    }
}

pub(super) struct Step(Arc<Pulse>);

impl Drop for Step {
    fn drop(&mut self) {
        *self.0.began() = None;
    }
}

/// The thread's owner.
pub(super) struct Watchdog {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Gives the generations of the inbox up when a step takes longer than `limit`, and then drops
    /// `given_up`.
    pub(super) fn start(
        limit: Duration,
        pulse: Arc<Pulse>,
        inbox: Arc<Inbox>,
        given_up: impl Send + 'static,
    ) -> Result<Self, Error> {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new()
            .name("engine-watchdog".into())
            .spawn(move || {
                let _given_up = given_up;
                if is_stuck(limit, &pulse, &stopped) {
                    inbox.give_up(limit);
                }
            })
            .map_err(Error::Thread)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits for a step that takes longer than the limit; false when nobody needs to know any more.
/// It sleeps until the step in hand would be too long, so that steps need not wake it.
fn is_stuck(limit: Duration, pulse: &Pulse, stopped: &Receiver<()>) -> bool {
    let mut counts_from = Instant::now();
    let mut sleep = limit;
    loop {
        let slept_from = Instant::now();
        match stopped.recv_timeout(sleep) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return false,
        }
        // Where the whole process was stopped for a while, the step was too.
        if slept_from.elapsed() > sleep + limit / 2 {
            counts_from = Instant::now();
        }
        sleep = match *pulse.began() {
            None => limit,
            Some(began) => match limit.checked_sub(began.max(counts_from).elapsed()) {
                None | Some(Duration::ZERO) => return true,
                Some(left) => left,
            },
        };
    }
}
