//! The emulated device: kernels compiled by the host's compiler, blocks spread over threads, every access checked
//! (`kernels/emulate/`).

use super::{Gemm, Launch, MOST_SHARED};
use crate::device::cpu::{Mat, MatMut};
use crate::tensor::{DType, Tensor};
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
        if params_size != size_of::<P>() {
            return complain(format!("parameters of {} bytes, the kernel takes {params_size}", size_of::<P>()));
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
        let params = Params((&raw const *params).cast());
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

    /// Fills it with bytes that are NaN as float and bf16.
    pub fn poison(&self) {
        // SAFETY: the whole of an allocation of this length.
        unsafe { std::ptr::write_bytes(self.address.cast::<u8>(), 0xff, self.bytes) };
    }

    /// Takes over the bytes of `from`, as many as fit.
    pub fn copy(&self, from: &Self) {
        // SAFETY: within both allocations, which do not overlap.
        unsafe {
            std::ptr::copy_nonoverlapping(from.address.cast::<u8>(), self.address.cast(), self.bytes.min(from.bytes))
        };
    }

    pub fn write(&self, bytes: &[u8]) {
        self.write_at(0, bytes);
    }

    pub fn write_at(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.bytes, "{} bytes at {offset} of {}", bytes.len(), self.bytes);
        // SAFETY: within the allocation, which overlaps no Rust slice.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.address.cast::<u8>().add(offset), bytes.len()) };
    }

    pub fn read(&self, bytes: &mut [u8]) {
        assert!(bytes.len() <= self.bytes, "{} bytes from {}", bytes.len(), self.bytes);
        // SAFETY: within the allocation, which overlaps no Rust slice.
        unsafe { std::ptr::copy_nonoverlapping(self.address.cast(), bytes.as_mut_ptr(), bytes.len()) };
    }
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

/// The elements of a tensor of the emulated device as float.
fn values(tensor: &Tensor) -> Vec<f32> {
    let (address, len) = (tensor.gpu_address(), tensor.len());
    if tensor.dtype() == DType::BF16 {
        // SAFETY: a tensor's memory holds as many elements as its shape says.
        unsafe { std::slice::from_raw_parts(address.cast::<bf16>(), len) }.iter().map(|x| x.to_f32()).collect()
    } else {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(address.cast::<f32>(), len) }.to_vec()
    }
}

/// The product in float, rounded to C's type.
pub fn gemm(gemm: &Gemm<'_>, c: &mut Tensor) {
    let [row_a, row_b] = gemm.strides();
    let Gemm { m, n, k, .. } = *gemm;
    let (a, b) = (values(gemm.a), values(gemm.b));
    let [ra, ca] = if gemm.transpose_a { [k, m] } else { [m, k] };
    let [rb, cb] = if gemm.transpose_b { [n, k] } else { [k, n] };
    let (a, b) = (Mat::new(&a, (ra, ca), row_a, 1), Mat::new(&b, (rb, cb), row_b, 1));
    let (a, b) = (if gemm.transpose_a { a.t() } else { a }, if gemm.transpose_b { b.t() } else { b });
    let mut product = vec![0.0f32; m * n];
    crate::device::cpu::gemm(MatMut::of_row_major_t(&mut product, n, m), b.t(), a.t(), false);
    let address = c.gpu_address();
    if c.dtype() == DType::BF16 {
        // SAFETY: a tensor's memory holds as many elements as its shape says, m·n as `Gemm::check` has seen.
        let to = unsafe { std::slice::from_raw_parts_mut(address.cast::<bf16>(), m * n) };
        to.iter_mut().zip(product).for_each(|(to, value)| *to = bf16::from_f32(value));
    } else {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(address.cast::<f32>(), m * n) }.copy_from_slice(&product);
    }
}
