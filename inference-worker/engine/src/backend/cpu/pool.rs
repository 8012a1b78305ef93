//! A pool of threads for regions of a few microseconds.
//!
//! A decode step of a small model has dozens of parallel regions, so a region must cost less than
//! a system call: idle threads spin for a moment before they sleep. Whoever comes to a region
//! late finds no work left and is not waited for; on a busy machine the calling thread then simply
//! does it all.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::error::Error;

/// Looks at the state before sleeping; under a millisecond, longer than the gap between regions.
const SPINS: u32 = 2_000;

/// Looks that only hint to the core before the scheduler is asked to run someone else.
const SPINS_BEFORE_YIELD: u32 = 200;

/// Additions that are done before a helper has taken note.
const ALONE: usize = 32_768;

/// `Shared::state`: the lower half counts the helpers inside the region, this bit says whether
/// more may enter, and the bits above number the regions.
const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;
const NEXT_REGION: u64 = 1 << 32;

/// A region: called with each task's number once.
type Region<'a> = &'a (dyn Fn(usize) + Sync);

struct Shared {
    state: AtomicU64,
    /// The open region. Valid while `state` is open or counts a helper inside.
    region: AtomicPtr<Region<'static>>,
    tasks: AtomicUsize,
    next_task: AtomicUsize,
    panicked: AtomicBool,
    stopping: AtomicBool,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
}

/// The caller's thread and its helpers.
pub(super) struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// `threads` counts the caller's; all available cores when absent.
    pub(super) fn new(threads: Option<NonZeroUsize>) -> Result<Self, Error> {
        let threads = threads
            .or_else(|| std::thread::available_parallelism().ok())
            .map_or(1, NonZeroUsize::get);
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            region: AtomicPtr::new(std::ptr::null_mut()),
            tasks: AtomicUsize::new(0),
            next_task: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        });
        let mut pool = Self {
            shared,
            helpers: Vec::with_capacity(threads - 1),
        };
        for number in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let helper = std::thread::Builder::new()
                .name(format!("engine-cpu-{number}"))
                .spawn(move || shared.help())
                .map_err(Error::Thread)?;
            pool.helpers.push(helper);
        }
        Ok(pool)
    }

    /// The caller's thread and its helpers.
    pub(super) fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// As [`run`](Self::run); where all of it costs less than some tens of thousands of additions,
    /// `work` of them, the caller does it alone.
    pub(super) fn run_if_worthwhile(&mut self, tasks: usize, work: usize, region: Region<'_>) {
        if work < ALONE {
            (0..tasks).for_each(region);
        } else {
            self.run(tasks, region);
        }
    }

    /// Calls `region` for every task in `0..tasks`, on any threads in any order, and returns when
    /// all are done.
    ///
    /// # Panics
    /// When `region` panicked on any thread.
    pub(super) fn run(&mut self, tasks: usize, region: Region<'_>) {
        if tasks <= 1 || self.helpers.is_empty() {
            (0..tasks).for_each(region);
            return;
        }
        let shared = &*self.shared;
        let mut region = region;
        // The lifetime is erased only while `Closing` below is alive, which does not let go before
        // every helper has left the region.
        shared
            .region
            .store((&raw mut region).cast(), Ordering::Relaxed);
        shared.tasks.store(tasks, Ordering::Relaxed);
        shared.next_task.store(0, Ordering::Relaxed);
        let number = shared.state.load(Ordering::Relaxed) & !(NEXT_REGION - 1);
        shared
            .state
            .store(number.wrapping_add(NEXT_REGION) | OPEN, Ordering::SeqCst);
        let closing = Closing(shared);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            let _guard = shared.sleep.lock().unwrap_or_else(PoisonError::into_inner);
            shared.wake.notify_all();
        }
        shared.work(region);
        drop(closing);
        if shared.panicked.swap(false, Ordering::Relaxed) {
            panic!("a helper thread panicked");
        }
    }
}

/// Ends a region, also when the caller's own share of it panics.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0;
        while self.0.state.load(Ordering::Acquire) & INSIDE != 0 {
            pause(&mut spins);
        }
    }
}

impl Shared {
    fn work(&self, region: Region<'_>) {
        let tasks = self.tasks.load(Ordering::Relaxed);
        loop {
            let task = self.next_task.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                return;
            }
            region(task);
        }
    }

    /// A helper's life.
    fn help(&self) {
        let mut last_region = 0;
        while let Some(state) = self.wait_for_region(last_region) {
            last_region = region_number(state);
            let entered =
                self.state
                    .compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed);
            if entered.is_err() {
                // Another helper entered or the region closed; look again.
                last_region = last_region.wrapping_sub(1);
                continue;
            }
            // SAFETY: this helper is counted inside a region that was open, so `Pool::run` has
            // not returned and its `region` lives until the count goes down again.
            let region = unsafe { *self.region.load(Ordering::Relaxed) };
            if catch_unwind(AssertUnwindSafe(|| self.work(region))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// The state of an open region other than the last one; `None` when the pool stops.
    fn wait_for_region(&self, last: u64) -> Option<u64> {
        let ready = || {
            let state = self.state.load(Ordering::SeqCst);
            (state & OPEN != 0 && region_number(state) != last).then_some(state)
        };
        let mut spins = 0;
        while spins < SPINS {
            if let Some(state) = ready() {
                return Some(state);
            }
            pause(&mut spins);
        }
        let mut guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        // Counted before the last look: a region opened after that look sees a sleeper.
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let found = loop {
            if self.stopping.load(Ordering::SeqCst) {
                break None;
            }
            if let Some(state) = ready() {
                break Some(state);
            }
            guard = self
                .wake
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        found
    }
}

fn region_number(state: u64) -> u64 {
    state / NEXT_REGION
}

fn pause(spins: &mut u32) {
    *spins = spins.saturating_add(1);
    if *spins < SPINS_BEFORE_YIELD {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        {
            let _guard = self
                .shared
                .sleep
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            self.shared.wake.notify_all();
        }
        for helper in self.helpers.drain(..) {
            // A helper catches the panics of its regions, so it ends in no other way.
            let _ = helper.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(threads: usize) -> Pool {
        Pool::new(NonZeroUsize::new(threads)).expect("threads")
    }

    #[test]
    fn every_task_runs_once_in_every_region() {
        let mut pool = pool(4);
        for round in 0..2_000 {
            let tasks = round % 37;
            let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            pool.run(tasks, &|task| {
                counts[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(
                counts
                    .iter()
                    .all(|count| count.load(Ordering::Relaxed) == 1)
            );
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let mut pool = pool(3);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(64, &|task| assert!(task != 40, "task 40 fails"));
        }));
        assert!(result.is_err());
        let done = AtomicUsize::new(0);
        pool.run(64, &|_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.load(Ordering::Relaxed), 64);
    }
}
