//! Runs a kernel on the device, if there is one.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use super::super::compiler::Kernels;
use super::super::device::{self, Device, guarded};
use super::super::machine;
use super::{Argument, Launch};
use crate::error::Error;

/// Bytes before and behind each buffer that nobody may touch.
const GUARD: usize = 4096;

/// The buffers after the launch; none where there is no device.
pub(super) fn run(launch: &Launch<'_>) -> Option<Vec<Vec<u8>>> {
    static DEVICE: OnceLock<Option<Device>> = OnceLock::new();
    // Kernels of one launch at a time, so that a failure is its own.
    static KERNELS: Mutex<Option<HashMap<String, Kernels>>> = Mutex::new(None);
    let device = DEVICE.get_or_init(open).as_ref()?;
    let mut kernels = KERNELS.lock().unwrap_or_else(PoisonError::into_inner);
    let of_shape = kernels
        .get_or_insert_default()
        .entry(launch.shape.defines().concat())
        .or_insert_with(|| {
            let loaded = Kernels::load(device, launch.shape, None);
            loaded.unwrap_or_else(|error| panic!("{error}"))
        });
    match on_device(device, of_shape, launch) {
        Ok(buffers) => Some(buffers),
        Err(error) => panic!("{}: {error}", launch.kernel),
    }
}

/// Whether there is a device; said once where there is none.
#[expect(clippy::print_stderr, reason = "whoever runs the tests must know")]
fn open() -> Option<Device> {
    let opened = match device::absence() {
        Some(reason) => Err(reason.to_owned()),
        None => guarded(Device::open).map_err(|error| error.to_string()),
    };
    match opened {
        Ok(device) => Some(device),
        Err(reason) => {
            eprintln!("skipped: kernels are not run on a device: {reason}");
            None
        }
    }
}

fn on_device(
    device: &Device,
    kernels: &Kernels,
    launch: &Launch<'_>,
) -> Result<Vec<Vec<u8>>, Error> {
    device.enter()?;
    let mut memories = Vec::new();
    let mut arguments = Vec::new();
    for argument in &launch.arguments {
        arguments.push(match argument {
            Argument::Int(number) => machine::int(*number as usize),
            Argument::Float(number) => machine::float(*number),
            Argument::Null => 0,
            Argument::Buffer(bytes) => {
                let memory = device.memory(bytes.len() + 2 * GUARD, "a test")?;
                device.put(&memory, 0, &vec![0xffu8; bytes.len() + 2 * GUARD])?;
                device.put(&memory, GUARD, bytes)?;
                let pointer = memory.at(GUARD);
                memories.push((memory, bytes.len()));
                pointer
            }
        });
    }
    let kernel = kernels.get(launch.kernel)?;
    // SAFETY: the tests pass what the kernels take.
    unsafe { device.launch(kernel, launch.grid, launch.threads, &arguments)? };
    let mut buffers = Vec::new();
    for (memory, length) in &memories {
        let mut whole = vec![0u8; length + 2 * GUARD];
        device.get(memory, 0, &mut whole)?;
        let (before, rest) = whole.split_at(GUARD);
        let (own, behind) = rest.split_at(*length);
        let untouched = before.iter().chain(behind).all(|byte| *byte == 0xff);
        assert!(untouched, "{} writes beside a buffer", launch.kernel);
        buffers.push(own.to_vec());
    }
    Ok(buffers)
}
