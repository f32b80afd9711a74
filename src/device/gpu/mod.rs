//! The GPU path: one launch interface over two backends, CUDA and the emulated device.
//!
//! A launch is (kernel name, grid, block, shared bytes, parameters) for every kernel; a kernel takes its parameter struct
//! (`kernels/include/params.h`, here in [`params`]) by value and nothing else. Everything runs in order on one stream, so a
//! buffer may be taken again as soon as it is dropped.

mod ahead;
mod cuda;
mod emulated;
mod gemm;

pub use ahead::{Event, Pinned, Sending};
pub use cuda::count;
pub use gemm::Gemm;

use crate::tensor::{DType, Tensor};
use crate::{Error, Result};
use bytemuck::NoUninit;
use cuda::Cuda;
use emulated::Emulated;
use std::sync::{Arc, Mutex, PoisonError};

/// The Rust side of `kernels/include/params.h`, made by bindgen.
#[allow(missing_docs, rustdoc::all, clippy::all, clippy::undocumented_unsafe_blocks)]
pub mod params {
    include!(concat!(env!("OUT_DIR"), "/params.rs"));
}

// SAFETY: a plain C struct of addresses and numbers without padding, as its size in params.h shows.
unsafe impl NoUninit for params::AdamChunk {}
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
}

enum Backend {
    Cuda(Cuda),
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

/// An allocation of a backend.
enum Memory {
    Cuda(cuda::Memory),
    Emulated(emulated::Memory),
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
        Ok(Self::of(Backend::Cuda(Cuda::new(ordinal)?)))
    }

    /// The host running the same kernels, checked: for tests.
    pub fn emulated() -> Self {
        Self::of(Backend::Emulated(Emulated::default()))
    }

    fn of(backend: Backend) -> Self {
        Self(Arc::new(Inner { backend, pool: Mutex::default() }))
    }

    /// Device, architecture, driver and kernel image in one line.
    pub fn describe(&self) -> String {
        match &self.0.backend {
            Backend::Cuda(cuda) => cuda.describe(),
            Backend::Emulated(_) => format!("emulated GPU on {} threads", rayon::current_num_threads()),
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
        let mut pool = self.lock();
        let fitting = pool.free.iter().enumerate().filter(|(_, memory)| match memory {
            Memory::Cuda(_) => (bytes..=bytes + bytes / 4).contains(&memory.bytes()),
            Memory::Emulated(_) => memory.bytes() == bytes, // the guard page follows right behind
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
        if let Memory::Emulated(memory) = &memory {
            memory.poison();
        }
        Ok(Buffer { memory: Some(memory), home: self.clone() })
    }

    /// New memory; where there is none left, after all that lies idle has been given back.
    fn allocate(&self, bytes: usize, pool: &mut Pool) -> Result<Memory> {
        let allocate = || match &self.0.backend {
            Backend::Cuda(cuda) => cuda.allocate(bytes).map(Memory::Cuda),
            Backend::Emulated(_) => emulated::Memory::new(bytes).map(Memory::Emulated),
        };
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

    fn lock(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.0.pool.lock().unwrap_or_else(PoisonError::into_inner)
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
        match (&self.0.backend, buffer.memory()) {
            (Backend::Cuda(cuda), Memory::Cuda(memory)) => cuda.fill_zero(memory),
            (_, Memory::Emulated(memory)) => {
                memory.write(&vec![0u8; memory.bytes()]);
                Ok(())
            }
            (Backend::Emulated(_), Memory::Cuda(_)) => unreachable!("a buffer of another device"),
        }
    }

    /// A buffer with a copy of `values`.
    ///
    /// # Errors
    /// Where memory runs out.
    pub fn upload<T: NoUninit>(&self, values: &[T]) -> Result<Buffer> {
        let buffer = self.take(size_of_val(values))?;
        self.write_at(&buffer, 0, values)?;
        Ok(buffer)
    }

    /// Copies `values` into a buffer from byte `offset` on.
    ///
    /// # Errors
    /// What the driver reports.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn write_at<T: NoUninit>(&self, buffer: &Buffer, offset: usize, values: &[T]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        match (&self.0.backend, buffer.memory()) {
            (Backend::Cuda(cuda), Memory::Cuda(memory)) => cuda.upload(memory, offset, bytes),
            (_, Memory::Emulated(memory)) => {
                memory.write_at(offset, bytes);
                Ok(())
            }
            (Backend::Emulated(_), Memory::Cuda(_)) => unreachable!("a buffer of another device"),
        }
    }

    /// A copy of a buffer.
    ///
    /// # Errors
    /// Where memory runs out.
    pub fn copied(&self, buffer: &Buffer) -> Result<Buffer> {
        let copy = self.take(buffer.memory().bytes())?;
        match (&self.0.backend, buffer.memory(), copy.memory()) {
            (Backend::Cuda(cuda), Memory::Cuda(from), Memory::Cuda(to)) => cuda.copy(from, to)?,
            (_, Memory::Emulated(from), Memory::Emulated(to)) => to.copy(from),
            _ => unreachable!("a buffer of another device"),
        }
        Ok(copy)
    }

    /// The first `len` elements of a buffer, once everything before has run.
    ///
    /// # Errors
    /// What the driver reports, of this copy or of a kernel before it.
    pub fn download<T: bytemuck::Pod>(&self, buffer: &Buffer, len: usize) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); len];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
        match (&self.0.backend, buffer.memory()) {
            (Backend::Cuda(cuda), Memory::Cuda(memory)) => cuda.download(memory, bytes)?,
            (_, Memory::Emulated(memory)) => memory.read(bytes),
            (Backend::Emulated(_), Memory::Cuda(_)) => unreachable!("a buffer of another device"),
        }
        Ok(values)
    }

    /// Launches `kernel` with its parameters.
    ///
    /// # Errors
    /// Kernel, launch and architecture with what the driver or the emulated device's checks report.
    pub fn launch<P: Copy>(&self, kernel: &str, launch: Launch, params: &P) -> Result<()> {
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
        gemm.check(c);
        match &self.0.backend {
            Backend::Cuda(cuda) => cuda.gemm(gemm, c),
            Backend::Emulated(_) => {
                emulated::gemm(gemm, c);
                Ok(())
            }
        }
    }

    /// Waits until everything has run.
    ///
    /// # Errors
    /// What the driver reports of it.
    pub fn synchronize(&self) -> Result<()> {
        match &self.0.backend {
            Backend::Cuda(cuda) => cuda.synchronize(),
            Backend::Emulated(_) => Ok(()),
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
    pub fn address(&self) -> *mut std::ffi::c_void {
        match self.memory() {
            Memory::Cuda(memory) => memory.address(),
            Memory::Emulated(memory) => memory.address(),
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes of a GPU", self.memory().bytes())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(memory) = self.memory.take() else { return };
        let mut pool = self.home.lock();
        pool.in_use -= memory.bytes();
        pool.free_bytes += memory.bytes();
        pool.free.push(memory);
    }
}
