//! The device: its memory, its one stream, and what its errors mean.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute, CUdeviceptr};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream};

use super::machine::Memory;
use crate::error::Error;

/// The first device of the machine.
#[derive(Debug)]
pub(super) struct Device {
    context: Arc<CudaContext>,
    pub(super) stream: Arc<CudaStream>,
    pub(super) name: String,
    /// What kernels are compiled for.
    pub(super) arch: String,
    pub(super) multiprocessors: usize,
}

/// Why there is no device to compute on.
pub(super) fn absence() -> Option<&'static str> {
    // SAFETY: only looks for the libraries.
    let [driver, compiler, products] = unsafe {
        [
            sys::is_culib_present(),
            cudarc::nvrtc::sys::is_culib_present(),
            cudarc::cublaslt::sys::is_culib_present(),
        ]
    };
    match (driver, compiler, products) {
        (false, ..) => Some("there is no NVIDIA driver (libcuda)"),
        (_, false, _) => Some("there is no CUDA compiler (libnvrtc)"),
        (.., false) => Some("there is no cuBLASLt (libcublasLt)"),
        _ => None,
    }
}

/// A library that lacks a function panics when it is called: an error here.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>();
        Err(Error::Device(format!(
            "the driver or a CUDA library is too old: {}",
            text.map_or("a function is missing", String::as_str)
        )))
    })
}

/// What the driver says, and what to do about it.
pub(super) fn failed(doing: &str) -> impl Fn(DriverError) -> Error {
    use sys::CUresult as Code;
    move |error| {
        let advice = match error.0 {
            Code::CUDA_ERROR_OUT_OF_MEMORY => "out of memory: give it a smaller model or context",
            Code::CUDA_ERROR_ECC_UNCORRECTABLE => "its memory is damaged: restart, then replace it",
            Code::CUDA_ERROR_NO_DEVICE | Code::CUDA_ERROR_INVALID_DEVICE => "there is no device",
            Code::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => "the driver does not fit its libraries",
            Code::CUDA_ERROR_NOT_FOUND | Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
                "the driver is too old"
            }
            Code::CUDA_ERROR_NO_BINARY_FOR_GPU => "the kernels were compiled for another device",
            _ => "the device or its driver failed: the process must start again",
        };
        Error::Device(format!("{doing}: {advice} ({:?})", error.0))
    }
}

impl Device {
    /// # Errors
    /// [`Error::Device`] when it does not answer, or is older than compute capability 8.0.
    pub(super) fn open() -> Result<Self, Error> {
        let opening = failed("opening the device");
        let context = CudaContext::new(0).map_err(&opening)?;
        // SAFETY: everything happens on one stream, in order, so that no event is needed.
        unsafe { context.disable_event_tracking() };
        let (major, minor) = context.compute_capability().map_err(&opening)?;
        let name = context.name().map_err(&opening)?;
        if major < 8 {
            let reason = format!("{name} has compute capability {major}.{minor}, expected 8.0");
            return Err(Error::Device(reason));
        }
        let attribute = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = context.attribute(attribute).map_err(&opening)?;
        Ok(Self {
            stream: context.new_stream().map_err(&opening)?,
            name,
            arch: match (major, minor) {
                (9, 0) => "sm_90a".into(),
                _ => format!("sm_{major}{minor}"),
            },
            multiprocessors: usize::try_from(multiprocessors).unwrap_or(1),
            context,
        })
    }

    pub(super) fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// Whichever thread calls next computes on this device.
    pub(super) fn enter(&self) -> Result<(), Error> {
        let entering = self.context.bind_to_thread();
        entering.map_err(failed("entering the device"))
    }

    /// Bytes that are free.
    pub(super) fn free(&self) -> Result<usize, Error> {
        let info = self.context.mem_get_info();
        Ok(info.map_err(failed("asking for free memory"))?.0)
    }

    /// Zeroed memory.
    pub(super) fn memory(&self, bytes: usize, what: &str) -> Result<Memory, Error> {
        let bytes = bytes.max(16);
        let doing = format!("getting {bytes} bytes for {what}");
        let getting = failed(&doing);
        // SAFETY: the memory is ours from here on.
        let pointer = unsafe { result::malloc_sync(bytes) }.map_err(&getting)?;
        let memory = Memory::new(pointer, bytes, free);
        // SAFETY: as large as was asked for.
        unsafe { result::memset_d8_sync(pointer, 0, bytes) }.map_err(&getting)?;
        // Despite its name it may still be under way, and our stream does not wait for it.
        self.context.synchronize().map_err(&getting)?;
        Ok(memory)
    }

    /// Copies to the device, and waits until that is done.
    pub(super) fn put<T>(&self, to: &Memory, start: usize, numbers: &[T]) -> Result<(), Error> {
        let pointer = to.within(start, size_of_val(numbers))?;
        self.synchronize()?;
        // SAFETY: the memory holds as much, and nothing is running that reads it.
        let put = unsafe { result::memcpy_htod_sync(pointer, numbers) };
        // It returns when the numbers are taken, and our stream does not wait for their arrival.
        put.and_then(|()| self.context.synchronize())
            .map_err(failed("copying to the device"))
    }

    /// Begins to copy to the device, after all that was begun before.
    pub(super) fn put_later(&self, to: &Memory, numbers: &[i32]) -> Result<(), Error> {
        let pointer = to.within(0, size_of_val(numbers))?;
        // SAFETY: the memory holds as much. Numbers that are not page-locked are taken before the
        // call returns.
        let put = unsafe { result::memcpy_htod_async(pointer, numbers, self.stream.cu_stream()) };
        put.map_err(failed("copying to the device"))
    }

    /// Waits for all that was begun, and copies from the device.
    pub(super) fn get<T: Copy>(
        &self,
        from: &Memory,
        start: usize,
        to: &mut [T],
    ) -> Result<(), Error> {
        let pointer = from.within(start, size_of_val(to))?;
        self.synchronize()?;
        // SAFETY: the memory holds as much, and any bits are numbers.
        let got = unsafe { result::memcpy_dtoh_sync(to, pointer) };
        got.map_err(failed("copying from the device"))
    }

    /// Bytes that are read and written in a second while memory is copied, at best.
    pub(super) fn copied_per_second(&self) -> Result<f64, Error> {
        const BYTES: usize = 128 << 20;
        const TIMES: usize = 10;
        let copying = failed("copying on the device");
        let (from, to) = (
            self.memory(BYTES, "copying")?,
            self.memory(BYTES, "copying")?,
        );
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            self.synchronize()?;
            let began = std::time::Instant::now();
            for _ in 0..TIMES {
                let stream = self.stream.cu_stream();
                // SAFETY: both are as large.
                let copied =
                    unsafe { result::memcpy_dtod_async(to.at(0), from.at(0), BYTES, stream) };
                copied.map_err(&copying)?;
            }
            self.synchronize()?;
            best = best.min(began.elapsed().as_secs_f64());
        }
        Ok((2 * TIMES * BYTES) as f64 / best)
    }

    pub(super) fn synchronize(&self) -> Result<(), Error> {
        let waited = self.stream.synchronize();
        waited.map_err(failed("waiting for the device"))
    }

    /// Begins to run a kernel. Arguments are as for [`Machine`](super::machine::Machine).
    ///
    /// # Safety
    /// They are those that the kernel takes, and what they point to is as large as it expects.
    pub(super) unsafe fn launch(
        &self,
        kernel: &CudaFunction,
        grid: [usize; 3],
        threads: u32,
        arguments: &[u64],
    ) -> Result<(), Error> {
        let [x, y, z] = grid.map(|blocks| blocks as u32);
        let pointers = arguments.iter().map(|argument| {
            std::ptr::from_ref(argument)
                .cast_mut()
                .cast::<std::ffi::c_void>()
        });
        let mut pointers: Vec<_> = pointers.collect();
        let (stream, block) = (self.stream.cu_stream(), (threads, 1, 1));
        // SAFETY: as promised by the caller; the driver reads the arguments before it returns.
        let launched = unsafe {
            result::launch_kernel(
                kernel.cu_function(),
                (x, y, z),
                block,
                0,
                stream,
                &mut pointers,
            )
        };
        launched.map_err(failed("starting a kernel"))
    }
}

/// What is lost with its device is lost.
fn free(pointer: CUdeviceptr) {
    // SAFETY: the memory's owner asks, and nobody else does.
    let _ = unsafe { result::free_sync(pointer) };
}
