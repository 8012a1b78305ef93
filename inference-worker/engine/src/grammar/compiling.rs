//! Compiling with a limit in time: most formats take a millisecond, but patterns that exclude each
//! other can take minutes, and the compiler cannot be told to stop.

use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::format::refused;
use crate::error::Error;

/// How long a format may take to compile, and to wait for its turn.
const LIMIT: Duration = Duration::from_secs(2);
/// Formats that are compiled at once. Those that are given up keep their place until their threads
/// come to an end, so that they cannot take all of the machine.
const PLACES: usize = 2;
/// A thread's own stack: compilers go as deep as formats do.
const STACK_BYTES: usize = 8 << 20;

#[derive(Debug, Default)]
struct Turns {
    taken: Mutex<usize>,
    left: Condvar,
}

impl Turns {
    fn taken(&self) -> MutexGuard<'_, usize> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place that is free again when it is dropped.
struct Turn(Arc<Turns>);

impl Drop for Turn {
    fn drop(&mut self) {
        *self.0.taken() -= 1;
        self.0.left.notify_one();
    }
}

/// Runs compilers, a few at once.
#[derive(Debug)]
pub(super) struct Compiling {
    turns: Arc<Turns>,
    limit: Duration,
}

impl Default for Compiling {
    fn default() -> Self {
        Self {
            turns: Arc::default(),
            limit: LIMIT,
        }
    }
}

impl Compiling {
    /// What `compile` makes, or the refusal where that takes too long.
    pub(super) fn run<T: Send + 'static>(
        &self,
        compile: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let turn = self.turn()?;
        let (made, receiver) = sync_channel(1);
        std::thread::Builder::new()
            .name("engine-grammar".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                // Nobody waits any more where it took too long.
                let _ = made.send(compile());
                drop(turn);
            })
            .map_err(Error::Thread)?;
        let given_up = |_| refused(format!("takes longer than {:?} to compile", self.limit));
        receiver.recv_timeout(self.limit).map_err(given_up)?
    }

    fn turn(&self) -> Result<Turn, Error> {
        let full = |taken: &mut usize| *taken >= PLACES;
        let (mut taken, waited) = self
            .turns
            .left
            .wait_timeout_while(self.turns.taken(), self.limit, full)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return Err(Error::Compiling { others: *taken });
        }
        *taken += 1;
        Ok(Turn(Arc::clone(&self.turns)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_is_given_up_and_keeps_its_place_until_it_ends() {
        let compiling = Compiling {
            limit: Duration::from_millis(50),
            ..Compiling::default()
        };
        let (end, ended) = sync_channel::<()>(0);
        let ended = Arc::new(Mutex::new(ended));
        let slow = || {
            let ended = Arc::clone(&ended);
            move || {
                // An error is the end too.
                let _ = ended.lock().expect("no panic").recv();
                Ok(())
            }
        };
        for _ in 0..PLACES {
            let given_up = compiling.run(slow()).expect_err("a refusal").to_string();
            assert!(given_up.contains("takes longer than 50ms"), "{given_up}");
        }
        let refused = compiling.run(|| Ok(())).expect_err("no place");
        assert!(matches!(refused, Error::Compiling { others: PLACES }));
        drop(end);
        let patient = Compiling {
            limit: LIMIT,
            ..compiling
        };
        patient.run(|| Ok(())).expect("a place, soon");
    }
}
