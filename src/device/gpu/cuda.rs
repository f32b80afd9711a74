//! NVIDIA GPUs through cudarc: the driver's library is probed before it is used, since cudarc panics where it is missing.

use super::gemm::Product;
use super::{Launch, MOST_SHARED, images, params};
use crate::tensor::DType;
use crate::{Error, Result};
use cudarc::cublas::CudaBlas;
use cudarc::cublas::result::gemm_ex;
use cudarc::cublas::sys as blas;
use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaGraph, CudaModule, CudaSlice, CudaStream, DevicePtr, DeviceRepr,
    LaunchConfig, PushKernelArg, result, sys,
};
use cudarc::nvrtc::Ptx;
use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

/// A GPU with its stream and the kernels loaded.
pub struct Cuda {
    stream: Arc<CudaStream>,
    /// For copies that run ahead.
    copies: Arc<CudaStream>,
    /// For what must not be recorded while the first is being captured.
    beside: Arc<CudaStream>,
    blas: CudaBlas,
    /// Memory of cuBLAS: with its own it could not be captured, and its split products would depend on it.
    _workspace: Memory,
    modules: Vec<Arc<CudaModule>>,
    functions: Mutex<HashMap<String, CudaFunction>>,
    name: String,
    ordinal: u32,
    capability: u32,
    multiprocessors: usize,
    driver: i32,
}

/// Memory of a GPU.
pub struct Memory {
    slice: CudaSlice<u8>,
    address: u64,
}

/// Page-locked host memory.
pub struct Pinned {
    address: *mut u8,
    len: usize,
    context: Arc<CudaContext>,
}

// SAFETY: plain memory, owned; it may be freed from any thread.
unsafe impl Send for Pinned {}

/// A parameter struct as a kernel's argument.
#[repr(transparent)]
struct Argument<P>(P);

// SAFETY: the structs of params.h are plain C structs of numbers and addresses, with the layout that the kernels use.
unsafe impl<P: Copy> DeviceRepr for Argument<P> {}

fn missing(what: impl Display, remedy: impl Display) -> Error {
    Error::failed("CUDA", what, remedy)
}

/// Bytes of cuBLAS's workspace: what its documentation advises for the largest GPUs.
const WORKSPACE: usize = 32 << 20;

const OTHER_DEVICE: &str = "use --device cpu, or auto to take what there is";

/// What a program needs to use a GPU, looked at step by step: what follows a lack is not looked at.
#[derive(Debug, Clone, Default)]
struct Machine {
    /// Whether this build has compiled kernels.
    kernels: bool,
    /// Whether the driver's library is there.
    library: bool,
    /// The newest CUDA that the driver supports, or what it says instead.
    driver: Option<std::result::Result<i32, String>>,
    /// Whether cuBLAS is there.
    blas: bool,
    /// GPUs that this process may use, or what the driver says instead.
    devices: Option<std::result::Result<u32, String>>,
}

/// GPUs that this build and process can use.
pub fn count() -> u32 {
    Machine::probe().judge().map_or(0, |(_, devices)| devices)
}

impl Machine {
    fn probe() -> Self {
        let mut machine = Self { kernels: !images::IMAGES.is_empty(), ..Self::default() };
        // SAFETY: looks for the library, and loads it where it is.
        machine.library = machine.kernels && unsafe { sys::is_culib_present() };
        if !machine.library {
            return machine;
        }
        let mut driver = 0;
        // SAFETY: writes one integer; needs no initialisation.
        let asked = unsafe { sys::cuDriverGetVersion(&raw mut driver) }.result();
        machine.driver = Some(asked.map(|()| driver).map_err(|e| e.to_string()));
        if driver < OLDEST_DRIVER {
            return machine;
        }
        // SAFETY: looks for the library, and loads it where it is.
        machine.blas = unsafe { blas::is_culib_present() };
        machine.devices = Some(match result::init().and_then(|()| result::device::get_count()) {
            Ok(n) => Ok(n.max(0) as u32),
            Err(e) if e.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => Ok(0),
            Err(e) => Err(e.to_string()),
        });
        machine
    }

    /// The driver's version and the number of GPUs, or the first thing that is missing.
    fn judge(&self) -> Result<(i32, u32)> {
        if !self.kernels {
            return Err(missing(
                "this build holds no GPU kernels, since it found no nvcc",
                "run scripts/toolchain.sh (or set CUDA_HOME) and build again, or use --device cpu",
            ));
        }
        if !self.library {
            return Err(missing("no NVIDIA driver: libcuda.so is not there", OTHER_DEVICE));
        }
        let driver = match &self.driver {
            Some(Ok(driver)) => *driver,
            Some(Err(e)) => {
                return Err(missing(format_args!("the driver does not say its version: {e}"), OTHER_DEVICE));
            }
            None => 0,
        };
        if driver < OLDEST_DRIVER {
            return Err(missing(
                format_args!("the driver is too old: it supports CUDA {}, this program needs 12.0", version(driver)),
                "update the NVIDIA driver, or use --device cpu",
            ));
        }
        if !self.blas {
            return Err(missing(
                "cuBLAS is not there: neither libcublas.so nor libcublas.so.12",
                "install it with CUDA, or pip install nvidia-cublas-cu12, and add its folder to LD_LIBRARY_PATH; or use --device cpu",
            ));
        }
        match &self.devices {
            Some(Ok(n)) if *n > 0 => Ok((driver, *n)),
            Some(Err(e)) => Err(missing(format_args!("the driver does not start: {e}"), OTHER_DEVICE)),
            _ => Err(missing("no GPU that this process may use", "check CUDA_VISIBLE_DEVICES, or use --device cpu")),
        }
    }
}

/// CUDA 12.0, as the driver counts.
const OLDEST_DRIVER: i32 = 12_000;

/// As in 13.0 for 13000.
fn version(driver: i32) -> String {
    format!("{}.{}", driver / 1000, driver % 1000 / 10)
}

/// Which image of this build a GPU of that compute capability runs: machine code of its own generation, or PTX.
pub(super) fn image_for(capability: u32, architectures: &[u32], ptx: u32) -> Option<String> {
    let fitting = architectures.iter().filter(|arch| **arch / 10 == capability / 10 && **arch <= capability).max();
    match fitting {
        Some(arch) => Some(format!("sm_{arch}")),
        None => (capability >= ptx).then(|| format!("PTX of compute_{ptx}")),
    }
}

impl Cuda {
    pub fn new(ordinal: u32) -> Result<Self> {
        let (driver, devices) = Machine::probe().judge()?;
        if ordinal >= devices {
            return Err(missing(
                format_args!("no GPU {ordinal}: this machine has {devices}"),
                format_args!("use --device cuda:N with N under {devices}"),
            ));
        }
        let place = format!("cuda:{ordinal}");
        let fail = |what: &str, e: &dyn Display| Error::failed(&place, format_args!("{what}: {e}"), OTHER_DEVICE);
        let context = CudaContext::new(ordinal as usize).map_err(|e| fail("cannot be opened", &e))?;
        let name = context.name().map_err(|e| fail("has no name", &e))?;
        let (major, minor) = context.compute_capability().map_err(|e| fail("has no compute capability", &e))?;
        let capability = (10 * major + minor) as u32;
        if image_for(capability, images::ARCHITECTURES, images::PTX).is_none() {
            return Err(Error::failed(
                format_args!("{place}, {name}"),
                format_args!(
                    "its compute capability {major}.{minor} has no kernel image in this build ({})",
                    images::ARCHITECTURES.iter().map(|arch| format!("sm_{arch}")).collect::<Vec<_>>().join(", ")
                ),
                "use a GPU of compute capability 8.0 or later, or --device cpu",
            ));
        }
        let multiprocessors = context
            .attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .map_err(|e| fail("does not say how many multiprocessors it has", &e))?;
        let stream = context.new_stream().map_err(|e| fail("gives no stream", &e))?;
        let copies = context.new_stream().map_err(|e| fail("gives no stream", &e))?;
        let beside = context.new_stream().map_err(|e| fail("gives no stream", &e))?;
        // SAFETY: all memory is used on the first stream, in order; the others are ordered with it by events or waits.
        unsafe { context.disable_event_tracking() };
        let mut modules = Vec::new();
        for (file, image) in images::IMAGES {
            let module = context.load_module(Ptx::from_binary(image.to_vec())).map_err(|e| {
                Error::failed(
                    format_args!("{place}, {name}"),
                    format_args!(
                        "does not load the kernels of {file}.cu, compiled by nvcc {} (the driver supports CUDA {}): {e}",
                        images::COMPILER,
                        version(driver)
                    ),
                    "update the NVIDIA driver, or build with an older nvcc",
                )
            })?;
            modules.push(module);
        }
        let blas = CudaBlas::new(stream.clone()).map_err(|e| fail("cuBLAS does not start", &e))?;
        // Partial sums of split products stay float.
        let mode = blas::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
        let workspace = allocate(&stream, WORKSPACE).map_err(|e| fail("no memory for cuBLAS", &e))?;
        // SAFETY: the handle lives, and the workspace as long as it does.
        let set = unsafe {
            blas::cublasSetMathMode(*blas.handle(), mode)
                .result()
                .and_then(|()| blas::cublasSetWorkspace_v2(*blas.handle(), workspace.address(), WORKSPACE).result())
        };
        set.map_err(|e| fail("cuBLAS does not start", &e))?;
        let functions = Mutex::default();
        let cuda = Self {
            stream,
            copies,
            beside,
            blas,
            _workspace: workspace,
            modules,
            functions,
            name,
            ordinal,
            capability,
            multiprocessors: multiprocessors.max(1) as usize,
            driver,
        };
        cuda.prove()?;
        Ok(cuda)
    }

    /// One trivial kernel, whose result shows that this machine runs what was compiled.
    fn prove(&self) -> Result<()> {
        let fail = |e| self.error("allocation", &e);
        let [sum, term] = [self.allocate(4).map_err(fail)?, self.allocate(4).map_err(fail)?];
        self.upload(sum.address(), &1.5f32.to_ne_bytes())?;
        self.upload(term.address(), &2.25f32.to_ne_bytes())?;
        let params = params::Add { to: sum.address(), from: term.address(), len: 1 };
        self.launch("add_f32", Launch::linear(1, 256), &params)?;
        let mut bytes = [0; 4];
        self.download(sum.address(), &mut bytes)?;
        match f32::from_ne_bytes(bytes) {
            3.75 => Ok(()),
            other => Err(self.error("the first kernel", &format_args!("1.5 + 2.25 came out as {other}"))),
        }
    }

    fn error(&self, what: &str, e: &dyn Display) -> Error {
        Error::failed(
            format_args!("cuda:{}, {} (sm_{})", self.ordinal, self.name, self.capability),
            format_args!("{what}: {e}"),
            "if it happens again, run scripts/gpu_check.sh and report its output",
        )
    }

    pub fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    pub fn describe(&self) -> String {
        let image = image_for(self.capability, images::ARCHITECTURES, images::PTX).unwrap_or_default();
        format!(
            "GPU {}, {}, sm_{}, driver for CUDA {}, kernels: {image} by nvcc {}",
            self.ordinal,
            self.name,
            self.capability,
            version(self.driver),
            images::COMPILER
        )
    }

    pub fn allocate(&self, bytes: usize) -> std::result::Result<Memory, String> {
        allocate(&self.stream, bytes)
    }

    /// Memory with that content, made and filled beside the stream that is being captured.
    pub fn memory_beside(&self, bytes: &[u8]) -> Result<Memory> {
        let memory = allocate(&self.beside, bytes.len()).map_err(|e| self.error("allocation", &e))?;
        // SAFETY: within the allocation; waited for before the bytes may go.
        unsafe { result::memcpy_htod_async(memory.address, bytes, self.beside.cu_stream()) }
            .map_err(|e| self.error("copy to the device", &e))?;
        self.beside.synchronize().map_err(|e| self.error("copy to the device", &e))?;
        Ok(memory)
    }

    pub fn begin_capture(&self) -> Result<()> {
        self.stream
            .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED)
            .map_err(|e| self.error("begin of a capture", &e))
    }

    pub fn end_capture(&self) -> Result<CudaGraph> {
        let flags = sys::CUgraphInstantiate_flags(0);
        match self.stream.end_capture(flags).map_err(|e| self.error("end of a capture", &e))? {
            Some(graph) => {
                graph.upload().map_err(|e| self.error("a graph's upload", &e))?;
                Ok(graph)
            }
            None => Err(self.error("end of a capture", &"nothing was recorded")),
        }
    }

    pub fn replay(&self, graph: &CudaGraph) -> Result<()> {
        graph.launch().map_err(|e| self.error("launch of a graph", &e))
    }

    pub fn fill_zero(&self, address: *mut c_void, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: the whole of a buffer.
        unsafe { result::memset_d8_async(address as u64, 0, bytes, self.stream.cu_stream()) }
            .map_err(|e| self.error("filling memory", &e))
    }

    pub fn copy(&self, from: *mut c_void, to: *mut c_void, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: within both buffers.
        unsafe { result::memcpy_dtod_async(to as u64, from as u64, bytes, self.stream.cu_stream()) }
            .map_err(|e| self.error("copy on the device", &e))
    }

    pub fn upload(&self, address: *mut c_void, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: within the buffer; the driver has read pageable host memory when it returns.
        unsafe { result::memcpy_htod_async(address as u64, bytes, self.stream.cu_stream()) }
            .map_err(|e| self.error("copy to the device", &e))
    }

    pub fn download(&self, address: *mut c_void, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: within the buffer; synchronised before the bytes are read.
        unsafe { result::memcpy_dtoh_async(bytes, address as u64, self.stream.cu_stream()) }
            .map_err(|e| self.error("copy from the device", &e))?;
        self.synchronize()
    }

    pub fn pinned(&self, bytes: usize) -> Result<Pinned> {
        self.bind()?;
        // SAFETY: the pointer is kept, freed once, and only seen as bytes after they were set.
        let address = unsafe { result::malloc_host(bytes.max(1), 0) }
            .map_err(|e| self.error(&format!("{bytes} bytes of page-locked host memory"), &e))?;
        // SAFETY: the whole of an allocation.
        unsafe { std::ptr::write_bytes(address.cast::<u8>(), 0, bytes) };
        Ok(Pinned { address: address.cast(), len: bytes, context: self.stream.context().clone() })
    }

    pub fn event(&self) -> Result<CudaEvent> {
        self.stream.context().new_event(None).map_err(|e| self.error("an event", &e))
    }

    /// Seconds that the device takes for what `work` launches.
    pub fn time(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let event = || {
            let event = self.stream.context().new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT));
            event.map_err(|e| self.error("an event", &e))
        };
        let (start, end) = (event()?, event()?);
        self.record(&start)?;
        work()?;
        self.record(&end)?;
        self.synchronize()?;
        Ok(f64::from(start.elapsed_ms(&end).map_err(|e| self.error("an event's time", &e))?) * 1e-3)
    }

    /// `event` passes when all work of the kernels' stream so far is done.
    pub fn record(&self, event: &CudaEvent) -> Result<()> {
        event.record(&self.stream).map_err(|e| self.error("an event", &e))
    }

    /// Work of the kernels' stream from now on waits for `event`.
    pub fn wait_for(&self, event: &CudaEvent) -> Result<()> {
        self.stream.wait(event).map_err(|e| self.error("waiting for a copy", &e))
    }

    pub fn synchronize_event(&self, event: &CudaEvent) -> Result<()> {
        event.synchronize().map_err(|e| self.error("waiting for a copy", &e))
    }

    /// Copies page-locked `bytes` on the second stream after `after`; `done` passes then. The bytes must stay until it does.
    pub fn send(&self, bytes: &[u8], to: *mut c_void, after: &CudaEvent, done: &CudaEvent) -> Result<()> {
        self.bind()?;
        let fail = |e| self.error("copy ahead to the device", &e);
        self.copies.wait(after).map_err(fail)?;
        // SAFETY: within the buffer; `Sending` holds both ends until `done` has passed.
        unsafe { result::memcpy_htod_async(to as u64, bytes, self.copies.cu_stream()) }.map_err(fail)?;
        done.record(&self.copies).map_err(fail)
    }

    pub fn free_memory(&self) -> Result<usize> {
        self.stream.context().mem_get_info().map(|(free, _)| free).map_err(|e| self.error("its free memory", &e))
    }

    pub fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(|e| self.error("waiting for the kernels", &e))?;
        // Errors met while something was dropped belong here, not to a later call.
        self.stream.context().check_err().map_err(|e| self.error("an earlier call", &e))
    }

    fn bind(&self) -> Result<()> {
        self.stream.context().bind_to_thread().map_err(|e| self.error("the context", &e))
    }

    fn function(&self, kernel: &str) -> Result<CudaFunction> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(kernel) {
            return Ok(function.clone());
        }
        let Some(function) = self.modules.iter().find_map(|module| module.load_function(kernel).ok()) else {
            return Err(self.error(kernel, &"no such kernel"));
        };
        // More than 48 KiB of dynamic shared memory has to be asked for; what a launch uses is for the launch to say.
        function
            .set_attribute(
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                MOST_SHARED as i32,
            )
            .map_err(|e| self.error(kernel, &e))?;
        functions.insert(kernel.to_string(), function.clone());
        Ok(function)
    }

    /// Loads a kernel before it is captured.
    pub fn prepare(&self, kernel: &str) -> Result<()> {
        self.function(kernel).map(drop)
    }

    pub fn launch<P: Copy>(&self, kernel: &str, launch: Launch, params: &P) -> Result<()> {
        let function = self.function(kernel)?;
        let [x, y, z] = launch.grid;
        let config =
            LaunchConfig { grid_dim: (x, y, z), block_dim: (launch.block, 1, 1), shared_mem_bytes: launch.shared };
        let argument = Argument(*params);
        // SAFETY: the kernel takes exactly this struct by value (its size is asserted on both sides), and the buffers that
        // it names live until the stream has passed this launch: their memory is reused in stream order only.
        unsafe { self.stream.launch_builder(&function).arg(&argument).launch(config) }
            .map(drop)
            .map_err(|e| self.error(&format!("{kernel} {launch:?}"), &e))
    }

    /// Row-major C = A·B is column-major Cᵀ = Bᵀ·Aᵀ, which is what cuBLAS computes.
    pub fn gemm(&self, product: &Product) -> Result<()> {
        self.bind()?;
        let Product { m, n, k, .. } = *product;
        let [row_a, row_b] = product.strides();
        let kind = |dtype: DType| match dtype {
            DType::BF16 => blas::cudaDataType_t::CUDA_R_16BF,
            _ => blas::cudaDataType_t::CUDA_R_32F,
        };
        let op = |transposed: bool| {
            if transposed { blas::cublasOperation_t::CUBLAS_OP_T } else { blas::cublasOperation_t::CUBLAS_OP_N }
        };
        let (alpha, beta) = (1.0f32, 0.0f32);
        // SAFETY: `Product::new` has compared sizes and types with the tensors; alpha and beta are read before it returns.
        unsafe {
            gemm_ex(
                *self.blas.handle(),
                op(product.transpose_b),
                op(product.transpose_a),
                n as i32,
                m as i32,
                k as i32,
                (&raw const alpha).cast(),
                product.b,
                kind(product.of),
                row_b as i32,
                product.a,
                kind(product.of),
                row_a as i32,
                (&raw const beta).cast(),
                product.c,
                kind(product.to),
                n as i32,
                blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(|e| self.error(&format!("matrix product {m}x{n}x{k}"), &e))
    }
}

fn allocate(stream: &Arc<CudaStream>, bytes: usize) -> std::result::Result<Memory, String> {
    // SAFETY: what is read of it has been written by a kernel or a copy before; the emulated device checks that.
    let slice = unsafe { stream.alloc::<u8>(bytes.max(1)) }.map_err(|e| e.to_string())?;
    let address = slice.device_ptr(stream).0;
    Ok(Memory { slice, address })
}

impl Memory {
    pub fn bytes(&self) -> usize {
        self.slice.len()
    }

    pub fn address(&self) -> *mut c_void {
        self.address as *mut c_void
    }
}

impl Pinned {
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the whole of an allocation, all of it set; `&self` keeps it from being written meanwhile.
        unsafe { std::slice::from_raw_parts(self.address, self.len) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(self.address, self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.context.record_err(self.context.bind_to_thread());
        // SAFETY: this allocation, once; no copy reads it, since `Sending` waits for its own.
        self.context.record_err(unsafe { result::free_host(self.address.cast()) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_takes_machine_code_of_its_generation_or_ptx() {
        let image = |capability| image_for(capability, &[80, 86, 90], 80);
        assert_eq!(image(86).as_deref(), Some("sm_86"));
        assert_eq!(image(89).as_deref(), Some("sm_86"));
        assert_eq!(image(80).as_deref(), Some("sm_80"));
        assert_eq!(image(90).as_deref(), Some("sm_90"));
        assert_eq!(image(120).as_deref(), Some("PTX of compute_80"));
        assert_eq!(image(75), None);
        assert_eq!(version(12_040), "12.4");
    }

    #[test]
    fn everything_that_is_missing_has_its_own_line() {
        let whole =
            Machine { kernels: true, library: true, driver: Some(Ok(12_080)), blas: true, devices: Some(Ok(2)) };
        assert_eq!(whole.judge().unwrap(), (12_080, 2));
        for (machine, expected) in [
            (Machine { kernels: false, ..whole.clone() }, "this build holds no GPU kernels"),
            (Machine { library: false, driver: None, ..whole.clone() }, "no NVIDIA driver: libcuda.so is not there"),
            (
                Machine { driver: Some(Ok(11_040)), ..whole.clone() },
                "too old: it supports CUDA 11.4, this program needs 12.0",
            ),
            (Machine { driver: Some(Err("broken".into())), ..whole.clone() }, "does not say its version: broken"),
            (
                Machine { blas: false, ..whole.clone() },
                "cuBLAS is not there: neither libcublas.so nor libcublas.so.12; install it with CUDA",
            ),
            (Machine { devices: Some(Ok(0)), ..whole.clone() }, "no GPU that this process may use"),
            (Machine { devices: Some(Err("unknown error".into())), ..whole.clone() }, "does not start: unknown error"),
        ] {
            let text = machine.judge().unwrap_err().to_string();
            assert!(text.contains(expected) && !text.contains('\n'), "{text}");
        }
    }
}
