//! Products with many inputs, by cuBLASLt. For each shape its algorithms are timed once, and the
//! fastest is used from then on.

use std::collections::HashMap;
use std::ffi::c_void;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::sys::CUevent_flags;

use super::device::{Device, failed};
use super::machine::Memory;
use super::weights::Product;
use crate::error::Error;

/// Bytes that algorithms may use beside their operands.
const WORKSPACE: usize = 32 << 20;
/// Algorithms that are timed for a shape, and how often each.
const CANDIDATES: usize = 8;
const TIMES: usize = 5;
/// CUBLAS_OP_T.
const TRANSPOSED: i32 = 1;
/// Counts of inputs are rounded up to a multiple, so that there are fewer shapes.
pub(super) const ROUNDED: usize = 64;

/// What becomes of the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Into {
    /// bf16.
    Halves,
    /// f32.
    Floats,
    /// Added to f32.
    Sum,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    rows: usize,
    columns: usize,
    inputs: usize,
    into: Into,
}

/// A product's description for the library.
struct Matmul {
    description: sys::cublasLtMatmulDesc_t,
    weight: sys::cublasLtMatrixLayout_t,
    input: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    algorithm: Option<sys::cublasLtMatmulAlgo_t>,
}

pub(super) struct Blas {
    handle: sys::cublasLtHandle_t,
    workspace: Memory,
    /// Where sums go while algorithms are timed.
    scratch: Memory,
    known: HashMap<Key, Matmul>,
}

fn refused(error: CublasError) -> Error {
    Error::Device(format!("cuBLASLt failed: {error}"))
}

impl Blas {
    /// `sums` are the most numbers of a product that is added.
    pub(super) fn new(device: &Device, sums: usize) -> Result<Self, Error> {
        Ok(Self {
            handle: result::create_handle().map_err(refused)?,
            workspace: device.memory(WORKSPACE, "cuBLASLt")?,
            scratch: device.memory(sums * 4, "cuBLASLt")?,
            known: HashMap::new(),
        })
    }

    /// `[inputs, rows]` of `[inputs, columns]`, without the bias. `inputs` and `out` have room for
    /// the next multiple of [`ROUNDED`], whose numbers are written too.
    ///
    /// # Safety
    /// The pointers are of memory as large as that, nothing of which is freed before it is done.
    pub(super) unsafe fn multiply(
        &mut self,
        device: &Device,
        product: &Product,
        input: u64,
        inputs: usize,
        (out, into): (u64, Into),
    ) -> Result<(), Error> {
        let key = Key {
            rows: product.rows,
            columns: product.columns,
            inputs: inputs.next_multiple_of(ROUNDED),
            into,
        };
        let operands = (product.weight.at(0), input, out);
        if !self.known.contains_key(&key) {
            let mut matmul = Matmul::new(key).map_err(refused)?;
            matmul.algorithm = Some(self.fastest(device, &matmul, key, operands)?);
            self.known.insert(key, matmul);
        }
        let Some(matmul) = self.known.get(&key) else {
            return Err(Error::Backend("a product was forgotten".into()));
        };
        let Some(algorithm) = &matmul.algorithm else {
            return Err(Error::Backend("a product has no algorithm".into()));
        };
        // SAFETY: as promised by the caller.
        unsafe { self.run(device, matmul, algorithm, key.into, operands) }.map_err(refused)
    }

    /// # Safety
    /// As for [`multiply`](Self::multiply).
    unsafe fn run(
        &self,
        device: &Device,
        matmul: &Matmul,
        algorithm: &sys::cublasLtMatmulAlgo_t,
        into: Into,
        (weight, input, out): (u64, u64, u64),
    ) -> Result<(), CublasError> {
        let (one, kept) = (1.0f32, if into == Into::Sum { 1.0f32 } else { 0.0 });
        // SAFETY: as promised by the caller; the layouts live as long as `matmul`.
        unsafe {
            result::matmul(
                self.handle,
                matmul.description,
                (&raw const one).cast(),
                (&raw const kept).cast(),
                weight as *const c_void,
                matmul.weight,
                input as *const c_void,
                matmul.input,
                out as *const c_void,
                matmul.out,
                out as *mut c_void,
                matmul.out,
                algorithm,
                self.workspace.at(0) as *mut c_void,
                WORKSPACE,
                device.stream.cu_stream().cast(),
            )
        }
    }

    fn fastest(
        &self,
        device: &Device,
        matmul: &Matmul,
        key: Key,
        (weight, input, out): (u64, u64, u64),
    ) -> Result<sys::cublasLtMatmulAlgo_t, Error> {
        // A sum would change with each try.
        let out = match key.into {
            Into::Sum => self.scratch.at(0),
            Into::Halves | Into::Floats => out,
        };
        let timing = failed("timing a product");
        let event = || {
            let flags = Some(CUevent_flags::CU_EVENT_DEFAULT);
            device.context().new_event(flags).map_err(&timing)
        };
        let (begin, end) = (event()?, event()?);
        let mut best = None;
        for algorithm in matmul.candidates(self.handle).map_err(refused)? {
            let operands = (weight, input, out);
            // SAFETY: operands of a product that is asked for, or the scratch in place of one.
            let run = || unsafe { self.run(device, matmul, &algorithm, key.into, operands) };
            // The first one may load code; one that does not run is none.
            if run().is_err() {
                continue;
            }
            begin.record(&device.stream).map_err(&timing)?;
            for _ in 0..TIMES {
                run().map_err(refused)?;
            }
            end.record(&device.stream).map_err(&timing)?;
            let took = begin.elapsed_ms(&end).map_err(&timing)?;
            if best.is_none_or(|(least, _)| took < least) {
                best = Some((took, algorithm));
            }
        }
        let none = || Error::Device(format!("cuBLASLt has no algorithm for {key:?}"));
        best.map(|(_, algorithm)| algorithm).ok_or_else(none)
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: it is destroyed here and nowhere else.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Matmul {
    /// The library counts columns first: a row-major matrix is the transpose of what it sees.
    fn new(key: Key) -> Result<Self, CublasError> {
        use sys::cudaDataType_t::{CUDA_R_16BF, CUDA_R_32F};
        let out = match key.into {
            Into::Halves => CUDA_R_16BF,
            Into::Floats | Into::Sum => CUDA_R_32F,
        };
        let (rows, columns, inputs) = (key.rows as u64, key.columns as u64, key.inputs as u64);
        let description =
            result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, CUDA_R_32F)?;
        let transposed = TRANSPOSED;
        // SAFETY: the attribute is of this type.
        unsafe {
            result::set_matmul_desc_attribute(
                description,
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                (&raw const transposed).cast(),
                size_of_val(&transposed),
            )?;
        }
        let layout = |kind, rows, columns| {
            result::create_matrix_layout(kind, rows, columns, rows.cast_signed())
        };
        Ok(Self {
            description,
            weight: layout(CUDA_R_16BF, columns, rows)?,
            input: layout(CUDA_R_16BF, columns, inputs)?,
            out: layout(out, rows, inputs)?,
            algorithm: None,
        })
    }

    fn candidates(
        &self,
        handle: sys::cublasLtHandle_t,
    ) -> Result<Vec<sys::cublasLtMatmulAlgo_t>, CublasError> {
        let preference = result::create_matmul_pref()?;
        // SAFETY: all of this was made above, and the array holds as many as are asked for.
        let asked = unsafe {
            let attribute =
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            let bytes = std::ptr::from_ref(&WORKSPACE).cast();
            let set = result::set_matmul_pref_attribute(preference, attribute, bytes, 8);
            let mut found =
                [std::mem::zeroed::<sys::cublasLtMatmulHeuristicResult_t>(); CANDIDATES];
            let mut count = 0;
            let asked = set.and_then(|()| {
                sys::cublasLtMatmulAlgoGetHeuristic(
                    handle,
                    self.description,
                    self.weight,
                    self.input,
                    self.out,
                    self.out,
                    preference,
                    CANDIDATES as i32,
                    found.as_mut_ptr(),
                    &raw mut count,
                )
                .result()
            });
            let _ = result::destroy_matmul_pref(preference);
            asked.map(|()| found.into_iter().take(usize::try_from(count).unwrap_or(0)))
        }?;
        let success = sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS;
        let working = asked.filter(|found| found.state == success);
        Ok(working.map(|found| found.algo).collect())
    }
}

impl Drop for Matmul {
    fn drop(&mut self) {
        // SAFETY: they are destroyed here and nowhere else.
        unsafe {
            let _ = result::destroy_matmul_desc(self.description);
            for layout in [self.weight, self.input, self.out] {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}
