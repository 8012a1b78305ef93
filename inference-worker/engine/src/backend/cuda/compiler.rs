//! Compiles the kernels with NVRTC, once for each device, source and version of NVRTC: what it made
//! is kept on disk.

use std::collections::HashMap;
use std::ffi::{CString, c_char};
use std::path::Path;

use cudarc::driver::CudaFunction;
use cudarc::nvrtc::Ptx;
use cudarc::nvrtc::result::NvrtcError;
use cudarc::nvrtc::sys;
use sha2::{Digest, Sha256};

use super::device::{Device, failed};
use super::kernels::{SOURCES, Shape, Source};
use crate::error::Error;

/// What NVRTC made of a source.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) cubin: Vec<u8>,
    /// Registers and spills of each kernel, and warnings.
    pub(super) log: String,
}

/// Kernels that are ready, by name.
#[derive(Debug)]
pub(super) struct Kernels(HashMap<&'static str, CudaFunction>);

impl Kernels {
    /// Compiles what is not in `cache` yet.
    ///
    /// # Errors
    /// [`Error::Device`] with the compiler's log.
    pub(super) fn load(device: &Device, shape: Shape, cache: Option<&Path>) -> Result<Self, Error> {
        let mut kernels = HashMap::new();
        for source in SOURCES {
            let cubin = cubin(source, shape, &device.arch, cache)?;
            let loading = failed(source.name);
            let module = device.context().load_module(Ptx::from_binary(cubin));
            let module = module.map_err(&loading)?;
            for name in source.kernels {
                kernels.insert(*name, module.load_function(name).map_err(&loading)?);
            }
        }
        Ok(Self(kernels))
    }

    /// # Errors
    /// [`Error::Backend`] for a name that no source has.
    pub(super) fn get(&self, name: &str) -> Result<&CudaFunction, Error> {
        let missing = || Error::Backend(format!("there is no kernel {name}"));
        self.0.get(name).ok_or_else(missing)
    }
}

fn cubin(source: Source, shape: Shape, arch: &str, cache: Option<&Path>) -> Result<Vec<u8>, Error> {
    let Some(cache) = cache else {
        return Ok(compile(source, shape, arch)?.cubin);
    };
    let mut hash = Sha256::new();
    for part in [source.whole(), shape.defines().concat(), version()?] {
        hash.update(part);
    }
    let name: String = hash.finalize()[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let path = cache.join(format!("{}-{arch}-{name}.cubin", source.name));
    if let Ok(kept) = std::fs::read(&path) {
        return Ok(kept);
    }
    let Compiled { cubin, log } = compile(source, shape, arch)?;
    tracing::debug!(kernels = source.name, log, "compiled kernels");
    if let Err(error) = keep(&path, &cubin) {
        tracing::warn!(path = %path.display(), %error, "compiled kernels are not kept");
    }
    Ok(cubin)
}

/// Whole or not at all: another process may read it.
fn keep(path: &Path, cubin: &[u8]) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let part = path.with_extension(format!("{}", std::process::id()));
    std::fs::write(&part, cubin)?;
    std::fs::rename(part, path)
}

fn version() -> Result<String, Error> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both are there to be written.
    let asked = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    asked.result().map_err(unknown)?;
    Ok(format!("{major}.{minor}"))
}

fn unknown(error: NvrtcError) -> Error {
    Error::Device(format!("the CUDA compiler failed: {error}"))
}

/// A program of the compiler's.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: it is destroyed here and nowhere else.
        let _ = unsafe { cudarc::nvrtc::result::destroy_program(self.0) };
    }
}

/// # Errors
/// [`Error::Device`] with the compiler's log.
pub(super) fn compile(source: Source, shape: Shape, arch: &str) -> Result<Compiled, Error> {
    let no_zero = |_| Error::Backend("a source holds a zero".into());
    let text = CString::new(source.whole()).map_err(no_zero)?;
    let name = CString::new(source.name).map_err(no_zero)?;
    let program = cudarc::nvrtc::result::create_program(&text, Some(&name)).map_err(unknown)?;
    let program = Program(program);
    let mut options = shape.defines().to_vec();
    options.push(format!("--gpu-architecture={arch}"));
    options.extend(["--std=c++17", "--ptxas-options=-v"].map(String::from));
    // SAFETY: the program was just made.
    let compiled = unsafe { cudarc::nvrtc::result::compile_program(program.0, &options) };
    // SAFETY: as above.
    let log = unsafe { cudarc::nvrtc::result::get_program_log(program.0) }.map_err(unknown)?;
    let log: Vec<u8> = log.into_iter().map(|byte| byte as u8).collect();
    let log = String::from_utf8_lossy(&log)
        .trim_end_matches('\0')
        .to_owned();
    compiled.map_err(|error| Error::Device(format!("{}: {error}\n{log}", source.name)))?;
    let mut size = 0;
    // SAFETY: the program is compiled, for a device's own architecture, so that it has a cubin.
    unsafe { sys::nvrtcGetCUBINSize(program.0, &raw mut size) }
        .result()
        .map_err(unknown)?;
    let mut cubin = vec![0; size];
    // SAFETY: as large as the compiler said.
    unsafe { sys::nvrtcGetCUBIN(program.0, cubin.as_mut_ptr().cast::<c_char>()) }
        .result()
        .map_err(unknown)?;
    Ok(Compiled { cubin, log })
}
