//! Where a bench runs: EMBERFORMER_BENCH_DEVICE (cpu, cuda:0; default cpu), with activations in EMBERFORMER_BENCH_PRECISION
//! (float32 or bfloat16; default float32 on the CPU, bfloat16 on a GPU).

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

/// Waits until the device has done everything.
fn synchronize(device: &Device) {
    if let Device::Gpu(gpu) = device {
        gpu.synchronize().expect("what the GPU was given runs");
    }
}

/// Time of `n` runs, each of an input that `make` makes outside of it. A GPU gets as many runs in a row as their inputs, of
/// `bytes` each, fit in 1 GiB, so that its queue never runs dry.
pub fn timed<I, O>(
    device: &Device,
    n: u64,
    bytes: usize,
    make: impl Fn() -> I,
    mut run: impl FnMut(I) -> O,
) -> Duration {
    let in_a_row = match device {
        Device::Cpu(_) => 1,
        Device::Gpu(_) => ((1 << 30) / bytes.max(1)).max(1) as u64,
    };
    let (mut total, mut left) = (Duration::ZERO, n);
    while left > 0 {
        let inputs: Vec<I> = (0..left.min(in_a_row)).map(|_| make()).collect();
        left -= inputs.len() as u64;
        synchronize(device);
        let start = Instant::now();
        for input in inputs {
            black_box(run(input));
        }
        synchronize(device);
        total += start.elapsed();
    }
    total
}
