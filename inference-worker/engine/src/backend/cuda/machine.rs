//! What steps are begun on: the GPU, or its emulation in tests.

use std::cell::RefCell;

use cudarc::driver::sys::CUdeviceptr;

use super::blas::{Blas, Into};
use super::compiler::Kernels;
use super::device::Device;
use super::weights::Product;
use crate::error::Error;

/// Bytes on a machine, freed when dropped.
#[derive(Debug)]
pub(super) struct Memory {
    pointer: CUdeviceptr,
    bytes: usize,
    free: fn(CUdeviceptr),
}

/// Has memory and runs kernels, one after another in the order in which they were begun.
pub(super) trait Machine {
    /// How many blocks of threads are computed truly at once.
    fn multiprocessors(&self) -> usize;

    /// Zeroed memory; `what` it is for is told where there is none.
    fn memory(&self, bytes: usize, what: &str) -> Result<Memory, Error>;

    /// Copies to `start` bytes behind the beginning, and waits until that is done.
    fn put<T: Copy>(&self, to: &Memory, start: usize, numbers: &[T]) -> Result<(), Error>;

    /// Begins to run a kernel. Arguments are addresses, or what [`int`] and [`float`] make.
    ///
    /// # Safety
    /// They are those that the kernel takes, and what they point to is as large as it expects.
    unsafe fn launch(
        &self,
        kernel: &str,
        grid: [usize; 3],
        threads: u32,
        arguments: &[u64],
    ) -> Result<(), Error>;

    /// Begins a product with many inputs: `[inputs, rows]` of `[inputs, columns]`, without the bias.
    ///
    /// # Safety
    /// As for [`Blas::multiply`].
    unsafe fn multiply(
        &self,
        product: &Product,
        input: u64,
        inputs: usize,
        out: (u64, Into),
    ) -> Result<(), Error>;
}

/// The GPU with its kernels and libraries.
pub(super) struct Gpu {
    pub(super) blas: RefCell<Blas>,
    pub(super) kernels: Kernels,
    pub(super) device: Device,
}

impl Machine for Gpu {
    fn multiprocessors(&self) -> usize {
        self.device.multiprocessors
    }

    fn memory(&self, bytes: usize, what: &str) -> Result<Memory, Error> {
        self.device.memory(bytes, what)
    }

    fn put<T: Copy>(&self, to: &Memory, start: usize, numbers: &[T]) -> Result<(), Error> {
        self.device.put(to, start, numbers)
    }

    unsafe fn launch(
        &self,
        kernel: &str,
        grid: [usize; 3],
        threads: u32,
        arguments: &[u64],
    ) -> Result<(), Error> {
        let kernel = self.kernels.get(kernel)?;
        // SAFETY: as promised by the caller.
        unsafe { self.device.launch(kernel, grid, threads, arguments) }
    }

    unsafe fn multiply(
        &self,
        product: &Product,
        input: u64,
        inputs: usize,
        out: (u64, Into),
    ) -> Result<(), Error> {
        let mut blas = self.blas.borrow_mut();
        // SAFETY: as promised by the caller.
        unsafe { blas.multiply(&self.device, product, input, inputs, out) }
    }
}

/// An argument of 32 bits: those are first, as devices and their hosts are little-endian.
pub(super) fn int(number: usize) -> u64 {
    u64::from(number as u32)
}

pub(super) fn float(number: f32) -> u64 {
    u64::from(number.to_bits())
}

impl Memory {
    /// Memory at an address, which `free` gives back.
    pub(super) fn new(pointer: CUdeviceptr, bytes: usize, free: fn(CUdeviceptr)) -> Self {
        Self {
            pointer,
            bytes,
            free,
        }
    }

    /// The address of the byte at this distance from the beginning.
    pub(super) fn at(&self, bytes: usize) -> u64 {
        self.pointer + bytes as u64
    }

    /// As [`at`](Self::at), where so many bytes lie there.
    pub(super) fn within(&self, start: usize, bytes: usize) -> Result<CUdeviceptr, Error> {
        match start.checked_add(bytes) {
            Some(end) if end <= self.bytes => Ok(self.at(start)),
            _ => Err(Error::Backend(format!(
                "{bytes} bytes at {start} of {}",
                self.bytes
            ))),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        (self.free)(self.pointer);
    }
}
