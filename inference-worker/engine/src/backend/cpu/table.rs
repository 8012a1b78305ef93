//! A table that several threads fill, each its own places.

use std::marker::PhantomData;
use std::ops::Range;

/// Rows of `width` numbers.
pub(super) struct Table<'a, T> {
    start: *mut T,
    rows: usize,
    width: usize,
    numbers: PhantomData<&'a mut [T]>,
}

// SAFETY: a unique borrow of numbers; `part` names the condition for using it from any thread.
unsafe impl<T: Send> Sync for Table<'_, T> {}

impl<'a, T> Table<'a, T> {
    pub(super) fn new(numbers: &'a mut [T], width: usize) -> Self {
        Self {
            start: numbers.as_mut_ptr(),
            rows: numbers.len() / width,
            width,
            numbers: PhantomData,
        }
    }

    /// A part of a row.
    ///
    /// # Safety
    /// While it is in use, nobody uses a part that overlaps it.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "the parts are disjoint, as asked")]
    pub(super) unsafe fn part(&self, row: usize, columns: Range<usize>) -> &mut [T] {
        assert!(row < self.rows && columns.start <= columns.end && columns.end <= self.width);
        // SAFETY: within the numbers that were borrowed, and nobody else uses it, as asked.
        unsafe {
            let start = self.start.add(row * self.width + columns.start);
            std::slice::from_raw_parts_mut(start, columns.len())
        }
    }
}
