//! How fast this machine reads memory.

use std::hint::black_box;
use std::time::Instant;

/// Bytes of the buffer that is read; several times what caches hold.
const BUFFER: usize = 512 << 20;
const PASSES: usize = 8;

/// Bytes per second: the best of several passes of so many threads over a buffer, each over its own
/// part.
pub fn read_bandwidth(threads: usize) -> f64 {
    let buffer = vec![1u64; BUFFER / size_of::<u64>()];
    let part = buffer.len().div_ceil(threads.max(1));
    let pass = || {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for part in buffer.chunks(part) {
                scope.spawn(move || {
                    black_box(part.iter().fold(0, |all, number| all ^ number));
                });
            }
        });
        BUFFER as f64 / began.elapsed().as_secs_f64()
    };
    (0..PASSES).map(|_| pass()).fold(0.0, f64::max)
}
