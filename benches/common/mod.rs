//! Where a bench runs: EMBERFORMER_BENCH_DEVICE (cpu, cuda:0; default cpu), with activations in EMBERFORMER_BENCH_PRECISION
//! (float32 or bfloat16; default float32 on the CPU, bfloat16 on a GPU), for the batches of EMBERFORMER_BENCH_BATCHES.

use emberformer::device::Device;
use emberformer::tensor::DType;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Device and type of the activations.
pub fn setup() -> (Device, DType) {
    let device = std::env::var("EMBERFORMER_BENCH_DEVICE").unwrap_or_else(|_| "cpu".into());
    let device = Device::parse(&device).expect("the device of EMBERFORMER_BENCH_DEVICE");
    let on_gpu = matches!(device, Device::Gpu(_));
    let dtype = match std::env::var("EMBERFORMER_BENCH_PRECISION").as_deref() {
        Ok("float32") => DType::F32,
        Ok("bfloat16") if on_gpu => DType::BF16,
        Err(_) if on_gpu => DType::BF16,
        Err(_) => DType::F32,
        Ok(other) => panic!("EMBERFORMER_BENCH_PRECISION is {other}; give float32, or bfloat16 on a GPU"),
    };
    (device, dtype)
}

/// Batch sizes: those of EMBERFORMER_BENCH_BATCHES (as 4,16,64, the default on a GPU; 4 on the CPU).
pub fn batches() -> Vec<usize> {
    let on_gpu = matches!(setup().0, Device::Gpu(_));
    let text = std::env::var("EMBERFORMER_BENCH_BATCHES");
    let text = text.unwrap_or_else(|_| if on_gpu { "4,16,64" } else { "4" }.into());
    text.split(',').map(|n| n.trim().parse().expect("EMBERFORMER_BENCH_BATCHES as in 4,16,64")).collect()
}

/// Time of `n` runs on the CPU, each of an input that `make` makes outside of it.
pub fn timed<I, O>(n: u64, make: impl Fn() -> I, mut run: impl FnMut(I) -> O) -> Duration {
    let mut total = Duration::ZERO;
    for _ in 0..n {
        let input = make();
        let start = Instant::now();
        black_box(run(input));
        total += start.elapsed();
    }
    total
}
