//! The GPU path: one launch interface over two backends, CUDA and the emulated device.
//!
//! A launch is (kernel name, grid, block, shared bytes, parameters) for every kernel; a kernel takes its parameter struct
//! (`kernels/include/params.h`, here in [`params`]) by value and nothing else. Everything runs in order on one stream, so a
//! buffer may be taken again as soon as it is dropped.

mod ahead;
mod cuda;
mod emulated;
mod gemm;
mod graph;
mod peaks;

pub use ahead::{Event, Pinned, Sending};
pub use cuda::count;
pub use gemm::Gemm;
pub use graph::{Graph, Plan};
pub use peaks::Peaks;

use crate::tensor::{DType, Tensor};
use crate::{Error, Result};
use bytemuck::NoUninit;
use cuda::Cuda;
use emulated::{Command, Emulated};
use gemm::Product;
use graph::Mode;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The Rust side of `kernels/include/params.h`, made by bindgen.
#[allow(missing_docs, rustdoc::all, clippy::all, clippy::undocumented_unsafe_blocks)]
pub mod params {
    include!(concat!(env!("OUT_DIR"), "/params.rs"));
}

// SAFETY: a plain C struct of addresses and numbers without padding, as its size in params.h shows.
unsafe impl NoUninit for params::AdamChunk {}
// SAFETY: as above.
unsafe impl NoUninit for params::AdamFactors {}
// SAFETY: as above.
unsafe impl NoUninit for params::GradientChunk {}
// SAFETY: as above.
unsafe impl NoUninit for params::GatherSample {}

/// What build.rs compiled for GPUs.
pub(crate) mod images {
    include!(concat!(env!("OUT_DIR"), "/images.rs"));
}

/// What the kernels of this build were compiled for: `sm_86` and so on, then PTX; empty in a build without nvcc.
pub fn compiled_kernels() -> Vec<String> {
    if images::IMAGES.is_empty() {
        return Vec::new();
    }
    let machine_code = images::ARCHITECTURES.iter().map(|arch| format!("sm_{arch}"));
    machine_code.chain([format!("PTX of compute_{}, by nvcc {}", images::PTX, images::COMPILER)]).collect()
}

/// Bytes of shared memory that a block may have on every GPU from sm_86 on.
const MOST_SHARED: u32 = 99 * 1024;

/// A GPU, real or emulated: a handle that clones cheaply.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    backend: Backend,
    pool: Mutex<Pool>,
    mode: Mutex<Mode>,
    /// The dropout step that kernels read, and what was last written to it.
    step: Mutex<Option<(Memory, u64)>>,
}

enum Backend {
    Cuda(Box<Cuda>),
    Emulated(Emulated),
}

/// Buffers that nobody uses at present.
#[derive(Default)]
struct Pool {
    free: Vec<Memory>,
    in_use: usize,
    free_bytes: usize,
    peak: usize,
}

/// An allocation of a backend, or a stand-in for one.
enum Memory {
    Cuda(cuda::Memory),
    Emulated(emulated::Memory),
    /// A stretch of a captured step's arena.
    Arena {
        arena: Arc<Buffer>,
        offset: usize,
        bytes: usize,
    },
    /// What a dry run gets: nothing is behind it.
    Planned {
        number: usize,
        bytes: usize,
    },
}

/// The shape of a launch.
#[derive(Debug, Clone, Copy)]
pub struct Launch {
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block, a multiple of 32.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

impl Launch {
    /// `blocks` blocks of `block` threads without shared memory.
    pub fn linear(blocks: usize, block: u32) -> Self {
        Self { grid: [u32::try_from(blocks).unwrap_or(u32::MAX).max(1), 1, 1], block, shared: 0 }
    }
}

/// Device memory that returns to its GPU's pool when dropped.
pub struct Buffer {
    memory: Option<Memory>,
    home: Gpu,
}

impl Gpu {
    /// GPU number `ordinal` of this machine.
    ///
    /// # Errors
    /// One line that says what is missing: compiled kernels, the driver, the device, a matching image.
    pub fn cuda(ordinal: u32) -> Result<Self> {
        Ok(Self::of(Backend::Cuda(Box::new(Cuda::new(ordinal)?))))
    }

    /// The host running the same kernels, checked: for tests.
    pub fn emulated() -> Self {
        Self::of(Backend::Emulated(Emulated::default()))
    }

    fn of(backend: Backend) -> Self {
        Self(Arc::new(Inner { backend, pool: Mutex::default(), mode: Mutex::default(), step: Mutex::default() }))
    }

    /// Device, architecture, driver and kernel image in one line.
    pub fn describe(&self) -> String {
        match &self.0.backend {
            Backend::Cuda(cuda) => cuda.describe(),
            Backend::Emulated(_) => format!("emulated GPU on {} threads", rayon::current_num_threads()),
        }
    }

    /// How many multiprocessors it has: so many blocks of a kernel that keeps sums in registers run side by side. Sums of
    /// partial sums are those of the GPU's model, not of every GPU. The emulated device has as many as an RTX A6000.
    pub fn multiprocessors(&self) -> usize {
        match &self.0.backend {
            Backend::Cuda(cuda) => cuda.multiprocessors(),
            Backend::Emulated(_) => 84,
        }
    }

    /// Whether this is the emulated device.
    pub fn is_emulated(&self) -> bool {
        matches!(self.0.backend, Backend::Emulated(_))
    }

    /// The emulated device runs the threads of a block from the last to the first where `reversed`: what depends on their
    /// order lacks a barrier. No effect on a real GPU.
    pub fn reverse_threads(&self, reversed: bool) {
        if let Backend::Emulated(emulated) = &self.0.backend {
            emulated.reverse_threads(reversed);
        }
    }

    /// Memory of `bytes` bytes whose content is arbitrary (on the emulated device: NaN, so that its use shows).
    ///
    /// # Errors
    /// Where the device has not that much left.
    pub fn take(&self, bytes: usize) -> Result<Buffer> {
        let memory = match self.mode().take(self, bytes)? {
            Some(memory) => memory,
            None => self.take_from_pool(bytes)?,
        };
        Ok(Buffer { memory: Some(memory), home: self.clone() })
    }

    fn take_from_pool(&self, bytes: usize) -> Result<Memory> {
        let mut pool = self.lock();
        let fitting = pool.free.iter().enumerate().filter(|(_, memory)| match memory {
            Memory::Cuda(_) => (bytes..=bytes + bytes / 4).contains(&memory.bytes()),
            _ => memory.bytes() == bytes, // emulated: the guard page follows right behind
        });
        let best = fitting.min_by_key(|(_, memory)| memory.bytes()).map(|(i, _)| i);
        let memory = match best.map(|i| pool.free.swap_remove(i)) {
            Some(memory) => {
                pool.free_bytes -= memory.bytes();
                memory
            }
            None => {
                // Shapes change with the batch: let go of what no longer fits before growing past the peak.
                while pool.in_use + pool.free_bytes + bytes > pool.peak {
                    let Some(memory) = pool.free.pop() else { break };
                    pool.free_bytes -= memory.bytes();
                }
                self.allocate(bytes, &mut pool)?
            }
        };
        pool.in_use += memory.bytes();
        pool.peak = pool.peak.max(pool.in_use);
        drop(pool);
        if let Memory::Emulated(_) = &memory {
            emulated::poison(memory.address(), bytes);
        }
        Ok(memory)
    }

    /// Gives the memory of all buffers that nobody uses back to the driver.
    pub fn release_unused(&self) {
        let mut pool = self.lock();
        pool.free.clear();
        pool.free_bytes = 0;
    }

    /// New memory; where there is none left, after all that lies idle has been given back.
    fn allocate(&self, bytes: usize, pool: &mut Pool) -> Result<Memory> {
        let allocate = || self.memory_of(bytes);
        match allocate() {
            Err(_) if !pool.free.is_empty() => {
                pool.free.clear();
                pool.free_bytes = 0;
                allocate()
            }
            result => result,
        }
        .map_err(|what| {
            let in_use = pool.in_use as f64 / f64::from(1 << 20);
            Error::failed(
                self.describe(),
                format_args!(
                    "no memory for {:.1} MiB more ({in_use:.1} MiB in use): {what}",
                    bytes as f64 / f64::from(1 << 20)
                ),
                "use a smaller data.batch_size or max_seq_len",
            )
        })
    }

    fn memory_of(&self, bytes: usize) -> std::result::Result<Memory, String> {
        match &self.0.backend {
            Backend::Cuda(cuda) => cuda.allocate(bytes).map(Memory::Cuda),
            Backend::Emulated(_) => emulated::Memory::new(bytes).map(Memory::Emulated),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.0.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mode(&self) -> MutexGuard<'_, Mode> {
        self.0.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of all buffers now in use, and the most that ever were.
    pub fn memory(&self) -> (usize, usize) {
        let pool = self.lock();
        (pool.in_use, pool.peak)
    }

    /// A tensor whose content is arbitrary: a kernel is to write every element.
    ///
    /// # Errors
    /// Where memory runs out.
    pub fn tensor(&self, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let buffer = self.take(shape.iter().product::<usize>() * dtype.bytes())?;
        Ok(Tensor::from_gpu(shape, dtype, buffer))
    }

    /// Zeros.
    ///
    /// # Errors
    /// Where memory runs out.
    pub fn zeros(&self, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let buffer = self.take(shape.iter().product::<usize>() * dtype.bytes())?;
        self.fill_zero(&buffer)?;
        Ok(Tensor::from_gpu(shape, dtype, buffer))
    }

    /// Sets all bytes of a buffer to zero.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn fill_zero(&self, buffer: &Buffer) -> Result<()> {
        let (address, bytes) = (buffer.address(), buffer.bytes());
        if self.mode().defers(|| Command::Zero { address, bytes }) {
            return Ok(());
        }
        match &self.0.backend {
            Backend::Cuda(cuda) => cuda.fill_zero(address, bytes),
            Backend::Emulated(_) => {
                emulated::zero(address, bytes);
                Ok(())
            }
        }
    }

    /// A buffer with a copy of `values`.
    ///
    /// # Errors
    /// Where memory runs out; within a captured step, which must not depend on the host.
    pub fn upload<T: NoUninit>(&self, values: &[T]) -> Result<Buffer> {
        let buffer = self.take(size_of_val(values))?;
        self.write(&buffer, values)?;
        Ok(buffer)
    }

    /// Copies `values` to the start of a buffer.
    ///
    /// # Errors
    /// What the driver reports; within a captured step, which must not depend on the host.
    pub fn write<T: NoUninit>(&self, buffer: &Buffer, values: &[T]) -> Result<()> {
        self.write_at(buffer, 0, values)
    }

    /// Copies `values` into a buffer from byte `offset` on.
    ///
    /// # Errors
    /// As [`Gpu::write`].
    pub fn write_at<T: NoUninit>(&self, buffer: &Buffer, offset: usize, values: &[T]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        assert!(offset + bytes.len() <= buffer.bytes(), "{} bytes at {offset} of {}", bytes.len(), buffer.bytes());
        self.mode().check_host_access(self)?;
        self.write_bytes(buffer.address().wrapping_byte_add(offset), bytes)
    }

    fn write_bytes(&self, address: *mut c_void, bytes: &[u8]) -> Result<()> {
        match &self.0.backend {
            Backend::Cuda(cuda) => cuda.upload(address, bytes),
            Backend::Emulated(_) => {
                emulated::write(address, bytes);
                Ok(())
            }
        }
    }

    /// A table that kernels of this launch or, within a captured step, of every replay read.
    ///
    /// # Errors
    /// Where memory runs out.
    pub fn table<T: NoUninit>(&self, values: &[T]) -> Result<Arc<Buffer>> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let mut mode = self.mode();
        let memory = match &mut *mode {
            Mode::Run => {
                drop(mode);
                return Ok(Arc::new(self.upload(values)?));
            }
            Mode::Plan(_) => Memory::Planned { number: usize::MAX, bytes: bytes.len() },
            Mode::Capture(_) => {
                let memory = self.memory_beside(bytes)?;
                self.lock().in_use += memory.bytes();
                memory
            }
        };
        let table = Arc::new(Buffer { memory: Some(memory), home: self.clone() });
        if let Mode::Capture(capture) = &mut *mode {
            capture.tables.push(table.clone());
        }
        Ok(table)
    }

    /// Memory with that content, made while the stream is being captured.
    fn memory_beside(&self, bytes: &[u8]) -> Result<Memory> {
        match &self.0.backend {
            Backend::Cuda(cuda) => cuda.memory_beside(bytes).map(Memory::Cuda),
            Backend::Emulated(_) => {
                let memory = emulated::Memory::new(bytes.len()).map_err(|what| {
                    Error::failed(self.describe(), format_args!("no memory for a table: {what}"), "free memory")
                })?;
                emulated::write(memory.address(), bytes);
                Ok(Memory::Emulated(memory))
            }
        }
    }

    /// Where kernels find the number of the dropout step, low and high word; writes it there where it is another than
    /// before. What was launched before still reads the one before.
    ///
    /// # Errors
    /// Where memory runs out, or within a captured step whose number was not written before it.
    pub fn step_words(&self, step: u64) -> Result<*const u32> {
        if self.mode().is_planning() {
            return Ok(std::ptr::null());
        }
        let mut cell = self.0.step.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((memory, written)) = &*cell
            && *written == step
        {
            return Ok(memory.address().cast_const().cast());
        }
        self.mode().check_host_access(self)?;
        let memory = match cell.take() {
            Some((memory, _)) => memory,
            None => self.memory_of(8).map_err(|what| {
                Error::failed(self.describe(), format_args!("no memory for 8 bytes: {what}"), "free memory")
            })?,
        };
        let words = [step as u32, (step >> 32) as u32];
        self.write_bytes(memory.address(), bytemuck::cast_slice(&words))?;
        let address = memory.address().cast_const().cast();
        *cell = Some((memory, step));
        Ok(address)
    }

    /// A copy of a buffer.
    ///
    /// # Errors
    /// Where memory runs out.
    pub fn copied(&self, buffer: &Buffer) -> Result<Buffer> {
        let copy = self.take(buffer.bytes())?;
        self.copy(buffer, &copy)?;
        Ok(copy)
    }

    /// Copies `from` to the start of `to`.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn copy(&self, from: &Buffer, to: &Buffer) -> Result<()> {
        assert!(from.bytes() <= to.bytes(), "{} bytes into {}", from.bytes(), to.bytes());
        let (from, to, bytes) = (from.address(), to.address(), from.bytes());
        if self.mode().defers(|| Command::Copy { from, to, bytes }) {
            return Ok(());
        }
        match &self.0.backend {
            Backend::Cuda(cuda) => cuda.copy(from, to, bytes),
            Backend::Emulated(_) => {
                emulated::copy(from, to, bytes);
                Ok(())
            }
        }
    }

    /// The first `len` elements of a buffer, once everything before has run.
    ///
    /// # Errors
    /// What the driver reports, of this copy or of a kernel before it; within a captured step, which must not wait.
    pub fn download<T: bytemuck::Pod>(&self, buffer: &Buffer, len: usize) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); len];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
        assert!(bytes.len() <= buffer.bytes(), "{} bytes from {}", bytes.len(), buffer.bytes());
        self.mode().check_host_access(self)?;
        match &self.0.backend {
            Backend::Cuda(cuda) => cuda.download(buffer.address(), bytes)?,
            Backend::Emulated(_) => emulated::read(buffer.address(), bytes),
        }
        Ok(values)
    }

    /// Launches `kernel` with its parameters.
    ///
    /// # Errors
    /// Kernel, launch and architecture with what the driver or the emulated device's checks report.
    pub fn launch<P: Copy>(&self, kernel: &str, launch: Launch, params: &P) -> Result<()> {
        let planning = self.mode().is_planning();
        if let (true, Backend::Cuda(cuda)) = (planning, &self.0.backend) {
            return cuda.prepare(kernel);
        }
        if self.mode().defers(|| Command::launch(kernel, launch, params)) {
            return Ok(());
        }
        match &self.0.backend {
            Backend::Cuda(cuda) => cuda.launch(kernel, launch, params),
            Backend::Emulated(emulated) => emulated.launch(kernel, launch, params),
        }
    }

    /// Launches the kernel's variant for activations of type `dtype`: `name_f32` or `name_bf16`.
    ///
    /// # Errors
    /// See [`Gpu::launch`].
    pub fn launch_for<P: Copy>(&self, name: &str, dtype: DType, launch: Launch, params: &P) -> Result<()> {
        self.launch(&format!("{name}_{}", dtype.suffix()), launch, params)
    }

    /// A matrix product.
    ///
    /// # Errors
    /// What cuBLAS reports.
    pub fn gemm(&self, gemm: &Gemm<'_>, c: &mut Tensor) -> Result<()> {
        let product = Product::new(gemm, c);
        let planning = self.mode().is_planning();
        if let (true, Backend::Cuda(cuda)) = (planning, &self.0.backend) {
            return self.rehearse(cuda, product);
        }
        if self.mode().defers(|| Command::Gemm(product)) {
            return Ok(());
        }
        match &self.0.backend {
            Backend::Cuda(cuda) => cuda.gemm(&product),
            Backend::Emulated(_) => {
                emulated::gemm(&product);
                Ok(())
            }
        }
    }

    /// Computes a planned product of whatever lies in memory, so that cuBLAS has loaded its kernel before the capture.
    fn rehearse(&self, cuda: &Cuda, product: Product) -> Result<()> {
        let Product { m, n, k, of, to, .. } = product;
        let buffer = |len: usize, dtype: DType| {
            Ok::<_, Error>(Buffer { memory: Some(self.take_from_pool(len * dtype.bytes())?), home: self.clone() })
        };
        let (a, b, c) = (buffer(m * k, of)?, buffer(k * n, of)?, buffer(m * n, to)?);
        cuda.gemm(&Product { a: a.address(), b: b.address(), c: c.address(), ..product })
    }

    /// Waits until everything has run.
    ///
    /// # Errors
    /// What the driver reports of it.
    pub fn synchronize(&self) -> Result<()> {
        self.mode().check_host_access(self)?;
        match &self.0.backend {
            Backend::Cuda(cuda) => cuda.synchronize(),
            Backend::Emulated(_) => Ok(()),
        }
    }

    /// Seconds that the device takes for what `work` launches, by its own clock.
    ///
    /// # Errors
    /// Those of `work`, and what the driver reports.
    pub fn time(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        match &self.0.backend {
            Backend::Cuda(cuda) => cuda.time(work),
            Backend::Emulated(_) => {
                let start = Instant::now();
                work()?;
                Ok(start.elapsed().as_secs_f64())
            }
        }
    }

    /// Bytes that the kernels launched so far moved by vector accesses; counted on the emulated device only.
    pub fn bytes_moved(&self) -> Option<u64> {
        match &self.0.backend {
            Backend::Cuda(_) => None,
            Backend::Emulated(emulated) => Some(emulated.bytes_moved()),
        }
    }
}

impl Memory {
    fn bytes(&self) -> usize {
        match self {
            Self::Cuda(memory) => memory.bytes(),
            Self::Emulated(memory) => memory.bytes(),
            Self::Arena { bytes, .. } | Self::Planned { bytes, .. } => *bytes,
        }
    }

    fn address(&self) -> *mut c_void {
        match self {
            Self::Cuda(memory) => memory.address(),
            Self::Emulated(memory) => memory.address(),
            Self::Arena { arena, offset, .. } => arena.address().wrapping_byte_add(*offset),
            Self::Planned { .. } => std::ptr::null_mut(),
        }
    }
}

impl Buffer {
    fn memory(&self) -> &Memory {
        match &self.memory {
            Some(memory) => memory,
            None => unreachable!("a buffer has its memory until it is dropped"),
        }
    }

    /// The GPU that it belongs to.
    pub fn home(&self) -> &Gpu {
        &self.home
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.memory().bytes()
    }

    /// Its device address, for parameter structs.
    pub fn address(&self) -> *mut c_void {
        self.memory().address()
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes of a GPU", self.bytes())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        match self.memory.take() {
            None | Some(Memory::Arena { .. }) => {}
            Some(Memory::Planned { number, .. }) => self.home.mode().dropped(number),
            Some(memory) => {
                let mut pool = self.home.lock();
                pool.in_use -= memory.bytes();
                pool.free_bytes += memory.bytes();
                pool.free.push(memory);
            }
        }
    }
}
