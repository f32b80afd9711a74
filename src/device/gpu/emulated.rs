//! The emulated device: kernels compiled by the host's compiler, blocks spread over threads, every access checked
//! (`kernels/emulate/`).

use super::gemm::Product;
use super::{Launch, MOST_SHARED};
use crate::device::cpu::{Mat, MatMut};
use crate::tensor::DType;
use crate::{Error, Result};
use half::bf16;
use rayon::prelude::*;
use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

// SAFETY: declared as kernels/emulate/emulate.cpp defines them.
unsafe extern "C" {
    fn emberformer_emulate_alloc(bytes: usize) -> *mut c_void;
    fn emberformer_emulate_free(address: *mut c_void, bytes: usize);
    fn emberformer_emulate_find(name: *const c_char, params_size: *mut usize, max_threads: *mut u32) -> bool;
    fn emberformer_emulate_run(
        name: *const c_char,
        grid: *const u32,
        threads: u32,
        shared: u32,
        params: *const c_void,
        first: u64,
        last: u64,
        reversed: bool,
        message: *mut c_char,
        message_size: usize,
        moved: *mut u64,
    ) -> bool;
}

#[derive(Default)]
pub struct Emulated {
    reversed: AtomicBool,
    moved: AtomicU64,
}

/// Host memory between guard pages.
pub struct Memory {
    address: *mut c_void,
    bytes: usize,
}

// SAFETY: plain memory, owned; who accesses it when is for the launches to say, as on a GPU.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// One command of recorded work.
pub enum Command {
    Launch {
        kernel: String,
        launch: Launch,
        /// Words, so that the struct in them is aligned.
        params: Vec<u64>,
        size: usize,
    },
    Gemm(Product),
    Zero {
        address: *mut c_void,
        bytes: usize,
    },
    Copy {
        from: *mut c_void,
        to: *mut c_void,
        bytes: usize,
    },
    /// A buffer begins its life.
    Poison {
        address: *mut c_void,
        bytes: usize,
    },
}

// SAFETY: addresses of plain memory, see `Memory`.
unsafe impl Send for Command {}

impl Command {
    pub fn launch<P: Copy>(kernel: &str, launch: Launch, params: &P) -> Self {
        let mut words = vec![0u64; size_of::<P>().div_ceil(8)];
        assert!(align_of::<P>() <= 8, "a parameter struct is aligned to 8 bytes at most");
        // SAFETY: the words have room for the struct, a plain C struct without invariants.
        unsafe {
            std::ptr::copy_nonoverlapping((&raw const *params).cast::<u8>(), words.as_mut_ptr().cast(), size_of::<P>())
        };
        Self::Launch { kernel: kernel.to_string(), launch, params: words, size: size_of::<P>() }
    }
}

/// A parameter struct, for the threads that run blocks.
struct Params(*const c_void);

// SAFETY: it points at a struct that lives, unchanged, until the launch is over.
unsafe impl Sync for Params {}

impl Emulated {
    pub fn reverse_threads(&self, reversed: bool) {
        self.reversed.store(reversed, Ordering::Relaxed);
    }

    pub fn bytes_moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    pub fn launch<P: Copy>(&self, kernel: &str, launch: Launch, params: &P) -> Result<()> {
        self.launch_raw(kernel, launch, (&raw const *params).cast(), size_of::<P>())
    }

    /// One command of recorded work.
    pub fn run(&self, command: &Command) -> Result<()> {
        match command {
            Command::Launch { kernel, launch, params, size } => {
                self.launch_raw(kernel, *launch, params.as_ptr().cast(), *size)?;
            }
            Command::Gemm(product) => gemm(product),
            Command::Zero { address, bytes } => zero(*address, *bytes),
            Command::Copy { from, to, bytes } => copy(*from, *to, *bytes),
            Command::Poison { address, bytes } => poison(*address, *bytes),
        }
        Ok(())
    }

    /// `params` points at a struct of `size` bytes.
    fn launch_raw(&self, kernel: &str, launch: Launch, params: *const c_void, size: usize) -> Result<()> {
        let complain = |what: String| {
            Err(Error::failed(
                "emulated GPU",
                format_args!("{kernel} {launch:?}: {what}"),
                "this is a bug; please report it",
            ))
        };
        let Ok(name) = CString::new(kernel) else { return complain("a name with a zero byte".into()) };
        let (mut params_size, mut max_threads) = (0, 0);
        // SAFETY: the name ends with a zero byte; both results are written or left.
        if !unsafe { emberformer_emulate_find(name.as_ptr(), &raw mut params_size, &raw mut max_threads) } {
            return complain("no such kernel".into());
        }
        if params_size != size {
            return complain(format!("parameters of {size} bytes, the kernel takes {params_size}"));
        }
        if launch.block == 0 || launch.block > max_threads || !launch.block.is_multiple_of(32) {
            return complain(format!("a block must have a multiple of 32 threads, {max_threads} at most"));
        }
        if launch.shared > MOST_SHARED {
            return complain(format!("{MOST_SHARED} bytes of shared memory are the most"));
        }
        if launch.grid[1].max(launch.grid[2]) > 65_535 || launch.grid.contains(&0) {
            return complain("a grid has 1 to 65535 blocks along y and z".into());
        }
        let blocks = launch.grid.iter().map(|n| u64::from(*n)).product::<u64>();
        let chunk = blocks.div_ceil(4 * rayon::current_num_threads() as u64).max(1);
        let params = Params(params);
        let run = |i: u64| {
            let params = &params;
            let (mut message, mut moved) = ([0 as c_char; 512], 0);
            // SAFETY: the kernel exists and takes a struct of this size; grid and message have the lengths that are named.
            let done = unsafe {
                emberformer_emulate_run(
                    name.as_ptr(),
                    launch.grid.as_ptr(),
                    launch.block,
                    launch.shared,
                    params.0,
                    i * chunk,
                    blocks.min((i + 1) * chunk),
                    self.reversed.load(Ordering::Relaxed),
                    message.as_mut_ptr(),
                    message.len(),
                    &raw mut moved,
                )
            };
            self.moved.fetch_add(moved, Ordering::Relaxed);
            // SAFETY: a failed run has left a message that ends with a zero byte.
            if done { Ok(()) } else { Err(unsafe { CStr::from_ptr(message.as_ptr()) }.to_string_lossy().into_owned()) }
        };
        match (0..blocks.div_ceil(chunk)).into_par_iter().map(run).collect::<std::result::Result<Vec<()>, String>>() {
            Ok(_) => Ok(()),
            Err(what) => complain(what),
        }
    }
}

impl Memory {
    pub fn new(bytes: usize) -> std::result::Result<Self, String> {
        // SAFETY: any number of bytes may be asked for.
        let address = unsafe { emberformer_emulate_alloc(bytes) };
        if address.is_null() { Err("the host has no memory left".into()) } else { Ok(Self { address, bytes }) }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn address(&self) -> *mut c_void {
        self.address
    }
}

/// Fills memory with bytes that are NaN as float and bf16.
pub fn poison(address: *mut c_void, bytes: usize) {
    // SAFETY: the whole of a buffer of this length.
    unsafe { std::ptr::write_bytes(address.cast::<u8>(), 0xff, bytes) };
}

pub fn zero(address: *mut c_void, bytes: usize) {
    // SAFETY: the whole of a buffer of this length.
    unsafe { std::ptr::write_bytes(address.cast::<u8>(), 0, bytes) };
}

pub fn copy(from: *mut c_void, to: *mut c_void, bytes: usize) {
    // SAFETY: within two buffers, which do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(from.cast::<u8>(), to.cast(), bytes) };
}

pub fn write(address: *mut c_void, bytes: &[u8]) {
    // SAFETY: within the buffer, which overlaps no Rust slice.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address.cast(), bytes.len()) };
}

pub fn read(address: *mut c_void, bytes: &mut [u8]) {
    // SAFETY: within the buffer, which overlaps no Rust slice.
    unsafe { std::ptr::copy_nonoverlapping(address.cast(), bytes.as_mut_ptr(), bytes.len()) };
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: this allocation, once.
        unsafe { emberformer_emulate_free(self.address, self.bytes) };
    }
}

/// What the host has left, as Linux says; no limit elsewhere.
pub fn free_memory() -> usize {
    let kibibytes = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()
    };
    std::fs::read_to_string("/proc/meminfo").ok().and_then(kibibytes).map_or(usize::MAX, |n| n.saturating_mul(1024))
}

/// `len` elements as float.
fn values(address: *const c_void, dtype: DType, len: usize) -> Vec<f32> {
    if dtype == DType::BF16 {
        // SAFETY: an operand of a checked product, of so many elements.
        unsafe { std::slice::from_raw_parts(address.cast::<bf16>(), len) }.iter().map(|x| x.to_f32()).collect()
    } else {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(address.cast::<f32>(), len) }.to_vec()
    }
}

/// The product in float, rounded to C's type.
pub fn gemm(product: &Product) {
    let [row_a, row_b] = product.strides();
    let Product { of, m, n, k, transpose_a, transpose_b, .. } = *product;
    let (a, b) = (values(product.a, of, m * k), values(product.b, of, k * n));
    let [ra, ca] = if transpose_a { [k, m] } else { [m, k] };
    let [rb, cb] = if transpose_b { [n, k] } else { [k, n] };
    let (a, b) = (Mat::new(&a, (ra, ca), row_a, 1), Mat::new(&b, (rb, cb), row_b, 1));
    let (a, b) = (if transpose_a { a.t() } else { a }, if transpose_b { b.t() } else { b });
    let mut sums = vec![0.0f32; m * n];
    crate::device::cpu::gemm(MatMut::of_row_major_t(&mut sums, n, m), b.t(), a.t(), false);
    if product.to == DType::BF16 {
        // SAFETY: C has m·n elements, as `Product::new` has seen.
        let to = unsafe { std::slice::from_raw_parts_mut(product.c.cast::<bf16>(), m * n) };
        to.iter_mut().zip(sums).for_each(|(to, value)| *to = bf16::from_f32(value));
    } else {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(product.c.cast::<f32>(), m * n) }.copy_from_slice(&sums);
    }
}
